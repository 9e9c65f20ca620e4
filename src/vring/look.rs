// SPDX-License-Identifier: GPL-2.0

//! Looking at a ring without taking anything from it, for an operator.

use crate::fault::Fault;
use crate::memory::LoadMemory;

/// How far the device has come, as it knows without reading memory.
///
/// Indexes count modulo 2^16 in a split ring; in a packed ring they are offsets of descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The next available entry that the device will take.
    pub taken: u16,
    /// The end of what the device has found available.
    pub seen: u16,
    /// The next used entry that the device will fill.
    pub used: u16,
    /// Whether the device asks the driver for kicks; `None` when the last request is not known.
    pub wants_kicks: Option<bool>,
}

/// What the driver offers now, as its memory has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The driver's own index; `None` when a later part of a packed ring cannot be read.
    pub index: Option<u16>,
    /// Whether there is something that the device has not taken.
    pub available: bool,
}

/// A look at a ring, which changes nothing.
pub trait Look {
    /// How far the device has come.
    fn progress(&self) -> Progress;

    /// What the driver offers, which need not be valid.
    ///
    /// # Errors
    ///
    /// [`Fault::Unmapped`] when it cannot be read, [`Fault::Base`] when the position to read at is
    /// beyond the end of a packed ring.
    fn offer<M: LoadMemory>(&self, memory: &M) -> Result<Offer, Fault>;

    /// Whether the driver asks for calls: for every used entry, or with event indexes for one that
    /// is still to come, within a ring's length.
    ///
    /// # Errors
    ///
    /// [`Fault::Unmapped`] when that cannot be read.
    fn wants_calls<M: LoadMemory>(&self, memory: &M) -> Result<bool, Fault>;
}
