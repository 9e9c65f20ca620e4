// SPDX-License-Identifier: GPL-2.0

//! Rings: indexes, notifications, and the order of used elements.

pub(crate) mod wrap;
pub(crate) mod base;
pub(crate) mod events;
pub(crate) mod in_order;
