// SPDX-License-Identifier: GPL-2.0

//! The memory accesses that a ring needs.

use crate::addr::UserAddr;
use crate::desc::{ByteOrder, RawDesc, RawUsed};
use crate::position::Position;

/// User memory that could not be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmapped(pub UserAddr);

/// The loads of [`Memory`] that suffice to look at a ring ([`Look`](crate::Look)).
pub trait LoadMemory {
    /// Loads a 16-bit value.
    fn load(&self, addr: UserAddr) -> Result<u16, Unmapped>;

    /// Loads a 16-bit value and orders later accesses after it, for the available index.
    fn load_acquire(&self, addr: UserAddr) -> Result<u16, Unmapped>;

    /// Loads consecutive descriptors of a packed ring from `addr` on, while they are available at
    /// the wrap counter `wrap` ([`packed_availability`](crate::packed_availability)) and `out` has
    /// room.
    ///
    /// The result is the number of descriptors loaded; the element of `out` behind them may have
    /// been overwritten. Each descriptor is read once. The word with the flags is read first, in a
    /// single load, and all later accesses are ordered after it.
    fn load_available(
        &self,
        addr: UserAddr,
        wrap: bool,
        out: &mut [RawDesc],
    ) -> Result<usize, Unmapped>;

    /// Loads a packed ring's event, 32 bits, in a single load.
    fn load_event(&self, addr: UserAddr) -> Result<u32, Unmapped>;
}

/// The owner's memory, shared with a guest that may write it at any time.
///
/// Values are as they lie in little-endian memory; the ring converts. For a big-endian ring, an
/// implementation returns that from [`Memory::byte_order`] and swaps all values except plain bytes
/// ([`ByteOrder`]).
///
/// Every access may fail with [`Unmapped`], and a failed access may have been done in part.
/// Accesses named `gather` or given a slice exist so that many values cost one user-access section.
///
/// # Ordering
///
/// The rules of virtio 1.3, sections 2.7.13 and 2.7.14, are in the names of the functions:
/// [`LoadMemory::load_acquire`] orders the load before every later access,
/// [`Memory::store_release`] orders every earlier access before the store, and
/// [`Memory::full_barrier`] orders all earlier accesses before all later ones.
/// [`LoadMemory::load_available`] and [`Memory::publish_packed`] do the same for the flags of a
/// packed ring's descriptors. Each pairs with a barrier in the guest's driver.
pub trait Memory: LoadMemory {
    /// Stores a 16-bit value.
    fn store(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped>;

    /// Stores a 16-bit value and orders earlier accesses before it, for the used index.
    fn store_release(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped>;

    /// Loads consecutive entries of the available ring at `ring`, and the descriptor in the table
    /// at `table` that each entry names.
    ///
    /// It loads as many as both slices have room for, and stops at the first entry that is not
    /// below `size`, the number of descriptors in the table. That entry is stored in `indexes` as
    /// well. The result is the number of descriptors loaded. Indexes are in host byte order.
    ///
    /// An implementation may load all entries before it loads the first descriptor.
    fn load_entries(
        &self,
        ring: UserAddr,
        table: UserAddr,
        size: u16,
        indexes: &mut [u16],
        descs: &mut [RawDesc],
    ) -> Result<usize, Unmapped>;

    /// Loads the descriptor of the table at `table` for each of `indexes` (host byte order).
    ///
    /// Only as many are loaded as both slices have elements.
    fn gather_descs(
        &self,
        table: UserAddr,
        indexes: &[u16],
        out: &mut [RawDesc],
    ) -> Result<(), Unmapped>;

    /// Loads `out.len()` consecutive descriptors of an indirect table, which may be unaligned.
    fn load_descs(&self, addr: UserAddr, out: &mut [RawDesc]) -> Result<(), Unmapped>;

    /// Loads bytes without conversion, for indirect tables that cross a region boundary, perhaps
    /// within a field.
    fn load_bytes(&self, addr: UserAddr, out: &mut [u8]) -> Result<(), Unmapped>;

    /// Stores `used.len()` consecutive elements of the used ring.
    fn store_used(&self, addr: UserAddr, used: &[RawUsed]) -> Result<(), Unmapped>;

    /// Writes one used descriptor for each of `used` ([`packed_used`](crate::packed_used)) to the
    /// packed ring at `ring` of `size` descriptors, the first at position `at`; returns the
    /// position of the next one.
    ///
    /// Only the second word of a descriptor is written, in a single store. The one at `at` is
    /// stored last, and earlier accesses are ordered before it. The offset of `at` is below `size`.
    fn publish_packed(
        &self,
        ring: UserAddr,
        size: u16,
        at: Position,
        used: &[RawUsed],
    ) -> Result<Position, Unmapped>;

    /// Checks that the page of a packed ring's descriptor at `addr`, which the device has taken,
    /// can be written, by loading its second word and storing it unchanged.
    fn touch(&self, addr: UserAddr) -> Result<(), Unmapped>;

    /// Stores a packed ring's event, 32 bits, in a single store.
    fn store_event(&self, addr: UserAddr, value: u32) -> Result<(), Unmapped>;

    /// Issues a full memory barrier.
    fn full_barrier(&self);

    /// Byte order of what [`Memory::load_bytes`] loads.
    #[inline]
    fn byte_order(&self) -> ByteOrder {
        ByteOrder::Little
    }

    /// [`Memory::store_used`], then [`Memory::store_release`].
    ///
    /// # Errors
    ///
    /// [`Unmapped`]; the index may then not have been stored.
    #[inline]
    fn publish_used(
        &self,
        addr: UserAddr,
        used: &[RawUsed],
        index_addr: UserAddr,
        index: u16,
    ) -> Result<(), Unmapped> {
        self.store_used(addr, used)?;
        self.store_release(index_addr, index)
    }

    /// [`Memory::full_barrier`], then [`LoadMemory::load`].
    ///
    /// # Errors
    ///
    /// [`Unmapped`].
    #[inline]
    fn load_after_barrier(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        self.full_barrier();
        self.load(addr)
    }

    /// [`Memory::full_barrier`], then [`LoadMemory::load_event`].
    ///
    /// # Errors
    ///
    /// [`Unmapped`].
    #[inline]
    fn load_event_after_barrier(&self, addr: UserAddr) -> Result<u32, Unmapped> {
        self.full_barrier();
        self.load_event(addr)
    }
}
