// SPDX-License-Identifier: GPL-2.0

//! Packets: every byte, whatever their length, layout and headers.

pub(crate) mod rx;
pub(crate) mod frames;
pub(crate) mod tunnel;
mod matrix;
pub(crate) mod tx;
pub(crate) mod net;
