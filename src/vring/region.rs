// SPDX-License-Identifier: GPL-2.0

//! The memory table: guest-physical memory as a sorted list of regions.

use crate::addr::{GuestAddr, UserAddr};
use crate::fault::Fault;
use crate::segment::{Access, Hint, Segment, Segments, Translate};

/// A range of guest-physical memory and the user address at which the owner maps it.
///
/// As `struct vhost_memory_region` of `include/uapi/linux/vhost.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First guest-physical address.
    pub guest: GuestAddr,
    /// Length in bytes.
    pub size: u64,
    /// User address of the first byte.
    pub user: UserAddr,
}

/// A region is empty, or ends beyond the guest's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidRegion;

/// Regions, sorted and free of overlap, in storage of the caller's choice.
///
/// An index divides the guest addresses from the first region to the last into blocks of equal
/// size; their number is the largest power of two not above the number of index entries. The entry
/// of a block is the first region that ends in or behind the block, or else the last region. The
/// index only speeds up a search: without entries, or with wrong ones, the result is the same.
///
/// # Invariants
///
/// The first `len` regions are not empty, do not wrap, and each starts beyond the end of the one
/// before.
#[derive(Debug)]
pub struct MemTable<S, I = [u16; 0]> {
    regions: S,
    len: usize,
    index: I,
    /// The number of blocks, a power of two, less one; zero without an index.
    mask: usize,
    /// The lowest guest address of the regions.
    base: u64,
    /// Binary logarithm of the size of a block.
    shift: u32,
}

impl<S: AsRef<[Region]> + AsMut<[Region]>> MemTable<S> {
    /// As [`MemTable::with_index`], without one.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn new(regions: S) -> Result<Self, InvalidRegion> {
        Self::with_index(regions, [])
    }
}

impl<S, I> MemTable<S, I>
where
    S: AsRef<[Region]> + AsMut<[Region]>,
    I: AsRef<[u16]> + AsMut<[u16]>,
{
    /// Builds a table from regions in any order.
    ///
    /// Where regions overlap, the shared bytes belong to the region with the lower guest address,
    /// or to the earlier in the list of two with the same address. The in-tree vhost's interval
    /// tree finds the same.
    ///
    /// # Errors
    ///
    /// [`InvalidRegion`] when a region is empty or wraps, as `vhost_iotlb_add_range()`.
    pub fn with_index(mut regions: S, index: I) -> Result<Self, InvalidRegion> {
        let list = regions.as_mut();
        for region in list.iter() {
            region.last().ok_or(InvalidRegion)?;
        }
        sort(list);

        // Cut off what an earlier region covers, and close the gaps that fully covered regions
        // leave.
        let mut len = 0usize;
        let mut end: Option<u64> = None;
        for from in 0..list.len() {
            let Some(mut region) = list.get(from).copied() else {
                break;
            };
            let Some(last) = region.last() else {
                continue;
            };
            if let Some(end) = end.filter(|end| region.guest.0 <= *end) {
                if last <= end {
                    continue;
                }
                // No wrap: guest <= end < last.
                let cut = end.wrapping_add(1).wrapping_sub(region.guest.0);
                region.guest = GuestAddr(end.wrapping_add(1));
                region.user = region.user.wrapping_add(cut);
                region.size = region.size.wrapping_sub(cut);
            }
            if let Some(slot) = list.get_mut(len) {
                *slot = region;
            }
            len = len.wrapping_add(1);
            end = Some(last);
        }
        // INVARIANT: each region kept was checked above and starts beyond the last one's end.
        let mut table = Self {
            regions,
            len,
            index,
            mask: 0,
            base: 0,
            shift: 0,
        };
        table.fill_index(end.unwrap_or(0));
        Ok(table)
    }

    /// Fills the index for regions whose last guest address is `end`.
    fn fill_index(&mut self, end: u64) {
        let regions = self.regions.as_ref().get(..self.len).unwrap_or_default();
        let index = self.index.as_mut();
        let (Some(first), Some(log)) = (regions.first(), index.len().checked_ilog2()) else {
            return;
        };
        self.mask = 1usize.wrapping_shl(log).wrapping_sub(1);
        self.base = first.guest.0;
        let span = end.wrapping_sub(self.base);
        // CAST: widens. The number of the last block must not exceed the mask.
        while span.checked_shr(self.shift).unwrap_or(0) > self.mask as u64 {
            self.shift = self.shift.wrapping_add(1);
        }
        // No wrap: there is a first one.
        let last = regions.len().wrapping_sub(1);
        let mut position = 0usize;
        for (block, entry) in (0u64..).zip(index.iter_mut()) {
            let start = block.checked_shl(self.shift).unwrap_or(u64::MAX);
            let ends_before = |region: &Region| {
                let last = region.last().unwrap_or(u64::MAX);
                last.wrapping_sub(self.base) < start
            };
            while regions.get(position).is_some_and(ends_before) {
                position = position.wrapping_add(1);
            }
            // A block behind the last region also gets the position of a region.
            *entry = u16::try_from(position.min(last)).unwrap_or(0);
        }
    }
}

