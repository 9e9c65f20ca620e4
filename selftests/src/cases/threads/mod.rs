// SPDX-License-Identifier: GPL-2.0

//! Worker threads.

pub(crate) mod fork;
pub(crate) mod signals;
pub(crate) mod worker;
pub(crate) mod workers;
