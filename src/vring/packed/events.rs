// SPDX-License-Identifier: GPL-2.0

//! Kicks on and off: the device's event.

use super::PackedRing;
use crate::desc::{RawDesc, EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE};
use crate::fault::Fault;
use crate::memory::Memory;
use crate::position::Position;
use crate::ring::KickControl;

/// What the driver has been asked for, as the device's event in memory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kicks {
    /// To kick: for all, or with event indexes for one descriptor.
    On,
    /// To kick for all, since before the device looked at the chain there, for whose fault it stopped.
    Awaited(Position),
    /// Not to kick; with event indexes the event was only left behind.
    Off,
    /// Not known: it was at another place, or in another way, or the last store failed.
    Unknown,
}

impl KickControl for PackedRing {
    /// Never with event indexes, which name the one next kick, nor when it is not known.
    #[inline]
    fn kicks_are_on(&self) -> bool {
        matches!(self.kicks, Kicks::On | Kicks::Awaited(_)) && !self.event_idx
    }

    /// Not while the chain is the next for which the queue has stopped: [`KickControl::await_kick`] needs
    /// the kicks until it has been taken.
    #[inline]
    fn disable_kick<M: Memory>(&mut self, memory: &M) -> Result<(), Fault> {
        match self.kicks {
            Kicks::Off => return Ok(()),
            Kicks::Awaited(at) if at == self.position() => return Ok(()),
            Kicks::Awaited(_) | Kicks::On | Kicks::Unknown => {}
        }
        if self.event_idx {
            // Not moving the event is enough.
            self.kicks = Kicks::Off;
            return Ok(());
        }
        self.set_kicks(memory, Kicks::Off, EVENT_DISABLE, None)
    }

    /// With event indexes the kick is for the first descriptor that no look for work has found available.
    #[inline]
    fn enable_kick<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault> {
        let front = self.ahead.front();
        self.check(front)?;
        if self.event_idx {
            self.set_kicks(memory, Kicks::On, EVENT_DESC, Some(front))?;
        } else {
            self.set_kicks(memory, Kicks::On, EVENT_ENABLE, None)?;
        }
        // The wish has to be visible before the descriptor is read. Pairs with the driver's full barrier
        // between making it available and reading the wish.
        memory.full_barrier();
        let mut desc = [RawDesc::default()];
        let found = memory.load_available(self.desc_at(front), front.wrap(), &mut desc)?;
        if found == 0 {
            return Ok(false);
        }
        self.ahead.goes_on();
        Ok(true)
    }

    /// The kick is for whatever the driver publishes, also with event indexes.
    ///
    /// `true`: the queue has to look again, at descriptors that are read anew; the ring does not find out
    /// whether they have changed. `false` when it has done so, and the chain that it has stopped for is
    /// still the next.
    ///
    /// # No publication is missed
    ///
    /// To publish, or to mend what it has published, a driver stores descriptors and then, behind a full
    /// barrier, loads the device's event. Here what was read ahead is forgotten, the event is stored, and
    /// there is a full barrier: all descriptors that the queue looks at from then on are loaded after it. So
    /// of the driver's load and those of the device at least one sees the other side's store:
    ///
    /// - The device sees what the driver has stored when it looks again, which it is told to.
    /// - Or the driver sees the event, whose flags are zero, and kicks.
    ///
    /// The event stays as it is until the device has got beyond the chain that it has stopped at: until
    /// then [`disable_kick`](KickControl::disable_kick) does nothing. So whatever the queue looks at
    /// meanwhile, it looks at with kicks on since before, and may wait when it finds the same chain: that is
    /// `false`. It is `true` only once for a chain, which ends what else would be an endless loop. Since a
    /// queue that waits has forgotten what it had read, it looks at the chain itself when a kick comes.
    ///
    /// [`enable_kick`](KickControl::enable_kick) is for a queue that has taken all there is, and has its
    /// own proof: it looks behind its barrier.
    #[cold]
    fn await_kick<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault> {
        self.forget_prefetch();
        let at = self.position();
        if self.kicks == Kicks::Awaited(at) {
            return Ok(false);
        }
        self.set_kicks(memory, Kicks::Awaited(at), EVENT_ENABLE, None)?;
        memory.full_barrier();
        Ok(true)
    }
}

impl PackedRing {
    /// Tells the driver whether to kick, by the device's event, perhaps for the descriptor at a position.
    #[inline(always)]
    pub(super) fn set_kicks<M: Memory>(
        &mut self,
        memory: &M,
        kicks: Kicks,
        flags: u16,
        at: Option<Position>,
    ) -> Result<(), Fault> {
        // A store that fails may have been done, or not.
        self.kicks = Kicks::Unknown;
        let offset = at.map_or(0, Position::bits);
        let event = u32::from(offset) | u32::from(flags) << 16;
        memory.store_event(self.addrs.used, event.to_le())?;
        self.kicks = kicks;
        Ok(())
    }
}
