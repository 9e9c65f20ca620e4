// SPDX-License-Identifier: GPL-2.0

//! The buffers that a packet to receive takes.

use vring::Chain;

/// The descriptors that the chains taken for a packet occupy.
#[derive(Default)]
pub(super) struct Taken {
    /// Descriptors, those of indirect tables included.
    pub(super) descs: u32,
    /// Descriptors of the ring.
    slots: u16,
    /// Descriptors of the ring in the smallest chain; 0 if there is none.
    smallest: u16,
}

impl Taken {
    #[inline]
    pub(super) fn add(&mut self, chain: &Chain) {
        self.descs = self.descs.saturating_add(chain.descs);
        self.slots = self.slots.saturating_add(chain.slots);
        self.smallest = match self.smallest {
            0 => chain.slots,
            smallest => smallest.min(chain.slots),
        };
    }

    /// Whether a ring of `size` descriptors has no room for another chain besides these, even one
    /// as small as the smallest of them.
    pub(super) fn fill(&self, size: u16) -> bool {
        size.saturating_sub(self.slots) < self.smallest
    }
}
