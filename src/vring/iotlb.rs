// SPDX-License-Identifier: GPL-2.0

//! The IOTLB: the mappings of a guest behind a virtual IOMMU that the owner has entered.
//!
//! The owner enters and deletes mappings (`VHOST_IOTLB_UPDATE`, `VHOST_IOTLB_INVALIDATE` of
//! `include/uapi/linux/vhost_types.h`), and the device asks for those that it misses. As in the
//! in-tree vhost (`drivers/vhost/iotlb.c`, with `VHOST_IOTLB_FLAG_RETIRE`), a full table drops the
//! oldest mapping, which costs another miss when it is needed again.

use core::mem;

use crate::addr::{GuestAddr, UserAddr};
use crate::fault::Fault;
use crate::segment::{Access, Hint, Segment, Segments, Translate};

/// The accesses that the device may make, as bits of `VHOST_ACCESS_RO` and `VHOST_ACCESS_WO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permission(u8);

impl Permission {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Read, `VHOST_ACCESS_RO`.
    pub const READ: Self = Self(1);
    /// Write, `VHOST_ACCESS_WO`.
    pub const WRITE: Self = Self(2);
    /// Both, `VHOST_ACCESS_RW`.
    pub const READ_WRITE: Self = Self(3);

    /// From `perm` of `struct vhost_iotlb_msg`; bits without a meaning are ignored.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & Self::READ_WRITE.0)
    }

    /// The bits, as in `perm` of `struct vhost_iotlb_msg`.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether it permits `access`.
    #[inline]
    #[must_use]
    pub const fn allows(self, access: Access) -> bool {
        self.0 & Self::needed_for(access).0 != 0
    }

    /// The permission that `access` needs.
    #[inline]
    #[must_use]
    pub const fn needed_for(access: Access) -> Self {
        match access {
            Access::Read => Self::READ,
            Access::Write => Self::WRITE,
        }
    }
}

/// A range of IO virtual addresses and the user address that it maps to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// First IO virtual address.
    pub iova: GuestAddr,
    /// Last IO virtual address: unlike a length, it can name the whole address space.
    pub last: GuestAddr,
    /// User address of the first byte.
    pub user: UserAddr,
    /// The accesses that the device may make there.
    pub permission: Permission,
}

/// A mapping, or a range to invalidate, is empty or ends beyond the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidMapping;

impl Mapping {
    /// Makes a mapping of `size` bytes, as in `struct vhost_iotlb_msg`.
    ///
    /// # Errors
    ///
    /// [`InvalidMapping`] when it is empty or wraps.
    pub fn new(
        iova: GuestAddr,
        size: u64,
        user: UserAddr,
        permission: Permission,
    ) -> Result<Self, InvalidMapping> {
        let mapping = Self {
            iova,
            last: last_of(iova, size).ok_or(InvalidMapping)?,
            user,
            permission,
        };
        mapping.check()?;
        Ok(mapping)
    }

    /// Checks that it is not empty and does not wrap in user space.
    fn check(&self) -> Result<(), InvalidMapping> {
        let more = self.last.0.checked_sub(self.iova.0);
        let end = more.and_then(|more| self.user.0.checked_add(more));
        end.map(|_| ()).ok_or(InvalidMapping)
    }

    /// Whether it contains `addr`.
    #[inline]
    fn has(&self, addr: GuestAddr) -> bool {
        self.iova <= addr && addr <= self.last
    }

    /// The user address of `addr`, which the mapping contains.
    #[inline]
    fn user_of(&self, addr: GuestAddr) -> UserAddr {
        self.user.wrapping_add(addr.0.wrapping_sub(self.iova.0))
    }

    /// The part of it before `addr`.
    fn before(&self, addr: GuestAddr) -> Option<Self> {
        let last = GuestAddr(addr.0.checked_sub(1)?);
        (self.iova <= last).then_some(Self { last, ..*self })
    }

    /// The part of it behind `addr`.
    fn behind(&self, addr: GuestAddr) -> Option<Self> {
        let iova = GuestAddr(addr.0.checked_add(1)?);
        (iova <= self.last).then_some(Self {
            iova,
            user: self.user_of(iova),
            ..*self
        })
    }
}

/// The last of `size` addresses from `first` on.
fn last_of(first: GuestAddr, size: u64) -> Option<GuestAddr> {
    first.0.checked_add(size.checked_sub(1)?).map(GuestAddr)
}

/// An element of the table's storage, for one mapping.
#[derive(Clone, Copy, Debug, Default)]
pub struct IotlbEntry {
    mapping: Mapping,
    /// Sequence number of the update that entered it.
    age: u64,
}

/// An address that no mapping contains, to ask the owner for (`VHOST_IOTLB_MISS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Miss {
    /// First IO virtual address without a mapping.
    pub addr: GuestAddr,
    /// Bytes wanted from there.
    pub len: u64,
    /// The access that needs them.
    pub access: Access,
}

/// Why a range has no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untranslated {
    /// There is no mapping; the owner may add one.
    Miss(Miss),
    /// Asking the owner does not help: [`Fault::Denied`], [`Fault::TooManySegments`], or
    /// [`Fault::OutsideMemory`] for a range that wraps.
    Fault(Fault),
}

