// SPDX-License-Identifier: GPL-2.0

//! The device side of a virtqueue, whatever its format: what a round does with it.
//!
//! Who runs a round is generic over this, and compiled once for each format: which one a virtqueue has
//! is looked at once a round, not once a packet. Setting a ring up differs from format to format, and
//! is the format's own.

use crate::addr::UserAddr;
use crate::chain::Chain;
use crate::desc::RawUsed;
use crate::fault::Fault;
use crate::memory::Memory;
use crate::segment::{Segments, Translate};

/// The largest ring, in descriptors (virtio 1.3, sections 2.7 and 2.8).
pub const MAX_RING_SIZE: u16 = 32768;

/// How many descriptors of the ring are read ahead, at most.
pub const PREFETCH: usize = 64;

/// Where the three parts of a ring lie in the owner's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingAddrs {
    /// The descriptors: of a split ring the table, of a packed ring the ring itself.
    pub desc: UserAddr,
    /// The driver area: the available ring, or the driver's event.
    pub avail: UserAddr,
    /// The device area: the used ring, or the device's event.
    pub used: UserAddr,
}

/// The half that gets work from the driver.
pub trait GetWork {
    /// Number of descriptors.
    fn size(&self) -> u16;

    /// Takes the next available chain; its segments are appended to `out`. `None` when the driver has
    /// made nothing more available.
    ///
    /// # Errors
    ///
    /// Any [`Fault`]; the chain stays available and `out` is as before.
    fn next_chain<M: Memory, T: Translate>(
        &mut self,
        memory: &M,
        table: &T,
        out: &mut Segments<'_>,
    ) -> Result<Option<Chain>, Fault>;

    /// Gives back the last `chains` chains taken, which had `slots` descriptors of the ring together
    /// ([`Chain::slots`]): they are available again.
    fn rewind(&mut self, chains: u16, slots: u16);

    /// Whether a chain can be taken, as far as can be told without taking it.
    ///
    /// # Errors
    ///
    /// As [`GetWork::next_chain`].
    fn has_work<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault>;

    /// Whether all chains that the last look for work found have been taken.
    fn is_drained(&self) -> bool;
}

/// What goes with getting work: the driver is asked for kicks, or for none.
pub trait KickControl {
    /// Whether the driver kicks for all that it makes available: since before the device last looked
    /// for work, so that who has been kicked for nothing more may wait.
    fn kicks_are_on(&self) -> bool;

    /// Asks the driver not to kick: the device is looking anyway.
    ///
    /// # Errors
    ///
    /// [`Fault::Unmapped`]; the driver may then kick or not.
    fn disable_kick<M: Memory>(&mut self, memory: &M) -> Result<(), Fault>;

    /// Asks the driver to kick when it makes more available than the device has seen. `true`: more came
    /// meanwhile, for which no kick may come; look again.
    ///
    /// # Errors
    ///
    /// Any [`Fault`] of what the driver has made available meanwhile.
    #[must_use = "what came meanwhile is lost unless looked for again"]
    fn enable_kick<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault>;

    /// Asks the driver to kick when it publishes something, whatever it is: for a queue that stops for a
    /// [`Fault`] of the guest. `true`: something came meanwhile; look again.
    ///
    /// # Errors
    ///
    /// [`Fault::Unmapped`] only.
    #[must_use = "what came meanwhile is lost unless looked for again"]
    fn await_kick<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault>;
}

/// The half that completes work, and tells whether the driver wants a call for it.
pub trait CompleteWork {
    /// The used entry of a chain into which `len` bytes were written: `id` and `slots` are those of the
    /// [`Chain`].
    fn used_entry(id: u16, slots: u16, len: u32) -> RawUsed;

    /// One entry for the chains of all `entries`, which were made available one after the other.
    fn group(entries: &[RawUsed]) -> RawUsed;

    /// How many descriptors of the ring the chains of `entries` have together, if the format's entries
    /// tell: it is what [`GetWork::rewind`] has to be given to give them back.
    fn slots(entries: &[RawUsed]) -> u16;

    /// Gives chains back to the driver, which sees all of them at once; `used` has their entries.
    ///
    /// # Errors
    ///
    /// [`Fault::Unmapped`]; the driver then sees none of them, and the same call may be made again when
    /// the memory is back.
    fn complete<M: Memory>(&mut self, memory: &M, used: &[RawUsed]) -> Result<(), Fault>;

    /// As [`CompleteWork::complete`], with `VIRTIO_F_IN_ORDER` and in groups of chains that were made
    /// available one after the other: `used` has an entry for each ([`CompleteWork::group`]), `chains` the
    /// number of chains in it.
    ///
    /// # Errors
    ///
    /// Those of [`CompleteWork::complete`].
    fn complete_in_order<M: Memory>(
        &mut self,
        memory: &M,
        used: &[RawUsed],
        chains: &[u16],
    ) -> Result<(), Fault>;

    /// Decides, after [`CompleteWork::complete`], whether the driver wants a call. When it cannot be
    /// found out the answer is to call: a missing one hangs the guest.
    #[must_use]
    fn needs_call<M: Memory>(&mut self, memory: &M) -> bool;
}

/// A ring, in a format.
pub trait Ring: GetWork + KickControl + CompleteWork {}

impl<R: GetWork + KickControl + CompleteWork> Ring for R {}
