// SPDX-License-Identifier: GPL-2.0

//! Backends: taps of all kinds, packet sockets, network cards.

pub(crate) mod backend;
pub(crate) mod change;
pub(crate) mod queues;
pub(crate) mod accept;
pub(crate) mod drops;
pub(crate) mod nics;
