// SPDX-License-Identifier: GPL-2.0

//! The device side of a virtqueue in either format, as a round uses it.
//!
//! The code of a round is generic over [`Ring`] and compiled once for each format, so that the
//! format is looked up once per round, not once per packet. Set-up differs between formats and is
//! not part of these traits.

use crate::addr::UserAddr;
use crate::chain::Chain;
use crate::desc::RawUsed;
use crate::fault::Fault;
use crate::memory::Memory;
use crate::segment::{Segments, Translate};

/// The largest ring, in descriptors (virtio 1.3, sections 2.7 and 2.8).
pub const MAX_RING_SIZE: u16 = 32768;

/// The largest number of descriptors of the ring that are read ahead.
pub const PREFETCH: usize = 64;

/// Where the three parts of a ring lie in the owner's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingAddrs {
    /// The descriptor area: the descriptor table of a split ring, or the packed ring itself.
    pub desc: UserAddr,
    /// The driver area: the available ring, or the driver event suppression structure.
    pub avail: UserAddr,
    /// The device area: the used ring, or the device event suppression structure.
    pub used: UserAddr,
}

/// The half that gets work from the driver.
pub trait GetWork {
    /// Number of descriptors.
    fn size(&self) -> u16;

    /// Takes the next available chain and appends its segments to `out`.
    ///
    /// `None` when the driver has made nothing more available.
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

    /// Makes the last `chains` chains taken available again; together they occupied `slots`
    /// descriptors of the ring ([`Chain::slots`]).
    fn rewind(&mut self, chains: u16, slots: u16);

    /// Whether there is an available chain; taking it may still fail.
    ///
    /// # Errors
    ///
    /// As [`GetWork::next_chain`].
    fn has_work<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault>;

    /// Whether all chains that the last look for work found have been taken.
    fn is_drained(&self) -> bool;
}

/// The control of the driver's kicks.
pub trait KickControl {
    /// Whether the driver kicks for every chain that it makes available, and has been asked to
    /// since before the device last looked for work.
    ///
    /// A caller that found no work then may wait without a second look.
    fn kicks_are_on(&self) -> bool;

    /// Asks the driver not to kick, because the device polls the ring.
    ///
    /// # Errors
    ///
    /// [`Fault::Unmapped`]; the driver may then kick or not.
    fn disable_kick<M: Memory>(&mut self, memory: &M) -> Result<(), Fault>;

    /// Asks the driver to kick when it makes more available than the device has seen.
    ///
    /// `true` if the driver has made more available meanwhile; it may not kick for that, so the
    /// caller has to look again.
    ///
    /// # Errors
    ///
    /// Any [`Fault`] in what the driver has made available meanwhile.
    #[must_use = "what came meanwhile is lost unless looked for again"]
    fn enable_kick<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault>;

    /// Asks the driver to kick for whatever it publishes next, for a queue that stops at a
    /// [`Fault`] of the guest.
    ///
    /// `true` if the driver may have published something meanwhile, so that the caller has to look
    /// again.
    ///
    /// # Errors
    ///
    /// [`Fault::Unmapped`] only.
    #[must_use = "what came meanwhile is lost unless looked for again"]
    fn await_kick<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault>;
}

/// The half that completes work and decides whether the driver wants a call for it.
pub trait CompleteWork {
    /// The used entry of a chain into which `len` bytes were written; `id` and `slots` are those of
    /// the [`Chain`].
    fn used_entry(id: u16, slots: u16, len: u32) -> RawUsed;

    /// One entry for the chains of all `entries`, which were made available consecutively.
    fn group(entries: &[RawUsed]) -> RawUsed;

    /// The number of ring descriptors that the chains of `entries` occupy together, as
    /// [`GetWork::rewind`] needs it; 0 in a format whose entries do not record it.
    fn slots(entries: &[RawUsed]) -> u16;

    /// Gives the chains of the entries in `used` back to the driver, which sees all of them at
    /// once.
    ///
    /// # Errors
    ///
    /// [`Fault::Unmapped`]; the driver then sees none of them, and the caller may retry when the
    /// memory is mapped again.
    fn complete<M: Memory>(&mut self, memory: &M, used: &[RawUsed]) -> Result<(), Fault>;

    /// As [`CompleteWork::complete`], for groups of chains under `VIRTIO_F_IN_ORDER`.
    ///
    /// The chains of a group were made available consecutively. For each group `used` has one entry
    /// ([`CompleteWork::group`]) and `chains` the number of chains.
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

    /// Decides, after [`CompleteWork::complete`], whether the driver wants a call.
    ///
    /// `true` as well when the driver's request cannot be read, because a missing call hangs the
    /// guest.
    #[must_use]
    fn needs_call<M: Memory>(&mut self, memory: &M) -> bool;
}

/// A ring of either format.
pub trait Ring: GetWork + KickControl + CompleteWork {}

impl<R: GetWork + KickControl + CompleteWork> Ring for R {}
