// SPDX-License-Identifier: GPL-2.0

//! Devices, owners and the module come, change and go.

pub(crate) mod life;
pub(crate) mod soak;
pub(crate) mod stress;
pub(crate) mod module;
pub(crate) mod live;
pub(crate) mod kill;
