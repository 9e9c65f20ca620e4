// SPDX-License-Identifier: GPL-2.0

//! The *get work* half: reads available descriptors and makes chains of them.

use super::PackedRing;
use crate::chain::{Chain, Walk};
use crate::desc::{Desc, DESC_F_INDIRECT, DESC_F_NEXT};
use crate::fault::Fault;
use crate::memory::Memory;
use crate::ring::GetWork;
use crate::segment::{Segments, Translate};

impl GetWork for PackedRing {
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
        if self.ahead.is_empty() && !self.read_ahead(memory)? {
            return Ok(None);
        }
        let Some(raw) = self.ahead.peek() else {
            return Ok(None);
        };
        let first = out.len();
        let (desc, id) = Desc::from_packed(raw);
        let chain = if desc.has(DESC_F_NEXT | DESC_F_INDIRECT) {
            self.walk(memory, table, out)
        } else {
            let mut chain = Chain::new(id);
            let appended = chain.append(table, &mut self.hint, &desc, out);
            appended.map(|()| {
                self.ahead.step();
                chain
            })
        };
        match chain {
            Ok(chain) => Ok(Some(chain)),
            Err(fault) => {
                out.truncate(first);
                // Read it again next time: the driver may have corrected it.
                self.forget_prefetch();
                Err(fault)
            }
        }
    }

    fn rewind(&mut self, _chains: u16, slots: u16) {
        self.ahead.rewind(self.size, slots);
    }

    /// What is found is read ahead.
    #[inline]
    fn has_work<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault> {
        Ok(!self.ahead.is_empty() || self.read_ahead(memory)?)
    }

    #[inline]
    fn is_drained(&self) -> bool {
        self.ahead.is_drained()
    }
}

impl PackedRing {
    /// Discards what was read ahead, so that the next chain's descriptors are read from memory
    /// again.
    ///
    /// For a chain that the caller rejects and gives back. After [`GetWork::rewind`] alone the ring
    /// would hand out the old copy, although the driver may have corrected the chain in memory.
    /// When the ring itself returns a [`Fault`] it does this by itself.
    #[inline]
    pub fn forget_prefetch(&mut self) {
        self.ahead.forget(self.size);
    }

    /// Reads the next descriptors when none are left; `false` if none are available.
    #[inline]
    fn read_ahead<M: Memory>(&mut self, memory: &M) -> Result<bool, Fault> {
        self.ahead.fill(memory, self.addrs.desc, self.size)
    }

    /// Translates a chain of several descriptors or of an indirect table, from the next descriptor
    /// on.
    #[inline(never)]
    fn walk<M: Memory, T: Translate>(
        &mut self,
        memory: &M,
        table: &T,
        out: &mut Segments<'_>,
    ) -> Result<Chain, Fault> {
        // Taken from the prefetch a second time: as a parameter it would slow down chains of one
        // buffer.
        let (desc, id) = Desc::from_packed(self.ahead.peek().unwrap_or_default());
        if desc.has(DESC_F_NEXT) {
            return self.walk_descs(memory, table, out);
        }
        let mut walk = Walk::new(memory, table, &mut self.hint, &mut self.window, out);
        walk.append_packed(&desc)?;
        self.ahead.step();
        Ok(walk.end(id, 1))
    }

    /// Translates a chain of several descriptors; after a fault its first descriptor is the next
    /// again.
    #[inline(never)]
    fn walk_descs<M: Memory, T: Translate>(
        &mut self,
        memory: &M,
        table: &T,
        out: &mut Segments<'_>,
    ) -> Result<Chain, Fault> {
        let at = self.position();
        let chain = self.try_walk(memory, table, out);
        if chain.is_err() {
            self.ahead.go_back_to(at);
        }
        chain
    }

    /// Translates a chain; after a fault the position may be within the chain.
    fn try_walk<M: Memory, T: Translate>(
        &mut self,
        memory: &M,
        table: &T,
        out: &mut Segments<'_>,
    ) -> Result<Chain, Fault> {
        let Self { size, ahead, .. } = self;
        let ring = self.addrs.desc;
        let mut walk = Walk::new(memory, table, &mut self.hint, &mut self.window, out);
        // A chain cannot have more descriptors than the ring.
        for before in 0..*size {
            if ahead.is_empty() && !ahead.fill(memory, ring, *size)? {
                let offset = ahead.position(*size).offset();
                return Err(Fault::Unavailable { offset });
            }
            let (desc, id) = Desc::from_packed(ahead.peek().unwrap_or_default());
            if desc.has(DESC_F_INDIRECT) && desc.has(DESC_F_NEXT) {
                return Err(Fault::IndirectNext);
            }
            walk.append_packed(&desc)?;
            ahead.step();
            if !desc.has(DESC_F_NEXT) {
                // No wrap: before < size.
                return Ok(walk.end(id, before.wrapping_add(1)));
            }
        }
        Err(Fault::ChainTooLong)
    }
}
