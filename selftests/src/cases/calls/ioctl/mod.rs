// SPDX-License-Identifier: GPL-2.0

//! The ioctls of every vhost device, and `NET_SET_BACKEND`.

pub(crate) mod features;
pub(crate) mod memory;
pub(crate) mod owner;
pub(crate) mod vring;
