// SPDX-License-Identifier: GPL-2.0

//! Rings: indexes, notifications, the order of used elements, and the formats.

pub(crate) mod wrap;
pub(crate) mod base;
pub(crate) mod events;
pub(crate) mod format;
pub(crate) mod in_order;
