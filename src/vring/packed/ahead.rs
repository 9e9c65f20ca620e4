// SPDX-License-Identifier: GPL-2.0

//! The prefetch: descriptors that have been read and not handed out yet.

use super::desc_at;
use crate::addr::UserAddr;
use crate::desc::RawDesc;
use crate::fault::Fault;
use crate::memory::Memory;
use crate::position::Position;
use crate::ring::PREFETCH;

/// A run of consecutive available descriptors, and what is known of the ring behind them.
#[derive(Debug)]
pub(super) struct Ahead {
    /// The descriptors; the first `len` are valid.
    descs: [RawDesc; PREFETCH],
    /// Position of the first descriptor.
    start: Position,
    /// Index in `descs` of the next descriptor to hand out.
    next: usize,
    /// Number of descriptors read.
    len: usize,
    /// The first position that no look for work found available.
    ///
    /// After a rewind there may be available descriptors between the run and this position.
    front: Position,
    /// Whether the last look for work ended at `front` because nothing was available there.
    ended: bool,
}

impl Default for Ahead {
    // Inline, so that it is constructed in place.
    #[inline(always)]
    fn default() -> Self {
        Self {
            descs: [[0; 2]; PREFETCH],
            start: Position::START,
            next: 0,
            len: 0,
            front: Position::START,
            ended: false,
        }
    }
}

impl Ahead {
    /// Continues at `at`; nothing is known of the descriptors there.
    pub(super) fn go_to(&mut self, at: Position) {
        self.go_back_to(at);
        self.front = at;
    }

    /// Continues at `at`, which is at `front` or before it.
    pub(super) fn go_back_to(&mut self, at: Position) {
        self.start = at;
        self.next = 0;
        self.len = 0;
        self.ended = false;
    }

    /// Position of the next descriptor, in a ring of `size`.
    #[inline]
    pub(super) fn position(&self, size: u16) -> Position {
        match self.next {
            // Unchanged: the owner may have set a position beyond the end of the ring.
            0 => self.start,
            // CAST: at most `PREFETCH`.
            next => self.start.advance(size, next as u16),
        }
    }

    /// The first position that no look for work found available.
    #[inline]
    pub(super) fn front(&self) -> Position {
        self.front
    }

    /// Records that the descriptor at `front` has become available.
    #[inline]
    pub(super) fn goes_on(&mut self) {
        self.ended = false;
    }

    /// Whether all that the last look for work found has been handed out, and nothing was available
    /// behind it.
    #[inline]
    pub(super) fn is_drained(&self) -> bool {
        self.ended && self.is_empty()
    }

    /// Whether there is nothing to hand out.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.next >= self.len
    }

    /// The next descriptor, without handing it out.
    #[inline(always)]
    pub(super) fn peek(&self) -> Option<RawDesc> {
        self.descs.get(self.next).copied()
    }

    /// Hands out the next descriptor, which has to exist.
    #[inline(always)]
    pub(super) fn step(&mut self) {
        self.next = self.next.wrapping_add(1);
    }

    /// Gives back the last `slots` descriptors handed out, in a ring of `size`.
    pub(super) fn rewind(&mut self, size: u16, slots: u16) {
        match self.next.checked_sub(usize::from(slots)) {
            Some(next) => self.next = next,
            None => self.go_back_to(self.position(size).retreat(size, slots)),
        }
    }

    /// Discards what was read ahead.
    #[inline]
    pub(super) fn forget(&mut self, size: u16) {
        // When all is handed out there is nothing to discard, and `ended` stays valid.
        if !self.is_empty() {
            self.go_back_to(self.position(size));
        }
    }

    /// Reads the next descriptors of the ring of `size` at `ring`; `false` if none are available.
    ///
    /// Only to be called when there is nothing to hand out.
    #[inline]
    pub(super) fn fill<M: Memory>(
        &mut self,
        memory: &M,
        ring: UserAddr,
        size: u16,
    ) -> Result<bool, Fault> {
        let at = self.position(size);
        // Up to the end of the ring: one run of descriptors.
        let left = match size.checked_sub(at.offset()) {
            Some(left @ 1..) => usize::from(left),
            _ => {
                return Err(Fault::Base {
                    base: u32::from(at.bits()),
                    size,
                })
            }
        };
        self.go_back_to(at);
        let want = left.min(PREFETCH);
        // A later page may be unmapped; descriptors before it are still served.
        if self.read(memory, ring, want).is_err() {
            self.read(memory, ring, 1)?;
        }
        // CAST: at most `PREFETCH`.
        self.front = at.advance(size, self.len as u16);
        Ok(self.len != 0)
    }

    /// Reads up to `want` descriptors from `start` on.
    #[inline]
    fn read<M: Memory>(&mut self, memory: &M, ring: UserAddr, want: usize) -> Result<(), Fault> {
        let descs = self.descs.get_mut(..want).unwrap_or_default();
        let at = desc_at(ring, self.start);
        self.len = memory.load_available(at, self.start.wrap(), descs)?;
        self.ended = self.len < want;
        Ok(())
    }
}
