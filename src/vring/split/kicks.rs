// SPDX-License-Identifier: GPL-2.0

//! Kicks on and off.

use super::SplitRing;
use crate::desc::{offset_of_entry, OFFSET_FLAGS, USED_ENTRY_SIZE, USED_F_NO_NOTIFY};
use crate::fault::Fault;
use crate::memory::Memory;
use crate::ring::KickControl;

/// The last request to the driver, as stored in the flags or, with event indexes, in the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kicks {
    /// Kick.
    On,
    /// Do not kick.
    Off,
    /// Not known: the addresses or the features have changed since, or the last store failed.
    Unknown,
}

impl KickControl for SplitRing {
    /// Never with event indexes, which ask for one kick only, nor when the last request is not
    /// known.
    #[inline]
    fn kicks_are_on(&self) -> bool {
        self.kicks == Kicks::On && !self.event_idx
    }

    #[inline]
    fn disable_kick<M: Memory>(&mut self, memory: &M) -> Result<(), Fault> {
        if self.kicks == Kicks::Off {
            return Ok(());
        }
        if self.event_idx {
            // It is enough not to move the event on.
            self.kicks = Kicks::Off;
            return Ok(());
        }
        self.set_kicks(memory, Kicks::Off, OFFSET_FLAGS, USED_F_NO_NOTIFY)
    }

    #[inline]
    fn enable_kick<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault> {
        self.ask_for_kick(memory, self.avail)?;
        self.read_avail_index(memory)
    }

    /// The driver kicks for the next move of its index, wherever the index is and whether or not it
    /// is valid.
    ///
    /// `true`: the index differs from the one that the device read last, and the driver may not
    /// kick for that, so the caller has to look again. The index that the ring uses and the chains
    /// read ahead do not change: the chain that the queue has stopped at is still the next.
    ///
    /// # No publication is missed
    ///
    /// Let `seen` be the index as the device read it last, in a look for work or here. To publish,
    /// a driver stores another index and then, behind a full barrier, loads the flags or the event.
    /// This function stores the flags or the event and then, behind a full barrier, loads the
    /// index. So at least one of the two loads sees the other side's store:
    ///
    /// - This function's load sees another index than `seen`. The answer is `true`, and that index
    ///   is `seen` for the next call of this function.
    /// - Or it still sees `seen`, and the driver's load, for whatever it publishes from there, sees
    ///   what this function stored. If these are flags, they are zero, and the driver kicks.
    /// - If it is an event and `seen` is in bounds, the event is `seen`. Any step from `seen`
    ///   passes it, also a step back or out of bounds: `new - seen - 1` is less than `new - seen`
    ///   modulo 2^16 for all `new` but `seen`. So does a step over `seen`, by a driver that reads
    ///   the event once for many chains.
    /// - If `seen` is out of bounds, the event is `avail`, the last index in bounds. A driver comes
    ///   back in bounds by a step from `seen`, or from `avail` if the driver itself never stored
    ///   `seen`. Either passes `avail` on its way to any index that makes more available than
    ///   `avail` did, since no such index lies between `seen` and `avail`, modulo 2^16. Steps that
    ///   stay out of bounds may cause no kick: there is no work to find.
    ///
    /// A driver whose index is back at `seen` before the load has published nothing.
    #[cold]
    fn await_kick<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault> {
        let event = if self.is_in_bounds(self.seen) {
            self.seen
        } else {
            self.avail
        };
        self.ask_for_kick(memory, event)?;
        let index = self.load_avail_index(memory)?;
        let seen = core::mem::replace(&mut self.seen, index);
        Ok(index != seen)
    }
}

impl SplitRing {
    /// Asks the driver to kick, with event indexes when its index moves on from `event`; the caller
    /// has to read the index afterwards.
    #[inline(always)]
    fn ask_for_kick<M: Memory>(&mut self, memory: &M, event: u16) -> Result<(), Fault> {
        let (offset, value) = if self.event_idx {
            (offset_of_entry(self.size, USED_ENTRY_SIZE), event)
        } else {
            (OFFSET_FLAGS, 0)
        };
        self.set_kicks(memory, Kicks::On, offset, value)?;
        // The request has to be visible before the index is read. Pairs with the driver's full
        // barrier between moving the index and reading the request.
        memory.full_barrier();
        Ok(())
    }

    /// Tells the driver whether to kick, by storing `value` at `offset` in the used ring.
    #[inline(always)]
    pub(super) fn set_kicks<M: Memory>(
        &mut self,
        memory: &M,
        kicks: Kicks,
        offset: u64,
        value: u16,
    ) -> Result<(), Fault> {
        // A store that fails may still have taken effect.
        self.kicks = Kicks::Unknown;
        memory.store(self.used_at(offset), value.to_le())?;
        self.kicks = kicks;
        Ok(())
    }
}
