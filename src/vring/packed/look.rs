// SPDX-License-Identifier: GPL-2.0

//! Looking at the ring.

use super::{Kicks, PackedRing};
use crate::desc::{RawDesc, EVENT_DESC, EVENT_DISABLE};
use crate::fault::Fault;
use crate::look::{Look, Offer, Progress};
use crate::memory::LoadMemory;
use crate::position::Position;

/// Number of descriptors that are looked at together.
const RUN: usize = 16;

impl Look for PackedRing {
    fn progress(&self) -> Progress {
        Progress {
            taken: self.position().offset(),
            seen: self.ahead.front().offset(),
            used: self.used.offset(),
            wants_kicks: match self.kicks {
                Kicks::On | Kicks::Awaited(_) => Some(true),
                Kicks::Off => Some(false),
                Kicks::Unknown => None,
            },
        }
    }

    /// The driver's index is in no memory: it is the first descriptor that is not available, at
    /// most a lap away.
    fn offer<M: LoadMemory>(&self, memory: &M) -> Result<Offer, Fault> {
        let start = self.position();
        self.check(start)?;
        let mut at = start;
        let mut left = self.size;
        while left > 0 {
            // No wrap: offsets are below the size.
            let run = self.size.wrapping_sub(at.offset()).min(left);
            let mut descs = [RawDesc::default(); RUN];
            let want = usize::from(run).min(RUN);
            let out = descs.get_mut(..want).unwrap_or_default();
            let found = match memory.load_available(self.desc_at(at), at.wrap(), out) {
                Ok(found) => found,
                Err(unmapped) if at == start => return Err(unmapped.into()),
                Err(_) => {
                    return Ok(Offer {
                        index: None,
                        available: true,
                    })
                }
            };
            // CAST: at most a run.
            let found = found.min(want) as u16;
            at = at.advance(self.size, found);
            left = left.saturating_sub(found);
            if usize::from(found) < want {
                break;
            }
        }
        Ok(Offer {
            index: Some(at.offset()),
            available: at != start,
        })
    }

    fn wants_calls<M: LoadMemory>(&self, memory: &M) -> Result<bool, Fault> {
        let event = u32::from_le(memory.load_event(self.addrs.avail)?);
        // CAST: the halves of a word.
        let (flags, at) = ((event >> 16) as u16, Position::from_bits(event as u16));
        Ok(match flags {
            EVENT_DISABLE => false,
            EVENT_DESC if self.event_idx => {
                at.offset() >= self.size || at.distance(self.size, self.used) < u32::from(self.size)
            }
            _ => true,
        })
    }
}
