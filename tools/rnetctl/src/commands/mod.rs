// SPDX-License-Identifier: GPL-2.0
//! The commands, each with what it asks the host and how it shows the answer.

pub mod completions;
pub mod list;
pub mod man;
