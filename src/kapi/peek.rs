// SPDX-License-Identifier: GPL-2.0

//! What is resident of another process's memory, read without waiting.
//!
//! C headers: `include/linux/mm.h`, `include/linux/highmem.h`.

use kernel::error::to_result;
use kernel::mm::MmWithUser;
use vring::{
    packed_availability, Memory, OwnerAccess, Position, RawDesc, RawUsed, Unmapped, UserAddr,
};

use super::compat::full_barrier;
use super::shim;

/// The memory of a process, to be looked at by another.
///
/// It is read as far as it is resident and no one else changes the process's mappings; it is never
/// faulted in, and cannot be written. An access takes no lock that it would have to wait for.
#[derive(Clone, Copy)]
pub(crate) struct Peek<'a>(&'a MmWithUser);

impl<'a> Peek<'a> {
    /// The memory `mm`.
    pub(crate) fn new(mm: &'a MmWithUser) -> Self {
        Self(mm)
    }

    /// Reads `n` words of 2, 4 or 8 bytes, each at once.
    ///
    /// # Safety
    ///
    /// `to` has room for `n` words.
    unsafe fn words<T>(self, addr: UserAddr, to: *mut T, n: usize) -> Result<(), Unmapped> {
        // SAFETY: the memory has users for as long as it is borrowed. Any address may be given; by
        // the requirement there is room.
        let ret = unsafe { shim::rnet_peek(self.0.as_raw(), addr.0, to.cast(), size_of::<T>(), n) };
        to_result(ret).map_err(|_| Unmapped(addr))
    }
}

impl Memory for Peek<'_> {
    fn load(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        let mut value = 0u16;
        // SAFETY: one word.
        unsafe { self.words(addr, &raw mut value, 1) }?;
        Ok(value)
    }

    fn load_acquire(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        let value = self.load(addr);
        // Pairs with the write barrier in the guest's driver.
        full_barrier();
        value
    }

    /// Words are read from the last to the first, so that the flags of each descriptor come first.
    fn load_available(
        &self,
        addr: UserAddr,
        wrap: bool,
        out: &mut [RawDesc],
    ) -> Result<usize, Unmapped> {
        let (mask, bits) = packed_availability(wrap);
        let words = out.len().wrapping_mul(2);
        // SAFETY: a descriptor has two words.
        unsafe { self.words(addr, out.as_mut_ptr().cast::<u64>(), words) }?;
        let available = |[_, flags]: &&RawDesc| *flags & mask == bits;
        Ok(out.iter().take_while(available).count())
    }

    fn load_event(&self, addr: UserAddr) -> Result<u32, Unmapped> {
        let mut value = 0u32;
        // SAFETY: one word.
        unsafe { self.words(addr, &raw mut value, 1) }?;
        Ok(value)
    }

    fn full_barrier(&self) {
        full_barrier();
    }

    // A look at a ring needs none of the rest.

    fn store(&self, addr: UserAddr, _value: u16) -> Result<(), Unmapped> {
        Err(Unmapped(addr))
    }

    fn store_release(&self, addr: UserAddr, _value: u16) -> Result<(), Unmapped> {
        Err(Unmapped(addr))
    }

    fn load_entries(
        &self,
        ring: UserAddr,
        _table: UserAddr,
        _size: u16,
        _indexes: &mut [u16],
        _descs: &mut [RawDesc],
    ) -> Result<usize, Unmapped> {
        Err(Unmapped(ring))
    }

    fn gather_descs(
        &self,
        table: UserAddr,
        _indexes: &[u16],
        _out: &mut [RawDesc],
    ) -> Result<(), Unmapped> {
        Err(Unmapped(table))
    }

    fn load_descs(&self, addr: UserAddr, _out: &mut [RawDesc]) -> Result<(), Unmapped> {
        Err(Unmapped(addr))
    }

    fn load_bytes(&self, addr: UserAddr, _out: &mut [u8]) -> Result<(), Unmapped> {
        Err(Unmapped(addr))
    }

    fn store_used(&self, addr: UserAddr, _used: &[RawUsed]) -> Result<(), Unmapped> {
        Err(Unmapped(addr))
    }

    fn publish_packed(
        &self,
        ring: UserAddr,
        _size: u16,
        _at: Position,
        _used: &[RawUsed],
    ) -> Result<Position, Unmapped> {
        Err(Unmapped(ring))
    }

    fn touch(&self, addr: UserAddr) -> Result<(), Unmapped> {
        Err(Unmapped(addr))
    }

    fn store_event(&self, addr: UserAddr, _value: u32) -> Result<(), Unmapped> {
        Err(Unmapped(addr))
    }
}

impl OwnerAccess for Peek<'_> {
    fn store_bytes(&self, addr: UserAddr, _from: &[u8]) -> Result<(), Unmapped> {
        Err(Unmapped(addr))
    }

    fn set_bits(&self, addr: UserAddr, _bits: u32) -> Result<(), Unmapped> {
        Err(Unmapped(addr))
    }
}
