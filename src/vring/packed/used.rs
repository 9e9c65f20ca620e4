// SPDX-License-Identifier: GPL-2.0

//! The *complete work* half: used descriptors, and calls for them.

use super::PackedRing;
use crate::desc::{RawUsed, DESC_SIZE, EVENT_DESC, EVENT_DISABLE};
use crate::fault::Fault;
use crate::memory::Memory;
use crate::position::Position;
use crate::ring::CompleteWork;

/// Length of the smallest page of any architecture, in bytes, less one.
const PAGE_MASK: u64 = 0xfff;

impl CompleteWork for PackedRing {
    #[inline]
    fn used_entry(id: u16, slots: u16, len: u32) -> RawUsed {
        let id = u32::from(id) | u32::from(slots) << 16;
        [len.to_le(), id.to_le()]
    }

    /// The group has the id and the length of the last entry, and the descriptor count of all.
    #[inline]
    fn group(entries: &[RawUsed]) -> RawUsed {
        let last = entries.last().copied().unwrap_or_default();
        let [len, id] = last.map(u32::from_le);
        // CAST: the lower half.
        Self::used_entry(id as u16, Self::slots(entries), len)
    }

    #[inline]
    fn slots(entries: &[RawUsed]) -> u16 {
        // Wraps only if the driver reuses descriptors before they are given back.
        // CAST: the upper half.
        let slots = entries
            .iter()
            .map(|[_, id]| (u32::from_le(*id) >> 16) as u16);
        slots.fold(0, u16::wrapping_add)
    }

    /// The driver sees all entries at once when the first is written, since it reads used
    /// descriptors in ring order.
    ///
    /// A call that fails has written nothing, so that the chains can also be rewound: a used
    /// descriptor would overwrite the chain's own. The only exception is memory that is unmapped
    /// during the call; even then the driver sees none of the entries, and the caller may retry.
    #[inline]
    fn complete<M: Memory>(&mut self, memory: &M, used: &[RawUsed]) -> Result<(), Fault> {
        if used.is_empty() {
            return Ok(());
        }
        self.check(self.used)?;
        if !self.is_within_a_page() {
            self.touch_taken(memory)?;
        }
        let new = memory.publish_packed(self.addrs.desc, self.size, self.used, used)?;
        self.count_used(new);
        Ok(())
    }

    /// A group's used descriptor is written at the place of the group's first chain with the id of
    /// the last; the rest of the group is skipped (virtio 1.3, section 2.8.8).
    #[inline]
    fn complete_in_order<M: Memory>(
        &mut self,
        memory: &M,
        used: &[RawUsed],
        _chains: &[u16],
    ) -> Result<(), Fault> {
        // Each entry holds the number of descriptors to advance by.
        self.complete(memory, used)
    }

    /// When a whole ring has been used since the last decision, the driver's event has been passed
    /// wherever it is.
    ///
    /// Reserved flags, and an event offset beyond the end of the ring, count as a request for a
    /// call.
    #[inline]
    fn needs_call<M: Memory>(&mut self, memory: &M) -> bool {
        let since = core::mem::replace(&mut self.since, 0);
        // The used descriptors have to be visible before the driver's event is read, and before a
        // call. Pairs with the driver's full barrier between writing its event and looking for used
        // descriptors.
        let Ok(event) = memory.load_event_after_barrier(self.addrs.avail) else {
            return true;
        };
        let event = u32::from_le(event);
        // CAST: the halves of a word.
        match (event >> 16) as u16 {
            EVENT_DISABLE => false,
            EVENT_DESC if self.event_idx => {
                self.has_passed(Position::from_bits(event as u16), since)
            }
            _ => true,
        }
    }
}

impl PackedRing {
    /// Number of descriptors that the device has taken and not given back.
    #[inline]
    fn taken(&self) -> u32 {
        let taken = self.position().distance(self.size, self.used);
        // It exceeds the size only if the driver reuses descriptors before they are given back.
        taken.min(u32::from(self.size))
    }

    /// Whether all descriptors that the device has taken lie in one page, so that all can be
    /// written if one can.
    #[inline]
    fn is_within_a_page(&self) -> bool {
        let [ring, ..] = self.extents();
        let taken = u64::from(self.taken()).wrapping_mul(DESC_SIZE);
        let start = u64::from(self.used.offset()).wrapping_mul(DESC_SIZE);
        // No wrap: offsets in a ring.
        let (from, len) = if start.wrapping_add(taken) <= ring {
            (start, taken)
        } else {
            (0, ring)
        };
        let offset = self.addrs.desc.wrapping_add(from).0 & PAGE_MASK;
        offset.wrapping_add(len) <= PAGE_MASK.wrapping_add(1)
    }

    /// Makes sure that all descriptors that the device has taken can be written.
    #[cold]
    fn touch_taken<M: Memory>(&self, memory: &M) -> Result<(), Fault> {
        let mut at = self.used;
        let mut left = self.taken();
        while left > 0 {
            let addr = self.desc_at(at);
            memory.touch(addr)?;
            // Advance to the next page, or to the start of the ring. No wrap: below a page and a
            // ring.
            let page = PAGE_MASK.wrapping_sub(addr.0 & PAGE_MASK) >> DESC_SIZE.trailing_zeros();
            let end = self.size.wrapping_sub(at.offset());
            // CAST: at most a page's descriptors, and one that crosses into the page.
            let step = (page as u16).wrapping_add(1).min(end);
            at = at.advance(self.size, step);
            left = left.saturating_sub(u32::from(step));
        }
        Ok(())
    }

    /// Updates the used position and the number of descriptors used since the last decision.
    #[inline]
    fn count_used(&mut self, new: Position) {
        let count = new.distance(self.size, self.used);
        self.since = self.since.saturating_add(count);
        self.used = new;
    }

    /// Whether `event` is one of the last `since` positions before the used position, including
    /// those that used descriptors skipped.
    #[inline]
    fn has_passed(&self, event: Position, since: u32) -> bool {
        if since >= u32::from(self.size) || event.offset() >= self.size {
            return true;
        }
        let back = self.used.distance(self.size, event);
        0 < back && back <= since
    }
}
