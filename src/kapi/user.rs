// SPDX-License-Identifier: GPL-2.0

//! User memory of the calling task, with the accesses that a ring needs.

use core::cell::Cell;
use core::marker::PhantomData;

use kernel::error::to_result;
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::task::CurrentTask;
use vring::{
    packed_availability, LoadMemory, Memory, OwnerAccess, Position, RawDesc, RawUsed, Segment,
    Unmapped, UserAddr,
};

use super::compat::full_barrier;
use super::{cond_resched, is_dying, shim};

/// How often a page is faulted in for one access.
///
/// The page may go away again before the access, but not each time.
const MAX_FAULTS: u32 = 8;

/// How often setting bits is tried in a word that others change at the same time.
///
/// Where it can fail, each try is itself many tries of the architecture.
const MAX_TRIES: u32 = 1 << 10;

/// Whether `len` bytes from `addr` lie in the range of user addresses.
pub(crate) fn access_ok(addr: UserAddr, len: u64) -> bool {
    // SAFETY: only compares numbers.
    unsafe { shim::rnet_access_ok(addr.0, len) }
}

/// The user memory of the running task: the owner, or a worker that uses the owner's memory.
///
/// A kernel thread has no user memory of its own, and would access that of the process which ran
/// before it. A value of this type proves that there is user memory. It is made only where that is
/// certain or has been checked, and stays in that task.
///
/// Accesses may fault in pages, so they may sleep.
///
/// # Invariants
///
/// The running task has user memory for the whole of `'a`.
#[derive(Clone, Copy)]
pub(crate) struct OwnerMemory<'a>(PhantomData<&'a CurrentTask>);

impl<'a> OwnerMemory<'a> {
    /// The memory of the calling task; `None` if it has no user memory.
    pub(crate) fn of_caller(task: &'a CurrentTask) -> Option<Self> {
        // INVARIANT: the task cannot change its memory while it is borrowed as the current one.
        task.mm().map(|_| Self(PhantomData))
    }

    /// The memory of the running thread.
    ///
    /// # Safety
    ///
    /// The running thread has user memory for the whole of `'a`.
    #[inline]
    pub(super) unsafe fn of_thread() -> Self {
        // INVARIANT: by the requirement.
        Self(PhantomData)
    }

    /// Zeroes memory.
    ///
    /// # Errors
    ///
    /// `EFAULT` when not all of it can be written.
    pub(crate) fn clear(self, addr: UserAddr, len: u64) -> Result {
        // SAFETY: any address may be given; faults are handled.
        to_result(unsafe { shim::rnet_clear_user(addr.0, len) })
    }

    /// Copies `from` into the segments, starting at byte `offset` of them.
    ///
    /// # Errors
    ///
    /// [`Unmapped`] when not all bytes could be written or the segments are too short.
    pub(crate) fn scatter(
        self,
        segments: &[Segment],
        offset: u64,
        from: &[u8],
    ) -> Result<(), Unmapped> {
        let Ok(skip) = usize::try_from(offset) else {
            return Err(Unmapped(UserAddr(0)));
        };
        // SAFETY: reads `from`, and copies to the segments' user addresses, which may be any.
        let ret = unsafe {
            shim::rnet_copy_to_segments(
                segments.as_ptr(),
                segments.len(),
                skip,
                from.as_ptr().cast(),
                from.len(),
            )
        };
        check(
            ret,
            segments.first().map_or(UserAddr(0), |first| first.addr),
        )
    }
}

