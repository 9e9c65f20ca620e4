// SPDX-License-Identifier: GPL-2.0

//! Looking at the ring.

use super::{Kicks, SplitRing};
use crate::desc::{offset_of_entry, AVAIL_ENTRY_SIZE, AVAIL_F_NO_INTERRUPT, OFFSET_FLAGS};
use crate::fault::Fault;
use crate::look::{Look, Offer, Progress};
use crate::memory::LoadMemory;

impl Look for SplitRing {
    fn progress(&self) -> Progress {
        Progress {
            taken: self.last_avail,
            seen: self.avail,
            used: self.last_used,
            wants_kicks: match self.kicks {
                Kicks::On => Some(true),
                Kicks::Off => Some(false),
                Kicks::Unknown => None,
            },
        }
    }

    /// An index out of bounds counts as available: the device takes it for a fault.
    fn offer<M: LoadMemory>(&self, memory: &M) -> Result<Offer, Fault> {
        let index = self.load_avail_index(memory)?;
        Ok(Offer {
            index: Some(index),
            available: index != self.last_avail,
        })
    }

    fn wants_calls<M: LoadMemory>(&self, memory: &M) -> Result<bool, Fault> {
        if !self.event_idx {
            let flags = u16::from_le(memory.load(self.avail_at(OFFSET_FLAGS))?);
            return Ok(flags & AVAIL_F_NO_INTERRUPT == 0);
        }
        let at = self.avail_at(offset_of_entry(self.size, AVAIL_ENTRY_SIZE));
        let event = u16::from_le(memory.load(at)?);
        Ok(event.wrapping_sub(self.last_used) < self.size)
    }
}
