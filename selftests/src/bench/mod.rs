// SPDX-License-Identifier: GPL-2.0

//! Measuring: what a packet costs, in instructions and in time.
//!
//! The driver here is as small as one can be, so that what is measured is the device: each
//! descriptor has its buffer for ever, and giving `n` buffers to the device is one store in a split
//! ring ([`ring`]). A [`rig`] is a device with two such rings for one
//! [`case`]; [`instructions`], [`wallclock`], [`floor`] and [`profile`] run it; [`record`] is what
//! they print, and [`stats`] what is made of several runs.

pub mod case;
pub mod floor;
pub mod instructions;
pub mod profile;
pub mod record;
pub mod rig;
pub mod ring;
pub mod stats;
pub mod wallclock;