impl LoadMemory for OwnerMemory<'_> {
    #[inline]
    fn load(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        let value = Cell::new(0u16);
        // SAFETY: writes one value through a valid pointer. Any user address may be given.
        check(unsafe { shim::rnet_get_u16(addr.0, value.as_ptr()) }, addr)?;
        Ok(value.get())
    }

    #[inline]
    fn load_acquire(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        let value = Cell::new(0u16);
        // Orders reading the index before reading the entries that it made available. Pairs with
        // the write barrier in the guest's driver.
        //
        // SAFETY: writes one value through a valid pointer. Any user address may be given.
        let ret = unsafe { shim::rnet_get_u16_acquire(addr.0, value.as_ptr()) };
        check(ret, addr)?;
        Ok(value.get())
    }

    #[inline]
    fn load_available(
        &self,
        addr: UserAddr,
        wrap: bool,
        out: &mut [RawDesc],
    ) -> Result<usize, Unmapped> {
        let (mask, bits) = packed_availability(wrap);
        // Orders reading the flags of a descriptor before reading the rest of it. Pairs with the
        // write barrier in the guest's driver.
        //
        // SAFETY: writes up to `out.len()` descriptors to `out`. Any user address may be given.
        let ret =
            unsafe { shim::rnet_get_available(addr.0, mask, bits, out.as_mut_ptr(), out.len()) };
        usize::try_from(ret).map_err(|_| Unmapped(addr))
    }

    #[inline]
    fn load_event(&self, addr: UserAddr) -> Result<u32, Unmapped> {
        let value = Cell::new(0u32);
        // SAFETY: writes one value through a valid pointer. Any user address may be given.
        check(unsafe { shim::rnet_get_u32(addr.0, value.as_ptr()) }, addr)?;
        Ok(value.get())
    }
}

