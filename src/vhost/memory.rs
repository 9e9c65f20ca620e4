// SPDX-License-Identifier: GPL-2.0

//! The memory table that the owner sets with `VHOST_SET_MEM_TABLE`.

use kernel::prelude::*;
use kernel::uaccess::UserSliceReader;
use vring::{
    Access, Fault, GuestAddr, GuestRanges, Hint, InvalidRegion, MemTable, Region, Segments,
    Translate, UserAddr,
};

use super::uapi::{self, RawMemory, RawRegion};
use crate::kapi::{self, EOPNOTSUPP};

/// The most regions in a table.
///
/// The in-tree vhost takes 64 unless configured otherwise. A guest with many hotplugged memory
/// devices has a few hundred.
const MAX_REGIONS: u32 = 1024;

/// The least number of index entries for each region.
const BLOCKS_PER_REGION: usize = 16;

/// A memory table, shared by the queues and replaced as a whole.
pub(crate) struct Table {
    regions: MemTable<Regions, Index>,
    /// Whether every region lies in the range of user addresses.
    accessible: bool,
}

/// The storage of a [`MemTable`].
struct Regions(KVVec<Region>);

impl AsRef<[Region]> for Regions {
    fn as_ref(&self) -> &[Region] {
        &self.0
    }
}

impl AsMut<[Region]> for Regions {
    fn as_mut(&mut self) -> &mut [Region] {
        &mut self.0
    }
}

/// The index of a [`MemTable`].
struct Index(KVVec<u16>);

impl AsRef<[u16]> for Index {
    fn as_ref(&self) -> &[u16] {
        &self.0
    }
}

impl AsMut<[u16]> for Index {
    fn as_mut(&mut self) -> &mut [u16] {
        &mut self.0
    }
}

impl Index {
    /// Makes an index for `regions` regions, large enough that most blocks have one region if all
    /// are alike.
    fn new(regions: usize) -> Result<Self> {
        let blocks = match regions {
            // The region that a queue used last is the only one.
            0 | 1 => 0,
            _ => regions
                .saturating_mul(BLOCKS_PER_REGION)
                .checked_next_power_of_two()
                .unwrap_or(0),
        };
        Ok(Self(KVVec::from_elem(0, blocks, GFP_KERNEL)?))
    }
}

impl Table {
    /// Makes a table without memory.
    pub(crate) fn empty() -> Result<Self> {
        Self::new(KVVec::new())
    }

    /// Reads a `struct vhost_memory`.
    ///
    /// # Errors
    ///
    /// `EFAULT` when it cannot be read or a region is empty or wraps, `EOPNOTSUPP` when the padding
    /// is not zero, `E2BIG` for too many regions, `ENOMEM`.
    pub(crate) fn read(mut from: UserSliceReader) -> Result<Self> {
        let [count, padding] = from.read::<RawMemory>()?;
        if padding != 0 {
            return Err(EOPNOTSUPP);
        }
        if count > MAX_REGIONS {
            return Err(E2BIG);
        }
        let mut regions = KVVec::with_capacity(count as usize, GFP_KERNEL)?;
        for _ in 0..count {
            let raw = from.read::<RawRegion>()?;
            regions.push(uapi::region_from_raw(raw), GFP_KERNEL)?;
        }
        Self::new(regions)
    }

    fn new(regions: KVVec<Region>) -> Result<Self> {
        let index = Index::new(regions.len())?;
        let regions =
            MemTable::with_index(Regions(regions), index).map_err(|InvalidRegion| EFAULT)?;
        let accessible = regions.regions().iter().all(|region| {
            let end = region.user.0.checked_add(region.size);
            end.is_some() && kapi::access_ok(region.user, region.size)
        });
        Ok(Self {
            regions,
            accessible,
        })
    }

    /// Whether queues may run on the table.
    ///
    /// As with vhost, user space may set an inaccessible table while no backend is set.
    pub(crate) fn is_accessible(&self) -> bool {
        self.accessible
    }

    /// Whether a dirty log at `base` can cover all regions within the range of user addresses.
    pub(crate) fn can_be_logged(&self, base: UserAddr) -> bool {
        let mut regions = self.regions.regions().iter();
        regions.all(|region| log_access_ok(base, region.guest, region.size))
    }
}

/// Whether a dirty log at `base` can cover `len` bytes from `addr` on within the range of user
/// addresses.
pub(crate) fn log_access_ok(base: UserAddr, addr: GuestAddr, len: u64) -> bool {
    let Some((offset, bytes)) = vring::log_extent(addr, len) else {
        return false;
    };
    base.0
        .checked_add(offset)
        .is_some_and(|at| kapi::access_ok(UserAddr(at), bytes))
}

impl GuestRanges for Table {
    fn guest_ranges<E>(
        &self,
        user: UserAddr,
        len: u64,
        visit: impl FnMut(GuestAddr, u64) -> Result<(), E>,
    ) -> Result<bool, E> {
        self.regions.guest_ranges(user, len, visit)
    }
}

impl Translate for Table {
    #[inline(always)]
    fn translate(
        &self,
        hint: &mut Hint,
        addr: GuestAddr,
        len: u32,
        access: Access,
        out: &mut Segments<'_>,
    ) -> Result<(), Fault> {
        self.regions.translate(hint, addr, len, access, out)
    }
}