impl From<Fault> for Untranslated {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Untranslated> for Fault {
    fn from(untranslated: Untranslated) -> Self {
        match untranslated {
            Untranslated::Miss(Miss { addr, len, .. }) => Self::outside(addr.0, len),
            Untranslated::Fault(fault) => fault,
        }
    }
}

/// Mappings, sorted and free of overlap, in fixed-size storage of the caller's choice.
///
/// # Invariants
///
/// The first `len` mappings are not empty and do not wrap, and each starts behind the last address
/// of the one before.
#[derive(Debug)]
pub struct Iotlb<S> {
    entries: S,
    len: usize,
    /// Number of updates so far.
    updates: u64,
}

impl<S: AsRef<[IotlbEntry]> + AsMut<[IotlbEntry]>> Iotlb<S> {
    /// An empty table for up to `entries.len()` mappings; the contents of `entries` do not matter.
    pub fn new(entries: S) -> Self {
        // INVARIANT: there are no mappings.
        Self {
            entries,
            len: 0,
            updates: 0,
        }
    }

    /// Enters a mapping.
    ///
    /// The new mapping replaces older ones where they overlap; older mappings keep the rest of
    /// their addresses, and their age. (The in-tree vhost keeps both, and the shape of its tree
    /// decides which one it finds. There is no difference if the owner invalidates first, as owners
    /// do.)
    ///
    /// If there is no room, as many of the oldest mappings as needed are dropped. A table without
    /// storage drops the new one.
    ///
    /// # Errors
    ///
    /// [`InvalidMapping`] when it ends before it starts or wraps in user space; nothing changes.
    pub fn update(&mut self, mapping: Mapping) -> Result<(), InvalidMapping> {
        mapping.check()?;
        let (iova, last) = (mapping.iova, mapping.last);
        let room = self.entries.as_ref().len();
        let (first, before, behind) = loop {
            let (first, count) = self.position(iova, last);
            let hit = self.as_entries().get(first..).unwrap_or_default();
            let hit = hit.get(..count).unwrap_or_default();
            let part = |entry: &IotlbEntry, mapping: Option<Mapping>| {
                mapping.map(|mapping| IotlbEntry { mapping, ..*entry })
            };
            let before = hit.first().and_then(|e| part(e, e.mapping.before(iova)));
            let behind = hit.last().and_then(|e| part(e, e.mapping.behind(last)));
            let parts = usize::from(before.is_some()).wrapping_add(usize::from(behind.is_some()));
            // No wrap: at most the length of a slice, and three.
            let rest = self.len.wrapping_sub(count).wrapping_add(parts);
            if rest < room {
                break (first, before, behind);
            }
            if !self.forget_oldest() {
                return Ok(());
            }
        };
        self.updates = self.updates.wrapping_add(1);
        let age = self.updates;
        // INVARIANT: the mappings that overlap the new one are removed; the new one and the
        // remaining parts take their place.
        self.delete(iova, last);
        let new = Some(IotlbEntry { mapping, age });
        for entry in [behind, new, before].into_iter().flatten() {
            self.insert(first, entry);
        }
        Ok(())
    }

    /// Drops every mapping that contains any of `size` addresses from `iova` on, as a whole.
    ///
    /// The same as `vhost_iotlb_del_range()`: an owner may invalidate only part of a mapping.
    ///
    /// # Errors
    ///
    /// [`InvalidMapping`] when the range is empty or wraps; nothing changes.
    pub fn invalidate(&mut self, iova: GuestAddr, size: u64) -> Result<(), InvalidMapping> {
        let last = last_of(iova, size).ok_or(InvalidMapping)?;
        self.delete(iova, last);
        Ok(())
    }

    /// Drops all mappings.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Removes the mappings that contain any address from `iova` to `last`.
    fn delete(&mut self, iova: GuestAddr, last: GuestAddr) {
        let (first, count) = self.position(iova, last);
        // INVARIANT: the others keep their order.
        self.remove(first, count);
    }

    /// Removes the oldest mapping; of a mapping that was split, the part with the lowest address.
    ///
    /// `false` if there is none.
    fn forget_oldest(&mut self) -> bool {
        let oldest = self.as_entries().iter().enumerate();
        let Some((position, _)) = oldest.min_by_key(|(_, entry)| entry.age) else {
            return false;
        };
        self.remove(position, 1);
        true
    }

    /// Removes `count` entries from position `first` on.
    fn remove(&mut self, first: usize, count: usize) {
        if count == 0 {
            return;
        }
        let entries = self.entries.as_mut();
        // No wrap: the length of a slice at most.
        let end = first.wrapping_add(count);
        for (to, from) in (first..).zip(end..self.len) {
            if let Some(entry) = entries.get(from).copied() {
                if let Some(slot) = entries.get_mut(to) {
                    *slot = entry;
                }
            }
        }
        self.len = self.len.wrapping_sub(count);
    }

