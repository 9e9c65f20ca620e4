// SPDX-License-Identifier: GPL-2.0

//! The driver's half of a virtqueue, whatever its format.

use crate::driver::uapi::VringAddr;
use anyhow::Result;

/// One buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// Whether the device writes it.
    pub writable: bool,
}

/// A chain the device is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What the caller gave to [`RingDriver::add`].
    pub token: u32,
    /// How many bytes the device says it wrote.
    pub len: u32,
}

/// What a driver does with a ring.
///
/// Chains are added, then published together; a kick is due when [`RingDriver::publish`] says so.
/// [`RingDriver::poll`] checks what the device answers and fails on anything a device must not
/// do, such as returning a chain twice.
pub trait RingDriver: std::fmt::Debug + Send {
    /// The number of descriptors.
    fn size(&self) -> u16;

    /// Where the parts of the ring are, as addresses of the process.
    fn place(&self) -> VringAddr;

    /// The index to hand to `SET_VRING_BASE` for what the ring holds now: all that is published
    /// and not used is seen again. Nothing may be bound to the ring meanwhile.
    fn base(&self) -> u32;

    /// How many descriptors are free.
    fn free(&self) -> usize;

    /// How many chains the device holds.
    fn pending(&self) -> usize;

    /// Adds a chain; `table` is the place of an indirect table, if one shall be used.
    ///
    /// # Errors
    ///
    /// When there are not enough descriptors.
    fn add(&mut self, chain: &[Segment], table: Option<u64>, token: u32) -> Result<()>;

    /// Lets the device see what was added, and tells whether it wants a kick.
    #[must_use]
    fn publish(&mut self) -> bool;

    /// Whether the device wants a kick now that the available index in memory, by whomever, has
    /// moved on from `old`.
    #[must_use]
    fn wants_kick(&self, old: u16) -> bool;

    /// Takes the next used chain.
    ///
    /// # Errors
    ///
    /// When the device broke the rules of the ring.
    fn poll(&mut self) -> Result<Option<Used>>;

    /// Asks for a call once `after` more chains are used; true if that has happened already.
    #[must_use]
    fn arm_call(&mut self, after: u16) -> bool;

    /// Asks for no calls.
    fn disarm_call(&mut self);

    /// Has notifications asked for by event index, or by flags, from now on.
    fn set_event_index(&mut self, events: bool);

    /// Empties the ring as after a reset, at the given index.
    fn reset(&mut self, base: u16);
}
