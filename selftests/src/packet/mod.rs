// SPDX-License-Identifier: GPL-2.0

//! What a packet is, to the guest, the host and the tests: [`frame`] makes numbered frames and
//! compares them, [`segments`] follows what becomes of long ones on their way, [`header`] is what
//! virtio-net puts in front.

pub mod frame;
pub mod header;
pub mod segments;
