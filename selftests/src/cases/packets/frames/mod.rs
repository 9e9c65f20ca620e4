// SPDX-License-Identifier: GPL-2.0

//! Frames that are unusual by their length, their tags or their way through the host.

pub(crate) mod unusual;
pub(crate) mod long;
pub(crate) mod routed;
pub(crate) mod memory;
