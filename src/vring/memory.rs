// SPDX-License-Identifier: GPL-2.0

//! What a ring needs from memory.

use crate::addr::UserAddr;
use crate::desc::{ByteOrder, RawDesc, RawUsed};
use crate::position::Position;

/// User memory that could not be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmapped(pub UserAddr);

/// The owner's memory, shared with a guest that may write it at any time.
///
/// Values are as they lie in little-endian memory; the ring converts. Where a ring is big-endian, an
/// implementation says so with [`Memory::byte_order`] and swaps all values but bytes ([`ByteOrder`]).
///
/// Every access may fail with [`Unmapped`], and a failed access may have been done in part. Accesses named
/// `gather` or given a slice exist so that many values cost one user-access section.
///
/// # Ordering
///
/// The rules of virtio 1.3, sections 2.7.13 and 2.7.14, are in the names: [`Memory::load_acquire`]
/// orders the load before every later access, [`Memory::store_release`] orders every earlier
/// access before the store, and [`Memory::full_barrier`] orders all earlier accesses before all
/// later ones. [`Memory::load_available`] and [`Memory::publish_packed`] do the same for the flags of a
/// packed ring's descriptors. Each pairs with a barrier in the guest's driver.
pub trait Memory {
    /// Loads a 16-bit value.
    fn load(&self, addr: UserAddr) -> Result<u16, Unmapped>;

    /// Loads a 16-bit value; later accesses stay behind it. For the available index.
    fn load_acquire(&self, addr: UserAddr) -> Result<u16, Unmapped>;

    /// Stores a 16-bit value.
    fn store(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped>;

    /// Stores a 16-bit value; earlier accesses stay before it. For the used index.
    fn store_release(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped>;

    /// Loads consecutive entries of the available ring at `ring`, and for each the descriptor of the
    /// table at `table` that it names.
    ///
    /// Both are loaded from the first on, as many as both slices have room for, up to the first
    /// entry that is not below `size`, the number of descriptors. That entry is in `indexes` as
    /// well. The result is the number of descriptors. Indexes are in host byte order.
    ///
    /// All loads of entries together may come before all loads of descriptors.
    fn load_entries(
        &self,
        ring: UserAddr,
        table: UserAddr,
        size: u16,
        indexes: &mut [u16],
        descs: &mut [RawDesc],
    ) -> Result<usize, Unmapped>;

    /// Loads, for each of `indexes` (host byte order), that descriptor of the table at `table`.
    ///
    /// Only as many are loaded as both slices have elements.
    fn gather_descs(
        &self,
        table: UserAddr,
        indexes: &[u16],
        out: &mut [RawDesc],
    ) -> Result<(), Unmapped>;

    /// Loads `out.len()` consecutive descriptors, which may lie at any address. For indirect tables.
    fn load_descs(&self, addr: UserAddr, out: &mut [RawDesc]) -> Result<(), Unmapped>;

    /// Loads bytes, as they are. For indirect tables that regions cut, perhaps within a field.
    fn load_bytes(&self, addr: UserAddr, out: &mut [u8]) -> Result<(), Unmapped>;

    /// Stores `used.len()` consecutive elements of the used ring.
    fn store_used(&self, addr: UserAddr, used: &[RawUsed]) -> Result<(), Unmapped>;

    /// Loads consecutive descriptors of a packed ring at `addr`, as long as they are available on a lap of
    /// the wrap counter `wrap` ([`packed_availability`](crate::packed_availability)) and `out` has room.
    ///
    /// The result is how many there are; the slot behind them may have been written to. Each is read
    /// once: first, and at once, the word with its flags; all later accesses stay behind that.
    fn load_available(
        &self,
        addr: UserAddr,
        wrap: bool,
        out: &mut [RawDesc],
    ) -> Result<usize, Unmapped>;

    /// Marks descriptors of the packed ring at `ring`, which has `size` of them, as used: for each of
    /// `used` that at which it stands, from `at` on ([`packed_used`](crate::packed_used)). The result is
    /// where the next one goes.
    ///
    /// Of a descriptor the second word is stored at once and the address not at all. That at `at` is
    /// stored last, and earlier accesses stay before it. The offset of `at` is below `size`.
    fn publish_packed(
        &self,
        ring: UserAddr,
        size: u16,
        at: Position,
        used: &[RawUsed],
    ) -> Result<Position, Unmapped>;

    /// Loads the second word of the descriptor of a packed ring at `addr`, which the device has taken, and
    /// stores it as it was: to find out whether the page that it lies in can be written.
    fn touch(&self, addr: UserAddr) -> Result<(), Unmapped>;

    /// Loads a 32-bit value at once. For a packed ring's event.
    fn load_event(&self, addr: UserAddr) -> Result<u32, Unmapped>;

    /// Stores a 32-bit value at once. For a packed ring's event.
    fn store_event(&self, addr: UserAddr, value: u32) -> Result<(), Unmapped>;

    /// Full memory barrier.
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

    /// [`Memory::full_barrier`], then [`Memory::load`].
    ///
    /// # Errors
    ///
    /// [`Unmapped`].
    #[inline]
    fn load_after_barrier(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        self.full_barrier();
        self.load(addr)
    }

    /// [`Memory::full_barrier`], then [`Memory::load_event`].
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
