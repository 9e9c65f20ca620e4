// SPDX-License-Identifier: GPL-2.0

//! What is resident of another process's memory, read without waiting.
//!
//! C headers: `include/linux/mm.h`, `include/linux/highmem.h`.

use kernel::error::to_result;
use kernel::mm::MmWithUser;
use vring::{packed_availability, LoadMemory, RawDesc, Unmapped, UserAddr};

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

impl LoadMemory for Peek<'_> {
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
}