    /// Inserts an entry at `position`, for which there has to be room.
    fn insert(&mut self, position: usize, mut entry: IotlbEntry) {
        self.len = self.len.wrapping_add(1);
        let entries = self.entries.as_mut().get_mut(..self.len);
        for slot in entries.unwrap_or_default().iter_mut().skip(position) {
            mem::swap(slot, &mut entry);
        }
    }
}

impl<S: AsRef<[IotlbEntry]>> Iotlb<S> {
    /// Number of mappings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no mappings.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The mappings in ascending order, without overlap.
    pub fn mappings(&self) -> impl Iterator<Item = &Mapping> {
        self.as_entries().iter().map(|entry| &entry.mapping)
    }

    /// Appends the segments that make up `len` bytes from `iova` to `out`.
    ///
    /// Mappings that are contiguous in user space as well give one segment. A zero length appends
    /// nothing and always succeeds. `hint` speeds up the next translation and may be anything.
    ///
    /// # Errors
    ///
    /// [`Untranslated`]; `out` may then have gained segments.
    #[inline]
    pub fn translate_range(
        &self,
        hint: &mut Hint,
        iova: GuestAddr,
        len: u64,
        access: Access,
        out: &mut Segments<'_>,
    ) -> Result<(), Untranslated> {
        self.walk(hint, iova, len, access, |segment| out.push(segment))
    }

    /// Checks whether [`Iotlb::translate_range`] has a translation, without appending segments.
    ///
    /// # Errors
    ///
    /// [`Untranslated`].
    pub fn check_range(
        &self,
        hint: &mut Hint,
        iova: GuestAddr,
        len: u64,
        access: Access,
    ) -> Result<(), Untranslated> {
        self.walk(hint, iova, len, access, |_| Ok(()))
    }

    /// Passes the segments that make up `len` bytes from `iova` to `push`.
    #[inline]
    fn walk(
        &self,
        hint: &mut Hint,
        iova: GuestAddr,
        len: u64,
        access: Access,
        mut push: impl FnMut(Segment) -> Result<(), Fault>,
    ) -> Result<(), Untranslated> {
        let Some(more) = len.checked_sub(1) else {
            return Ok(());
        };
        let last = iova
            .0
            .checked_add(more)
            .ok_or(Fault::outside(iova.0, len))?;
        let mut addr = iova;
        let mut segment = Segment::default();
        loop {
            // No wrap: addr <= last, and not the whole address space, which `len` cannot name.
            let left = last.wrapping_sub(addr.0).wrapping_add(1);
            let miss = Miss {
                addr,
                len: left,
                access,
            };
            let mapping = self.find(hint, addr).ok_or(Untranslated::Miss(miss))?;
            if !mapping.permission.allows(access) {
                return Err(Fault::Denied { addr: addr.0 }.into());
            }
            let end = mapping.last.0.min(last);
            let user = mapping.user_of(addr);
            // No wrap: as above.
            let here = end.wrapping_sub(addr.0).wrapping_add(1);
            if segment.addr.0.checked_add(segment.len) == Some(user.0) {
                segment.len = segment.len.wrapping_add(here);
            } else {
                if segment.len > 0 {
                    push(segment)?;
                }
                segment = Segment {
                    addr: user,
                    len: here,
                };
            }
            if end == last {
                push(segment)?;
                return Ok(());
            }
            // No wrap: end < last.
            addr = GuestAddr(end.wrapping_add(1));
        }
    }

    /// The mapping that contains `addr`.
    #[inline]
    fn find(&self, hint: &mut Hint, addr: GuestAddr) -> Option<&Mapping> {
        let entries = self.as_entries();
        let hinted = entries.get(hint.0).map(|entry| &entry.mapping);
        if let Some(mapping) = hinted.filter(|mapping| mapping.has(addr)) {
            return Some(mapping);
        }
        let position = entries.partition_point(|entry| entry.mapping.last < addr);
        // Clamped in place of a branch, which could be mispredicted: the check below rejects the
        // last mapping.
        let position = position.min(entries.len().saturating_sub(1));
        let mapping = &entries.get(position)?.mapping;
        *hint = Hint(position);
        mapping.has(addr).then_some(mapping)
    }

    /// Position of the first mapping that contains an address from `iova` to `last`, and the number
    /// of such mappings; if there are none, the position at which one would be inserted.
    fn position(&self, iova: GuestAddr, last: GuestAddr) -> (usize, usize) {
        let entries = self.as_entries();
        let first = entries.partition_point(|entry| entry.mapping.last < iova);
        let end = entries.partition_point(|entry| entry.mapping.iova <= last);
        (first, end.saturating_sub(first))
    }

    fn as_entries(&self) -> &[IotlbEntry] {
        self.entries.as_ref().get(..self.len).unwrap_or_default()
    }
}

impl<S: AsRef<[IotlbEntry]>> Translate for Iotlb<S> {
    /// As [`Iotlb::translate_range`]; a miss is [`Fault::OutsideMemory`].
    #[inline]
    fn translate(
        &self,
        hint: &mut Hint,
        addr: GuestAddr,
        len: u32,
        access: Access,
        out: &mut Segments<'_>,
    ) -> Result<(), Fault> {
        self.translate_range(hint, addr, u64::from(len), access, out)?;
        Ok(())
    }
}
