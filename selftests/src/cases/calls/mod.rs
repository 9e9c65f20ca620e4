// SPDX-License-Identifier: GPL-2.0

//! Calls and messages: what each takes and refuses; statistics, trace events and the operator's view.

pub(crate) mod ioctl;
pub(crate) mod messages;
pub(crate) mod endian;
pub(crate) mod busy;
pub(crate) mod stats;
pub(crate) mod trace;
pub(crate) mod view;
