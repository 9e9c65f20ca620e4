// SPDX-License-Identifier: GPL-2.0

//! Bugs that such code has had; which, is in [`crate::history`].

pub(crate) mod leaks;
pub(crate) mod races;
pub(crate) mod rings;