impl Memory for OwnerMemory<'_> {
    #[inline]
    fn store(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped> {
        // SAFETY: any user address may be given.
        check(unsafe { shim::rnet_put_u16(addr.0, value) }, addr)
    }

    #[inline]
    fn store_release(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped> {
        // Orders writing data and used entries before writing the index that gives them to the
        // driver. Pairs with the read barrier in the guest's driver.
        //
        // SAFETY: any user address may be given.
        check(unsafe { shim::rnet_put_u16_release(addr.0, value) }, addr)
    }

    #[inline]
    fn load_entries(
        &self,
        ring: UserAddr,
        table: UserAddr,
        size: u16,
        indexes: &mut [u16],
        descs: &mut [RawDesc],
    ) -> Result<usize, Unmapped> {
        let n = indexes.len().min(descs.len());
        // SAFETY: writes up to `n` indexes and descriptors, which both slices have. Any user
        // address may be given.
        let ret = unsafe {
            shim::rnet_get_entries(
                ring.0,
                table.0,
                u32::from(size),
                indexes.as_mut_ptr(),
                descs.as_mut_ptr(),
                n,
            )
        };
        usize::try_from(ret).map_err(|_| Unmapped(ring))
    }

    #[inline]
    fn gather_descs(
        &self,
        table: UserAddr,
        indexes: &[u16],
        out: &mut [RawDesc],
    ) -> Result<(), Unmapped> {
        let n = indexes.len().min(out.len());
        // SAFETY: reads `n` indexes and writes `n` descriptors, which both slices have. Any user
        // address may be given.
        let ret =
            unsafe { shim::rnet_gather_descs(table.0, indexes.as_ptr(), out.as_mut_ptr(), n) };
        check(ret, table)
    }

    #[inline]
    fn load_descs(&self, addr: UserAddr, out: &mut [RawDesc]) -> Result<(), Unmapped> {
        let len = size_of_val(out);
        // SAFETY: writes `len` bytes to `out`, for which any are valid. Any user address may be
        // given.
        let ret = unsafe { shim::rnet_copy_from_user(out.as_mut_ptr().cast(), addr.0, len) };
        check(ret, addr)
    }

    #[inline]
    fn load_bytes(&self, addr: UserAddr, out: &mut [u8]) -> Result<(), Unmapped> {
        // SAFETY: writes `out.len()` bytes to `out`. Any user address may be given.
        let ret = unsafe { shim::rnet_copy_from_user(out.as_mut_ptr().cast(), addr.0, out.len()) };
        check(ret, addr)
    }

    #[inline]
    fn store_used(&self, addr: UserAddr, used: &[RawUsed]) -> Result<(), Unmapped> {
        // SAFETY: reads `used.len()` elements of `used`. Any user address may be given.
        let ret = unsafe { shim::rnet_put_used(addr.0, used.as_ptr(), used.len()) };
        check(ret, addr)
    }

    #[inline]
    fn publish_used(
        &self,
        addr: UserAddr,
        used: &[RawUsed],
        index_addr: UserAddr,
        index: u16,
    ) -> Result<(), Unmapped> {
        // Orders writing data and used entries before writing the index that gives them to the
        // driver. Pairs with the read barrier in the guest's driver.
        //
        // SAFETY: reads `used.len()` elements of `used`. Any user addresses may be given.
        let ret = unsafe {
            shim::rnet_publish_used(addr.0, used.as_ptr(), used.len(), index_addr.0, index)
        };
        check(ret, addr)
    }

    #[inline]
    fn load_after_barrier(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        let value = Cell::new(0u16);
        // SAFETY: writes one value through a valid pointer. Any user address may be given.
        let ret = unsafe { shim::rnet_get_u16_after_mb(addr.0, value.as_ptr()) };
        check(ret, addr)?;
        Ok(value.get())
    }

    #[inline]
    fn publish_packed(
        &self,
        ring: UserAddr,
        size: u16,
        at: Position,
        used: &[RawUsed],
    ) -> Result<Position, Unmapped> {
        if at.offset() >= size {
            return Err(Unmapped(ring));
        }
        // Orders writing data and the other used descriptors before writing the one that the driver
        // polls. Pairs with the read barrier in the guest's driver.
        //
        // SAFETY: reads `used.len()` entries of `used`. Any user address may be given. C does not
        // write outside of the ring at that address, since `at` is a position in a ring of `size`.
        let ret = unsafe {
            shim::rnet_publish_packed(
                ring.0,
                u32::from(size),
                u32::from(at.bits()),
                used.as_ptr(),
                used.len(),
            )
        };
        let bits = u16::try_from(ret).map_err(|_| Unmapped(ring))?;
        Ok(Position::from_bits(bits))
    }

    fn touch(&self, addr: UserAddr) -> Result<(), Unmapped> {
        // The device writes only the second word of a descriptor.
        let word = addr.wrapping_add(8);
        // SAFETY: any user address may be given.
        check(unsafe { shim::rnet_touch_u64(word.0) }, addr)
    }

    #[inline]
    fn load_event_after_barrier(&self, addr: UserAddr) -> Result<u32, Unmapped> {
        let value = Cell::new(0u32);
        // SAFETY: writes one value through a valid pointer. Any user address may be given.
        let ret = unsafe { shim::rnet_get_u32_after_mb(addr.0, value.as_ptr()) };
        check(ret, addr)?;
        Ok(value.get())
    }

    #[inline]
    fn store_event(&self, addr: UserAddr, value: u32) -> Result<(), Unmapped> {
        // SAFETY: any user address may be given.
        check(unsafe { shim::rnet_put_u32(addr.0, value) }, addr)
    }

    #[inline]
    fn full_barrier(&self) {
        full_barrier();
    }
}

#[inline]
fn check(ret: c_int, addr: UserAddr) -> Result<(), Unmapped> {
    if ret == 0 {
        Ok(())
    } else {
        Err(Unmapped(addr))
    }
}

impl OwnerAccess for OwnerMemory<'_> {
    fn store_bytes(&self, addr: UserAddr, from: &[u8]) -> Result<(), Unmapped> {
        // SAFETY: reads `from.len()` bytes of `from`. Any user address may be given.
        let ret = unsafe { shim::rnet_copy_to_user(addr.0, from.as_ptr().cast(), from.len()) };
        check(ret, addr)
    }

    fn set_bits(&self, addr: UserAddr, bits: u32) -> Result<(), Unmapped> {
        let mut faults = 0;
        for _ in 0..MAX_TRIES {
            // SAFETY: any user address may be given; faults are handled.
            let ret = unsafe { shim::rnet_user_or_u32(addr.0, bits) };
            match to_result(ret) {
                Ok(()) => return Ok(()),
                Err(e) if e == EAGAIN && !is_dying() => {}
                Err(e) if e == EFAULT && faults < MAX_FAULTS => {
                    faults += 1;
                    // SAFETY: any user address may be given; only mappings change.
                    let ret = unsafe { shim::rnet_fault_in_writable(addr.0, size_of_val(&bits)) };
                    check(ret, addr)?;
                }
                Err(_) => break,
            }
            cond_resched();
        }
        Err(Unmapped(addr))
    }
}
