// SPDX-License-Identifier: GPL-2.0

//! Regression tests for bugs that kernel vhost code has had; [`crate::history`] lists them.

pub(crate) mod leaks;
pub(crate) mod races;
pub(crate) mod rings;