impl<S: AsRef<[Region]>, I: AsRef<[u16]>> MemTable<S, I> {
    /// The regions in ascending order, without overlap.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        self.regions.as_ref().get(..self.len).unwrap_or_default()
    }

    /// Calls `visit` with the start and length of each range of guest addresses that maps to any of
    /// `len` bytes of user memory from `user` on; returns whether every byte is mapped.
    ///
    /// This is the reverse of translation, for logging writes by user address. A byte may be mapped
    /// at several guest addresses; all are reported. For a `len` of 0 nothing is reported and the
    /// result is `true`; for a range that wraps nothing is reported and the result is `false`.
    ///
    /// # Errors
    ///
    /// Those that `visit` returns.
    pub fn guest_ranges<E>(
        &self,
        user: UserAddr,
        len: u64,
        mut visit: impl FnMut(GuestAddr, u64) -> Result<(), E>,
    ) -> Result<bool, E> {
        if len == 0 {
            return Ok(true);
        }
        // No wrap: not zero.
        if user.0.checked_add(len.wrapping_sub(1)).is_none() {
            return Ok(false);
        }
        for region in self.regions() {
            for (guest, here) in region.parts_in(user, len) {
                visit(guest, here)?;
            }
        }
        let (mut next, mut left) = (user, len);
        // Advance by the region that maps the most bytes from here on, at least one byte each time.
        loop {
            let runs = self.regions().iter().filter_map(|r| r.run_from(next));
            match runs.max() {
                Some(run) if run >= left => return Ok(true),
                Some(run) => {
                    next = next.wrapping_add(run);
                    left = left.wrapping_sub(run);
                }
                None => return Ok(false),
            }
        }
    }

    /// The region that contains `addr`, and its position.
    #[inline]
    fn find(&self, addr: GuestAddr) -> Option<(usize, &Region)> {
        let regions = self.regions();
        let after = regions.partition_point(|region| region.guest <= addr);
        // Saturates in place of a branch, which could be mispredicted: the check below rejects the
        // first region.
        let position = after.saturating_sub(1);
        let region = regions.get(position)?;
        region.offset_of(addr).map(|_| (position, region))
    }
}

impl<S: AsRef<[Region]>, I: AsRef<[u16]>> Translate for MemTable<S, I> {
    #[inline(always)]
    fn translate(
        &self,
        hint: &mut Hint,
        addr: GuestAddr,
        len: u32,
        _access: Access,
        out: &mut Segments<'_>,
    ) -> Result<(), Fault> {
        let len = u64::from(len);
        let regions = self.regions();
        if let Some(region) = regions.get(hint.0) {
            if let Some(user) = region.user_of(addr, len) {
                return out.push(Segment { addr: user, len });
            }
        }
        // CAST: the mask leaves fewer bits. A mask in place of a bounds check, which a processor
        // could speculate past to load from an address that the guest chooses (Spectre v1): every
        // address selects an entry, and the region found is checked below.
        let block = addr.0.wrapping_sub(self.base).wrapping_shr(self.shift) as usize & self.mask;
        if let Some(&position) = self.index.as_ref().get(block) {
            let position = usize::from(position);
            if let Some(region) = regions.get(position) {
                if let Some(user) = region.user_of(addr, len) {
                    *hint = Hint(position);
                    return out.push(Segment { addr: user, len });
                }
            }
        }
        self.translate_pieces(hint, addr, len, out)
    }
}

