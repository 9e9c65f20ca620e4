// SPDX-License-Identifier: GPL-2.0

//! What a thread runs of the kernel, on a kernel that can tell (`CONFIG_KCOV`).

use super::check;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words that the kernel has for one call: the number of addresses, and the addresses.
const WORDS: usize = 1 << 16;
/// `KCOV_INIT_TRACE`.
const INIT_TRACE: u64 = 0x8008_6301;
/// `KCOV_ENABLE`.
const ENABLE: u64 = 0x6364;
/// `KCOV_DISABLE`.
const DISABLE: u64 = 0x6365;
/// `KCOV_TRACE_PC`.
const TRACE_PC: u64 = 0;

/// Addresses that the calling thread runs through. It stays with that thread.
#[derive(Debug)]
pub struct Coverage {
    words: *mut u64,
    file: File,
}

impl Coverage {
    /// Begins for the calling thread, until this is dropped; `None` on a kernel that cannot tell.
    ///
    /// # Errors
    ///
    /// When it could, and does not.
    pub fn start() -> io::Result<Option<Self>> {
        let path = "/sys/kernel/debug/kcov";
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let fd = file.as_raw_fd();
        // SAFETY: takes integers only.
        check(unsafe { libc::ioctl(fd, INIT_TRACE, WORDS) })?;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing of ours.
        let words = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                8 * WORDS,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        if words == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let coverage = Self {
            words: words.cast(),
            file,
        };
        // SAFETY: takes integers only; the memory that the kernel writes to is its own, and it
        // keeps that until the tracing ends.
        check(unsafe { libc::ioctl(fd, ENABLE, TRACE_PC) })?;
        Ok(Some(coverage))
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < WORDS, "no such word");
        // SAFETY: inside the mapping, aligned, and written by the kernel as a unit.
        unsafe { AtomicU64::from_ptr(self.words.add(index)) }
    }

    /// Adds the addresses since the last time to `to`.
    pub fn take(&self, to: &mut BTreeSet<u64>) {
        let count = usize::try_from(self.word(0).swap(0, Ordering::Relaxed)).unwrap_or(0);
        to.extend((1..WORDS.min(count + 1)).map(|at| self.word(at).load(Ordering::Relaxed)));
        // What taking them ran through is of no interest.
        self.word(0).store(0, Ordering::Relaxed);
    }
}

impl Drop for Coverage {
    fn drop(&mut self) {
        // Closing the file would not end the tracing. Without it, nothing more can be done.
        // SAFETY: takes integers only.
        let _ = check(unsafe { libc::ioctl(self.file.as_raw_fd(), DISABLE, 0) });
        // SAFETY: the mapping was made in `start` and ends with `self`; the kernel has one of its
        // own.
        unsafe { libc::munmap(self.words.cast(), 8 * WORDS) };
    }
}
