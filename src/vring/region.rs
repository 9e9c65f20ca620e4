// SPDX-License-Identifier: GPL-2.0

//! The memory table: guest-physical memory as a sorted list of regions.

use crate::addr::{GuestAddr, UserAddr};
use crate::fault::Fault;
use crate::segment::{Access, Segment, Segments, Translate};

/// A run of guest-physical memory and where the owner has it mapped.
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

/// A region is empty or ends beyond the guest's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidRegion;

/// Position of the region that a queue used last.
///
/// A hint is never trusted: a wrong one costs a search.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hint(usize);

/// Regions, sorted and free of overlap, in storage of the caller's choice.
///
/// # Invariants
///
/// The first `len` regions are not empty, do not wrap, and each starts beyond the end of the one
/// before.
#[derive(Debug)]
pub struct MemTable<S> {
    regions: S,
    len: usize,
}

impl<S: AsRef<[Region]> + AsMut<[Region]>> MemTable<S> {
    /// Builds a table from regions in any order.
    ///
    /// Where regions overlap, the one with the lower guest address has the bytes they share, and of
    /// two with the same address the earlier in the list: what the in-tree vhost's interval tree
    /// finds.
    ///
    /// # Errors
    ///
    /// [`InvalidRegion`] when a region is empty or wraps, as `vhost_iotlb_add_range()`.
    pub fn new(mut regions: S) -> Result<Self, InvalidRegion> {
        let list = regions.as_mut();
        for region in list.iter() {
            region.last().ok_or(InvalidRegion)?;
        }
        sort(list);

        // Cut off what an earlier region has, close the gaps that swallowed regions leave.
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
        Ok(Self { regions, len })
    }
}

impl<S: AsRef<[Region]>> MemTable<S> {
    /// The regions in ascending order, without overlap.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        self.regions.as_ref().get(..self.len).unwrap_or_default()
    }

    /// The region that has `addr`, and its position.
    #[inline]
    fn find(&self, addr: GuestAddr) -> Option<(usize, &Region)> {
        let regions = self.regions();
        let after = regions.partition_point(|region| region.guest <= addr);
        let position = after.checked_sub(1)?;
        let region = regions.get(position)?;
        region.offset_of(addr).map(|_| (position, region))
    }
}

impl<S: AsRef<[Region]>> Translate for MemTable<S> {
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
        if let Some(region) = self.regions().get(hint.0) {
            if let Some(user) = region.user_of(addr, len) {
                return out.push(Segment { addr: user, len });
            }
        }
        self.translate_pieces(hint, addr, len, out)
    }
}

impl<S: AsRef<[Region]>> MemTable<S> {
    /// Translates what may be empty, cross regions, or lie in another region than the last.
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
            let outside = Fault::OutsideMemory {
                addr: addr.0,
                len: left,
            };
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
                addr = GuestAddr(next.ok_or(Fault::OutsideMemory {
                    addr: addr.0,
                    len: left,
                })?);
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

    /// The user address of `addr`, if the region has `len` bytes from there on; at least one.
    #[inline]
    fn user_of(&self, addr: GuestAddr, len: u64) -> Option<UserAddr> {
        let offset = addr.0.wrapping_sub(self.guest.0);
        // An address before the region gives an offset beyond any size.
        let end = offset.checked_add(len)?;
        (len > 0 && end <= self.size).then_some(self.user.wrapping_add(offset))
    }

    /// How far into the region `addr` lies, in bytes.
    #[inline]
    fn offset_of(&self, addr: GuestAddr) -> Option<u64> {
        let offset = addr.0.wrapping_sub(self.guest.0);
        (offset < self.size).then_some(offset)
    }
}

/// Sorts by guest address and keeps the order of equals.
///
/// Insertion sort: tables are short and come sorted, or nearly so, and it needs no memory.
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
