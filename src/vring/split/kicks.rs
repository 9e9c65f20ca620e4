// SPDX-License-Identifier: GPL-2.0

//! Kicks on and off.

use super::SplitRing;
use crate::desc::{offset_of_entry, OFFSET_FLAGS, USED_ENTRY_SIZE, USED_F_NO_NOTIFY};
use crate::fault::Fault;
use crate::memory::Memory;
use crate::ring::KickControl;

/// What the driver has been asked for, as the flags in memory say or, with event indexes, the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kicks {
    /// To kick.
    On,
    /// Not to kick.
    Off,
    /// Not known: it was at another place, or in another way, or the last store failed.
    Unknown,
}

impl KickControl for SplitRing {
    /// Never with event indexes, which name the one next kick, nor when it is not known.
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
            // Not moving the event is enough.
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

    /// The kick is for a move of the driver's index, wherever that stands and whatever is wrong with it.
    ///
    /// `true`: the index is not where the device has last read it, and no kick may come for that; look
    /// again. Neither the index that the ring goes by nor the chains read ahead change: what the queue
    /// has stopped at is still the next.
    ///
    /// # No publication is missed
    ///
    /// Let `seen` be the index as the device has last read it, in a look for work or here. To publish,
    /// a driver stores another index and then, behind a full barrier, loads the flags or the event.
    /// Here flags or event are stored, and then, behind a full barrier, the index is loaded. So of the
    /// two loads at least one sees the other side's store:
    ///
    /// - The load here sees another index than `seen`. The answer is `true`, and that index is `seen`
    ///   for the next call of this function.
    /// - Or it sees `seen` still, and the driver's load, for whatever it publishes from there, sees
    ///   what was stored here. If that is flags, they are zero, and it kicks.
    /// - If it is an event and `seen` is an index that the ring takes, the event is `seen`. Any step
    ///   that leads on from it passes it, back or out of bounds as well: `new - seen - 1` is less than
    ///   `new - seen` modulo 2^16 for all `new` but `seen`. So does a step over it, by a driver that
    ///   looks once for many chains.
    /// - If `seen` is out of bounds, the event is `avail`, the last index that was not. A driver comes
    ///   back in bounds by a step from `seen`, or from `avail` if `seen` was never an index of its own.
    ///   Either passes `avail` on its way to any index that makes more available than `avail` did,
    ///   since no such index lies between `seen` and `avail`, modulo 2^16. Steps that stay out of
    ///   bounds may go without a kick: there is nothing to look for.
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
    /// Asks the driver to kick, with event indexes when it moves its index on from `event`; the index
    /// has to be read after it.
    #[inline(always)]
    fn ask_for_kick<M: Memory>(&mut self, memory: &M, event: u16) -> Result<(), Fault> {
        let (offset, value) = if self.event_idx {
            (offset_of_entry(self.size, USED_ENTRY_SIZE), event)
        } else {
            (OFFSET_FLAGS, 0)
        };
        self.set_kicks(memory, Kicks::On, offset, value)?;
        // The wish has to be visible before the index is read. Pairs with the driver's full barrier
        // between moving the index and reading the wish.
        memory.full_barrier();
        Ok(())
    }

    /// Tells the driver whether to kick, by a value in the used ring.
    #[inline(always)]
    pub(super) fn set_kicks<M: Memory>(
        &mut self,
        memory: &M,
        kicks: Kicks,
        offset: u64,
        value: u16,
    ) -> Result<(), Fault> {
        // A store that fails may have been done, or not.
        self.kicks = Kicks::Unknown;
        memory.store(self.used_at(offset), value.to_le())?;
        self.kicks = kicks;
        Ok(())
    }
}
