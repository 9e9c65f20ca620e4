// SPDX-License-Identifier: GPL-2.0

//! Kicks on and off: the device's event suppression structure, here called its event.

use super::PackedRing;
use crate::desc::{RawDesc, EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE};
use crate::fault::Fault;
use crate::memory::Memory;
use crate::position::Position;
use crate::ring::KickControl;

/// The last request to the driver, as stored in the device's event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kicks {
    /// Kick: for every chain, or with event indexes for one descriptor.
    On,
    /// Kick for every chain: stored before the device last looked at the chain at this position, at
    /// whose fault the queue stopped.
    Awaited(Position),
    /// Do not kick.
    Off,
    /// Not known: the addresses or the features have changed since, or the last store failed.
    Unknown,
}

impl KickControl for PackedRing {
    /// Never with event indexes, which ask for one kick only, nor when the last request is not
    /// known.
    #[inline]
    fn kicks_are_on(&self) -> bool {
        matches!(self.kicks, Kicks::On | Kicks::Awaited(_)) && !self.event_idx
    }

    /// Does nothing while the next chain is the one that the queue has stopped at:
    /// [`KickControl::await_kick`] relies on kicks until that chain has been taken.
    ///
    /// It is stored also with event indexes. Unlike that of a split ring, an event that is not
    /// moved on does not keep the driver quiet: after a start or a fault it asks for every kick,
    /// and as a position it comes round again with each second lap of the ring.
    #[inline]
    fn disable_kick<M: Memory>(&mut self, memory: &M) -> Result<(), Fault> {
        match self.kicks {
            Kicks::Off => return Ok(()),
            Kicks::Awaited(at) if at == self.position() => return Ok(()),
            Kicks::Awaited(_) | Kicks::On | Kicks::Unknown => {}
        }
        self.set_kicks(memory, Kicks::Off, EVENT_DISABLE, None)
    }

    /// With event indexes, the event is the first descriptor that no look for work has found
    /// available.
    #[inline]
    fn enable_kick<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault> {
        let front = self.ahead.front();
        self.check(front)?;
        if self.event_idx {
            self.set_kicks(memory, Kicks::On, EVENT_DESC, Some(front))?;
        } else {
            self.set_kicks(memory, Kicks::On, EVENT_ENABLE, None)?;
        }
        // The request has to be visible before the descriptor is read. Pairs with the driver's full
        // barrier between making it available and reading the request.
        memory.full_barrier();
        let mut desc = [RawDesc::default()];
        let found = memory.load_available(self.desc_at(front), front.wrap(), &mut desc)?;
        if found == 0 {
            return Ok(false);
        }
        self.ahead.goes_on();
        Ok(true)
    }

    /// The driver kicks for whatever it publishes, also with event indexes.
    ///
    /// `true`: the queue has to look again and reads the descriptors anew; the ring does not find
    /// out whether they have changed. `false`: the queue has looked again, and the chain that it
    /// stopped at is still the next.
    ///
    /// # No publication is missed
    ///
    /// To publish, or to correct what it has published, a driver stores descriptors and then,
    /// behind a full barrier, loads the device's event. This function discards what was read ahead,
    /// stores the event and issues a full barrier: the device loads all descriptors that the queue
    /// looks at from then on after it. So at least one of the driver's load and the device's loads
    /// sees the other side's store:
    ///
    /// - The device sees what the driver has stored when it looks again, which `true` tells it to
    ///   do.
    /// - Or the driver sees the event, whose flags are zero, and kicks.
    ///
    /// The event stays as it is until the device has passed the chain that it stopped at: until
    /// then [`disable_kick`](KickControl::disable_kick) does nothing. So kicks were on before each
    /// look at that chain in the meantime, and a queue that finds the same chain again may wait:
    /// the answer is `false`. The answer is `true` only once for a chain, which prevents an endless
    /// loop. What was read ahead has been discarded before the queue waits, so after a kick it
    /// reads the chain from memory.
    ///
    /// [`enable_kick`](KickControl::enable_kick) is for a queue that has taken every available
    /// chain. It misses nothing because it looks again after its barrier.
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
    /// Stores the device's event, which tells the driver whether to kick, or for which descriptor.
    #[inline(always)]
    pub(super) fn set_kicks<M: Memory>(
        &mut self,
        memory: &M,
        kicks: Kicks,
        flags: u16,
        at: Option<Position>,
    ) -> Result<(), Fault> {
        // A store that fails may still have taken effect.
        self.kicks = Kicks::Unknown;
        let offset = at.map_or(0, Position::bits);
        let event = u32::from(offset) | u32::from(flags) << 16;
        memory.store_event(self.addrs.used, event.to_le())?;
        self.kicks = kicks;
        Ok(())
    }
}
