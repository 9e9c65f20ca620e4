// SPDX-License-Identifier: GPL-2.0

//! The *complete work* half: the used ring, and calls for what is in it.

use super::SplitRing;
use crate::desc::{
    offset_of_entry, RawUsed, AVAIL_ENTRY_SIZE, AVAIL_F_NO_INTERRUPT, OFFSET_FLAGS, OFFSET_INDEX,
    USED_ENTRY_SIZE,
};
use crate::fault::Fault;
use crate::memory::Memory;
use crate::ring::CompleteWork;

impl CompleteWork for SplitRing {
    #[inline]
    fn used_entry(id: u16, _slots: u16, len: u32) -> RawUsed {
        [u32::from(id).to_le(), len.to_le()]
    }

    #[inline]
    fn group(entries: &[RawUsed]) -> RawUsed {
        entries.last().copied().unwrap_or_default()
    }

    /// Always 0: a split ring rewinds by chains.
    #[inline]
    fn slots(_entries: &[RawUsed]) -> u16 {
        0
    }

    /// The driver sees all entries at once when the index moves.
    #[inline]
    fn complete<M: Memory>(&mut self, memory: &M, used: &[RawUsed]) -> Result<(), Fault> {
        // CAST: batches are far smaller than 2^16.
        let new = self.last_used.wrapping_add(used.len() as u16);
        let position = self.last_used & self.mask();
        // No wrap: position < size.
        if used.len() <= usize::from(self.size.wrapping_sub(position)) {
            let entry = self.used_at(offset_of_entry(position, USED_ENTRY_SIZE));
            let index = self.used_at(OFFSET_INDEX);
            memory.publish_used(entry, used, index, new.to_le())?;
            self.count_used(new);
            return Ok(());
        }
        self.store_used(memory, self.last_used, used)?;
        self.publish_used(memory, new)
    }

    /// A group's entry is written at the place of the group's first chain; the rest of the group is
    /// skipped (virtio 1.3, section 2.7.8).
    fn complete_in_order<M: Memory>(
        &mut self,
        memory: &M,
        used: &[RawUsed],
        chains: &[u16],
    ) -> Result<(), Fault> {
        let mut at = self.last_used;
        let mut used = used;
        let mut chains = chains;
        while !used.is_empty() {
            // Entries are contiguous up to and including the first group of more than one chain.
            let ones = chains.iter().take_while(|count| **count == 1).count();
            let run = ones.wrapping_add(1).min(used.len());
            let (now, later) = used.split_at_checked(run).unwrap_or((used, &[]));
            let (counts, later_counts) = chains.split_at_checked(run).unwrap_or((chains, &[]));
            self.store_used(memory, at, now)?;
            at = counts.iter().fold(at, |at, count| at.wrapping_add(*count));
            used = later;
            chains = later_counts;
        }
        self.publish_used(memory, at)
    }

    #[inline]
    fn needs_call<M: Memory>(&mut self, memory: &M) -> bool {
        // The used index has to be visible before the driver's request for calls is read, and
        // before a call. Pairs with the driver's full barrier between storing that request and
        // looking for used buffers.
        if self.notify_on_empty && self.avail == self.last_avail {
            memory.full_barrier();
            return true;
        }
        if !self.event_idx {
            return match memory.load_after_barrier(self.avail_at(OFFSET_FLAGS)) {
                Ok(flags) => u16::from_le(flags) & AVAIL_F_NO_INTERRUPT == 0,
                Err(_) => true,
            };
        }
        let new = self.last_used;
        let Some(old) = self.called.replace(new) else {
            memory.full_barrier();
            return true;
        };
        let event = self.avail_at(offset_of_entry(self.size, AVAIL_ENTRY_SIZE));
        match memory.load_after_barrier(event) {
            Ok(event) => passed_event(u16::from_le(event), new, old),
            Err(_) => true,
        }
    }
}

impl SplitRing {
    /// Stores elements of the used ring from index `at` on.
    #[inline]
    fn store_used<M: Memory>(&self, memory: &M, at: u16, used: &[RawUsed]) -> Result<(), Fault> {
        let mut at = at;
        let mut rest = used;
        // There may be more elements than ring entries if the driver reuses descriptors before they
        // are given back.
        while !rest.is_empty() {
            let position = at & self.mask();
            // No wrap: position < size.
            let run = usize::from(self.size.wrapping_sub(position)).min(rest.len());
            let (now, later) = rest.split_at_checked(run).unwrap_or((rest, &[]));
            let entry = self.used_at(offset_of_entry(position, USED_ENTRY_SIZE));
            memory.store_used(entry, now)?;
            // CAST: no larger than the ring.
            at = at.wrapping_add(run as u16);
            rest = later;
        }
        Ok(())
    }

    /// Moves the used index to `new`, after the elements have been stored.
    #[inline]
    fn publish_used<M: Memory>(&mut self, memory: &M, new: u16) -> Result<(), Fault> {
        // Pairs with the driver's read barrier between seeing the index and reading the entries.
        memory.store_release(self.used_at(OFFSET_INDEX), new.to_le())?;
        self.count_used(new);
        Ok(())
    }

    /// Records the used index that has been published.
    #[inline]
    fn count_used(&mut self, new: u16) {
        let old = self.last_used;
        self.last_used = new;
        // After 2^16 completions without a decision, `called` would look recent again.
        if let Some(called) = self.called {
            if new.wrapping_sub(called) < new.wrapping_sub(old) {
                self.called = None;
            }
        }
    }
}

/// Whether an index that moved from `old` to `new` has passed `event` (virtio 1.3, section 2.7.10).
#[inline(always)]
fn passed_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