impl<S: AsRef<[Region]>, I: AsRef<[u16]>> MemTable<S, I> {
    /// Translates a range that may be empty, cross regions, or lie in a region that neither hint
    /// nor index found.
    #[cold]
    fn translate_pieces(
        &self,
        hint: &mut Hint,
        mut addr: GuestAddr,
        len: u64,
        out: &mut Segments<'_>,
    ) -> Result<(), Fault> {
        let mut left = len;
        while left > 0 {
            let outside = Fault::outside(addr.0, left);
            let (position, region) = self.find(addr).ok_or(outside)?;
            *hint = Hint(position);
            let offset = region.offset_of(addr).ok_or(outside)?;
            // No wrap: the offset lies within the region.
            let here = region.size.wrapping_sub(offset).min(left);
            out.push(Segment {
                addr: region.user.wrapping_add(offset),
                len: here,
            })?;
            left = left.wrapping_sub(here);
            if left > 0 {
                let next = addr.0.checked_add(here);
                addr = GuestAddr(next.ok_or(Fault::outside(addr.0, left))?);
            }
        }
        Ok(())
    }
}

impl Region {
    /// The last guest-physical address, unless the region is empty or wraps.
    fn last(&self) -> Option<u64> {
        self.guest.0.checked_add(self.size.checked_sub(1)?)
    }

    /// The user address of `addr`, if `len` is not zero and the region contains `len` bytes from
    /// there on.
    #[inline]
    fn user_of(&self, addr: GuestAddr, len: u64) -> Option<UserAddr> {
        let offset = addr.0.wrapping_sub(self.guest.0);
        // An address before the region gives an offset beyond any size.
        let end = offset.checked_add(len)?;
        (len > 0 && end <= self.size).then_some(self.user.wrapping_add(offset))
    }

    /// The number of bytes of the region from user address `user` on, if the region contains it.
    fn run_from(&self, user: UserAddr) -> Option<u64> {
        let offset = user.0.wrapping_sub(self.user.0);
        self.size.checked_sub(offset).filter(|run| *run > 0)
    }

    /// The parts of the region that map to `len` bytes of user memory from `user` on, as guest
    /// address and length.
    ///
    /// There can be two if the region wraps in user space.
    fn parts_in(&self, user: UserAddr, len: u64) -> impl Iterator<Item = (GuestAddr, u64)> {
        let first = self.run_from(user).map(|run| {
            // No wrap: within the region.
            let offset = self.size.wrapping_sub(run);
            (GuestAddr(self.guest.0.wrapping_add(offset)), run.min(len))
        });
        // From the region's start, if that lies behind the start of the range.
        let gap = self.user.0.wrapping_sub(user.0);
        let rest = len.checked_sub(gap).filter(|rest| gap > 0 && *rest > 0);
        let second = rest.map(|rest| (self.guest, rest.min(self.size)));
        first.into_iter().chain(second)
    }

    /// How far into the region `addr` lies, in bytes.
    #[inline]
    fn offset_of(&self, addr: GuestAddr) -> Option<u64> {
        let offset = addr.0.wrapping_sub(self.guest.0);
        (offset < self.size).then_some(offset)
    }
}

/// Sorts by guest address, and keeps the order of equal ones.
///
/// Insertion sort: tables are short and arrive sorted or nearly so, and no memory is allocated.
fn sort(regions: &mut [Region]) {
    for end in 1..regions.len() {
        for right in (1..=end).rev() {
            let left = right.wrapping_sub(1);
            match (regions.get(left), regions.get(right)) {
                (Some(a), Some(b)) if a.guest > b.guest => regions.swap(left, right),
                _ => break,
            }
        }
    }
}
