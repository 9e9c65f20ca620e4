// SPDX-License-Identifier: GPL-2.0

//! Memory that is held for nothing but to be taken from others.

use super::mapping::PAGE;
use std::io;

/// Private memory that stays where it is in single pages.
#[derive(Debug)]
pub struct Ballast {
    base: *mut libc::c_void,
    len: usize,
}

impl Ballast {
    /// Takes `len` bytes, rounded up to pages, and locks them into memory.
    ///
    /// # Errors
    ///
    /// When the kernel has no room, or without the privilege to lock so much.
    pub fn new(len: usize) -> io::Result<Self> {
        let len = len.next_multiple_of(PAGE).max(PAGE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing of ours.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let ballast = Self { base, len };
        ballast.advise(0, len, libc::MADV_NOHUGEPAGE)?;
        // SAFETY: the range is that of the mapping, which nobody reads or writes.
        super::check(unsafe { libc::mlock(base, len) })?;
        Ok(ballast)
    }

    /// Gives every second page back.
    ///
    /// # Errors
    ///
    /// On kernels before 5.18.
    pub fn thin_out(&self) -> io::Result<()> {
        for page in (0..self.len).step_by(2 * PAGE) {
            self.advise(page, PAGE, libc::MADV_DONTNEED_LOCKED)?;
        }
        Ok(())
    }

    /// Advises the kernel about a range, which has to lie in the mapping.
    fn advise(&self, offset: usize, len: usize, advice: i32) -> io::Result<()> {
        // SAFETY: the range lies in the mapping, which nobody reads or writes.
        super::check(unsafe { libc::madvise(self.base.byte_add(offset), len, advice) })?;
        Ok(())
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` and ends with `self`.
        unsafe { libc::munmap(self.base, self.len) };
    }
}
