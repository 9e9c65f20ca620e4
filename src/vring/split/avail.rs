// SPDX-License-Identifier: GPL-2.0

//! The *get work* half: the available ring, from the driver's index to chains.

use super::SplitRing;
use crate::chain::{Chain, Walk};
use crate::desc::{
    offset_of_entry, Desc, RawDesc, AVAIL_ENTRY_SIZE, DESC_F_INDIRECT, DESC_F_NEXT, OFFSET_INDEX,
};
use crate::fault::Fault;
use crate::memory::{LoadMemory, Memory};
use crate::ring::{GetWork, PREFETCH};
use crate::segment::{Segments, Translate};

impl GetWork for SplitRing {
    #[inline(always)]
    fn size(&self) -> u16 {
        self.size
    }

    #[inline(always)]
    fn next_chain<M: Memory, T: Translate>(
        &mut self,
        memory: &M,
        table: &T,
        out: &mut Segments<'_>,
    ) -> Result<Option<Chain>, Fault> {
        if self.prefetch.next >= self.prefetch.len && !self.read_ahead(memory)? {
            return Ok(None);
        }
        let next = self.prefetch.next;
        let (Some(&head), Some(&raw)) =
            (self.prefetch.heads.get(next), self.prefetch.descs.get(next))
        else {
            return Ok(None);
        };
        let first = out.len();
        let desc = Desc::from_raw(raw);
        let chain = if desc.has(DESC_F_NEXT | DESC_F_INDIRECT) {
            self.walk(memory, table, head, desc, out)
        } else {
            let mut chain = Chain::new(head);
            let appended = chain.append(table, &mut self.hint, &desc, out);
            appended.map(|()| chain)
        };
        match chain {
            Ok(chain) => {
                self.prefetch.next = next.wrapping_add(1);
                self.last_avail = self.last_avail.wrapping_add(1);
                Ok(Some(chain))
            }
            Err(fault) => {
                out.truncate(first);
                // Read it again next time: the driver may have corrected it.
                self.forget_prefetch();
                Err(fault)
            }
        }
    }

    fn rewind(&mut self, chains: u16, _slots: u16) {
        self.last_avail = self.last_avail.wrapping_sub(chains);
        self.prefetch.next = match self.prefetch.next.checked_sub(usize::from(chains)) {
            Some(next) => next,
            None => {
                self.prefetch.len = 0;
                0
            }
        };
    }

    #[inline]
    fn has_work<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault> {
        if self.avail == self.last_avail {
            self.read_avail_index(memory)?;
        }
        Ok(self.avail != self.last_avail)
    }

    #[inline]
    fn is_drained(&self) -> bool {
        self.avail == self.last_avail
    }
}

impl SplitRing {
    /// Discards what was read ahead, so that the next chain's entry and descriptors are read from
    /// memory again.
    ///
    /// For a chain that the caller rejects and gives back. After [`GetWork::rewind`] alone the ring
    /// would hand out the old copy, although the driver may have corrected the chain in memory.
    /// When the ring itself returns a [`Fault`] it does this by itself.
    #[inline]
    pub fn forget_prefetch(&mut self) {
        self.prefetch.next = 0;
        self.prefetch.len = 0;
    }

    /// Reads the driver's index; returns whether it has moved since it was last read.
    #[inline]
    pub(super) fn read_avail_index<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault> {
        let avail = self.load_avail_index(memory)?;
        self.seen = avail;
        if !self.is_in_bounds(avail) {
            return Err(Fault::AvailIndex {
                last: self.last_avail,
                avail,
            });
        }
        let moved = avail != self.avail;
        self.avail = avail;
        // A driver must not move its index back. If one does, chains read ahead beyond the new
        // index are dropped: otherwise the device would run past the index and on for 2^16 entries
        // before it met the index again.
        let ahead = usize::from(avail.wrapping_sub(self.last_avail));
        let end = self.prefetch.next.wrapping_add(ahead);
        self.prefetch.len = self.prefetch.len.min(end);
        Ok(moved)
    }

    /// Loads the driver's index.
    #[inline(always)]
    pub(super) fn load_avail_index<M: LoadMemory>(&self, memory: &M) -> Result<u16, Fault> {
        // Pairs with the driver's write barrier between filling the ring and moving the index.
        Ok(u16::from_le(
            memory.load_acquire(self.avail_at(OFFSET_INDEX))?,
        ))
    }

    /// Whether `avail` is a valid index of the driver: it makes no more chains available than the
    /// ring has entries.
    #[inline(always)]
    pub(super) fn is_in_bounds(&self, avail: u16) -> bool {
        avail.wrapping_sub(self.last_avail) <= self.size
    }

    /// Fills the empty prefetch; `false` if no chain is available.
    #[inline]
    fn read_ahead<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault> {
        if !self.has_work(memory)? {
            return Ok(false);
        }
        let position = self.last_avail & self.mask();
        // Up to the end of the ring: one run of entries. No wrap: position < size.
        let run = self.size.wrapping_sub(position);
        let want = usize::from(self.avail.wrapping_sub(self.last_avail).min(run)).min(PREFETCH);
        self.forget_prefetch();
        // A later page may be unmapped; chains before it are still served.
        if self.read_entries(memory, position, want).is_err() {
            self.read_entries(memory, position, 1)?;
        }
        Ok(true)
    }

    /// Reads `want` entries from ring position `position` and their first descriptors.
    #[inline]
    fn read_entries<M: Memory>(
        &mut self,
        memory: &M,
        position: u16,
        want: usize,
    ) -> Result<(), Fault> {
        let size = self.size;
        let entry = self.avail_at(offset_of_entry(position, AVAIL_ENTRY_SIZE));
        let heads = self.prefetch.heads.get_mut(..want).unwrap_or_default();
        let descs = self.prefetch.descs.get_mut(..want).unwrap_or_default();
        // It stops at the first invalid index, so that the chains before it are served.
        let good = memory.load_entries(entry, self.addrs.desc, size, heads, descs)?;
        if let (0, Some(&head)) = (good, heads.first()) {
            return Err(Fault::DescIndex {
                index: u32::from(head),
                size: u32::from(size),
            });
        }
        self.prefetch.next = 0;
        self.prefetch.len = good;
        Ok(())
    }

    /// Translates a chain from its first descriptor on.
    #[inline(never)]
    fn walk<M: Memory, T: Translate>(
        &mut self,
        memory: &M,
        table: &T,
        head: u16,
        first: Desc,
        out: &mut Segments<'_>,
    ) -> Result<Chain, Fault> {
        let mut walk = Walk::new(memory, table, &mut self.hint, &mut self.window, out);
        let mut desc = first;
        // More steps than the table has descriptors are a loop.
        for before in 0..self.size {
            walk.append(&desc)?;
            if !desc.has(DESC_F_NEXT) {
                // No wrap: before < size.
                return Ok(walk.end(head, before.wrapping_add(1)));
            }
            if desc.next >= self.size {
                return Err(Fault::DescIndex {
                    index: u32::from(desc.next),
                    size: u32::from(self.size),
                });
            }
            let mut raw = [RawDesc::default()];
            memory.gather_descs(self.addrs.desc, &[desc.next], &mut raw)?;
            let [raw] = raw;
            desc = Desc::from_raw(raw);
        }
        Err(Fault::ChainTooLong)
    }
}
