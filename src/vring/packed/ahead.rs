// SPDX-License-Identifier: GPL-2.0

//! Descriptors read ahead of being asked for.

use super::desc_at;
use crate::addr::UserAddr;
use crate::desc::RawDesc;
use crate::fault::Fault;
use crate::memory::Memory;
use crate::position::Position;
use crate::ring::PREFETCH;

/// A run of available descriptors, which follow each other in the ring, and what is known of the ring
/// behind them.
#[derive(Debug)]
pub(super) struct Ahead {
    /// The descriptors, as far as `len` tells.
    descs: [RawDesc; PREFETCH],
    /// Position of the first.
    start: Position,
    /// The next to hand out.
    next: usize,
    /// How many there are.
    len: usize,
    /// The first position that no look for work found available. After chains were given back there
    /// may be others between it and the run.
    front: Position,
    /// Whether the last look for work ended there because nothing was available.
    ended: bool,
}

impl Default for Ahead {
    // Inline, so that it is made where it stays.
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
    /// Goes on at `at`, with nothing known of what is there.
    pub(super) fn go_to(&mut self, at: Position) {
        self.go_back_to(at);
        self.front = at;
    }

    /// Goes on at `at`, which is not behind `front`.
    pub(super) fn go_back_to(&mut self, at: Position) {
        self.start = at;
        self.next = 0;
        self.len = 0;
        self.ended = false;
    }

    /// Where the next descriptor is, in a ring of `size`.
    #[inline]
    pub(super) fn position(&self, size: u16) -> Position {
        match self.next {
            // As it is: the owner may have set one that the ring does not have.
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

    /// Takes note that the descriptor there has become available.
    #[inline]
    pub(super) fn goes_on(&mut self) {
        self.ended = false;
    }

    /// Whether all that the last look for work found has been handed out, and there was nothing behind.
    #[inline]
    pub(super) fn is_drained(&self) -> bool {
        self.ended && self.is_empty()
    }

    /// Whether there is nothing to hand out.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.next >= self.len
    }

    /// The next descriptor, which stays the next.
    #[inline(always)]
    pub(super) fn peek(&self) -> Option<RawDesc> {
        self.descs.get(self.next).copied()
    }

    /// Goes on behind the next descriptor, which is there.
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

    /// Forgets what was read ahead.
    #[inline]
    pub(super) fn forget(&mut self, size: u16) {
        // Else nothing is forgotten, and it may still be that there was nothing behind.
        if !self.is_empty() {
            self.go_back_to(self.position(size));
        }
    }

    /// Reads the next descriptors of the ring of `size` at `ring`, when there is nothing to hand out;
    /// whether there is then.
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
        // One page of many may be out of reach: then what lies before it still counts.
        if self.read(memory, ring, want).is_err() {
            self.read(memory, ring, 1)?;
        }
        // CAST: at most `PREFETCH`.
        self.front = at.advance(size, self.len as u16);
        Ok(self.len != 0)
    }

    /// Reads up to `want` descriptors from where the next one is.
    #[inline]
    fn read<M: Memory>(&mut self, memory: &M, ring: UserAddr, want: usize) -> Result<(), Fault> {
        let descs = self.descs.get_mut(..want).unwrap_or_default();
        let at = desc_at(ring, self.start);
        self.len = memory.load_available(at, self.start.wrap(), descs)?;
        self.ended = self.len < want;
        Ok(())
    }
}
