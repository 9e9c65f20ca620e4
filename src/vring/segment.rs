// SPDX-License-Identifier: GPL-2.0

//! Translated pieces of guest memory.

use crate::addr::{GuestAddr, UserAddr};
use crate::fault::Fault;

/// A piece of the owner's memory.
///
/// The layout is that of `struct iovec` on a 64-bit machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Where it starts.
    pub addr: UserAddr,
    /// Length in bytes.
    pub len: u64,
}

/// The way in which the device accesses a range of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The device reads.
    Read,
    /// The device writes.
    Write,
}

/// A list of segments over storage that the caller owns.
#[derive(Debug)]
pub struct Segments<'a> {
    storage: &'a mut [Segment],
    len: usize,
}

impl<'a> Segments<'a> {
    /// An empty list that holds up to `storage.len()` segments.
    pub fn new(storage: &'a mut [Segment]) -> Self {
        Self { storage, len: 0 }
    }

    /// Appends a segment.
    ///
    /// # Errors
    ///
    /// [`Fault::TooManySegments`] when the storage is full.
    #[inline]
    pub fn push(&mut self, segment: Segment) -> Result<(), Fault> {
        let slot = self
            .storage
            .get_mut(self.len)
            .ok_or(Fault::TooManySegments)?;
        *slot = segment;
        self.len = self.len.wrapping_add(1);
        Ok(())
    }

    /// Removes all segments from position `len` on.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Number of segments.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no segments.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The segments.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[Segment] {
        self.storage.get(..self.len).unwrap_or_default()
    }

    /// The segments from position `first` on.
    #[inline]
    #[must_use]
    pub fn from(&self, first: usize) -> &[Segment] {
        self.storage.get(first..self.len).unwrap_or_default()
    }
}

/// Position of the region, or of the mapping in an IOTLB, that a queue used last.
///
/// A hint is always checked: a wrong one only costs a search. A processor may speculate past the
/// check, though (Spectre v1), so a hint must not be carried from one table to another: see
/// [`SplitRing::forget_hint`](crate::SplitRing::forget_hint).
#[derive(Clone, Copy, Debug, Default)]
pub struct Hint(pub(crate) usize);

/// A translation of guest addresses to the owner's.
///
/// Implemented by [`MemTable`](crate::MemTable) for guest-physical addresses and by
/// [`Iotlb`](crate::Iotlb) for IO virtual ones.
pub trait Translate {
    /// Appends the segments that make up `len` bytes from `addr` to `out`.
    ///
    /// A zero length appends nothing and always succeeds. `hint` speeds up the next translation and
    /// may be anything.
    ///
    /// # Errors
    ///
    /// [`Fault::OutsideMemory`] when not every byte translates, [`Fault::Denied`] when the access
    /// is not allowed, [`Fault::TooManySegments`] when `out` is full. `out` may then have gained
    /// segments.
    fn translate(
        &self,
        hint: &mut Hint,
        addr: GuestAddr,
        len: u32,
        access: Access,
        out: &mut Segments<'_>,
    ) -> Result<(), Fault>;
}
