// SPDX-License-Identifier: GPL-2.0

//! Used buffers, which are collected and published in batches.

use kernel::prelude::*;
use vring::{CompleteWork, Fault, Memory, RawUsed, Ring, MAX_CHAIN_SEGMENTS};

/// Number of used buffers after which a batch is published (`VHOST_NET_BATCH`).
pub(crate) const BATCH: usize = 64;

/// The most entries of one batch: those of a full batch, and the buffers of one more packet.
const CAPACITY: usize = BATCH + MAX_CHAIN_SEGMENTS;

/// Used entries to be published together.
pub(crate) struct UsedBatch {
    entries: KVec<RawUsed>,
    /// Number of chains of each entry, which is more than one only with `VIRTIO_F_IN_ORDER`.
    chains: KVec<u16>,
    len: usize,
    /// Number of chains that share the entry of another chain.
    merged: usize,
    /// `VIRTIO_F_IN_ORDER`: chains taken one after the other may share an entry.
    in_order: bool,
}

impl UsedBatch {
    /// An empty batch.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            entries: KVec::from_elem(RawUsed::default(), CAPACITY, GFP_KERNEL)?,
            chains: KVec::from_elem(1, CAPACITY, GFP_KERNEL)?,
            len: 0,
            merged: 0,
            in_order: false,
        })
    }

    /// Sets whether chains may share entries (`VIRTIO_F_IN_ORDER`).
    pub(crate) fn set_in_order(&mut self, in_order: bool) {
        self.in_order = in_order;
    }

    /// Adds the chain `id` of `slots` ring descriptors, into which `len` bytes were written;
    /// returns `false` if the batch is full.
    #[inline]
    #[must_use]
    pub(crate) fn push<R: CompleteWork>(&mut self, id: u16, slots: u16, len: u32) -> bool {
        match self.entries.get_mut(self.len) {
            Some(entry) => {
                *entry = R::used_entry(id, slots, len);
                self.len = self.len.wrapping_add(1);
                true
            }
            None => false,
        }
    }

    /// Makes the last `count` chains share an entry, with `VIRTIO_F_IN_ORDER`.
    ///
    /// The chains have to be consecutive and complete. The driver assumes that all but the last are
    /// full.
    #[inline]
    pub(crate) fn merge<R: CompleteWork>(&mut self, count: usize) {
        if !self.in_order || count < 2 {
            return;
        }
        let Some(first) = self.len.checked_sub(count) else {
            return;
        };
        let Some(entries) = self.entries.get(first..self.len) else {
            return;
        };
        let group = R::group(entries);
        if let (Some(entry), Some(chains)) =
            (self.entries.get_mut(first), self.chains.get_mut(first))
        {
            *entry = group;
            // CAST: at most a batch and a packet's chains.
            *chains = count as u16;
            self.merged = self.merged.wrapping_add(count).wrapping_sub(1);
            self.len = first.wrapping_add(1);
        }
    }

    /// Number of entries.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Number of chains.
    #[inline]
    pub(crate) fn chains(&self) -> usize {
        self.len.wrapping_add(self.merged)
    }

    /// Drops all but the first `len` entries; the dropped ones must be of one chain each.
    #[inline]
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Rewinds `ring` by all chains, which are then available again.
    pub(crate) fn rewind<R: Ring>(&mut self, ring: &mut R) {
        let entries = self.entries.get(..self.len).unwrap_or_default();
        // CAST: at most `CAPACITY` entries of at most a batch and a packet's chains each, and never
        // more than a round takes.
        ring.rewind(self.chains() as u16, R::slots(entries));
        self.forget();
    }

    /// Drops all chains.
    pub(crate) fn forget(&mut self) {
        // Only shared entries have a count other than 1.
        if let Some(chains) = self.chains.get_mut(..self.len).filter(|_| self.merged != 0) {
            chains.fill(1);
        }
        self.len = 0;
        self.merged = 0;
    }

    /// Publishes all chains in the used ring; [`call`](crate::vhost::round::call) notifies the
    /// guest.
    ///
    /// # Errors
    ///
    /// [`Fault::Unmapped`] when the used ring cannot be written. The batch is unchanged then, and
    /// can be published later.
    #[inline]
    pub(crate) fn publish<M: Memory>(
        &mut self,
        memory: &M,
        ring: &mut impl CompleteWork,
    ) -> Result<(), Fault> {
        let Some(used) = self.entries.get(..self.len).filter(|used| !used.is_empty()) else {
            return Ok(());
        };
        if self.in_order {
            let chains = self.chains.get(..self.len).unwrap_or_default();
            ring.complete_in_order(memory, used, chains)?;
        } else {
            ring.complete(memory, used)?;
        }
        self.forget();
        Ok(())
    }
}
