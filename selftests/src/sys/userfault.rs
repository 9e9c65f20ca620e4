// SPDX-License-Identifier: GPL-2.0

//! Missing pages that another process fills in, so that who touches one waits for as long as it
//! likes.

use super::ioctl::{Request, call};
use super::mapping::Mapping;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

const KIND: u8 = 0xaa;
const API: Request<Api> = Request::read_write(KIND, 0x3f);
const REGISTER: Request<Range> = Request::read_write(KIND, 0x00);
const ZERO_PAGE: Request<Range> = Request::read_write(KIND, 0x04);

/// `struct uffdio_api`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register` and `struct uffdio_zeropage`, which have the same fields.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Range {
    start: u64,
    len: u64,
    mode: u64,
    answer: u64,
}

/// A descriptor that tells of accesses to missing pages.
#[derive(Debug)]
pub struct Userfault(OwnedFd);

impl Userfault {
    /// One for this process.
    ///
    /// # Errors
    ///
    /// Without the privilege to hold up the kernel.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes an integer only.
        let fd =
            unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        let fd = RawFd::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
        super::check(fd)?;
        // SAFETY: the descriptor was just made, and nobody else knows it.
        let this = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        let mut api = Api {
            api: 0xaa,
            features: 0,
            ioctls: 0,
        };
        call(this.as_fd(), API, &mut api)?;
        Ok(this)
    }

    /// One of another process, as it was duplicated from there.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The bare number, for another process.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Makes a range of pages missing: who touches one waits.
    ///
    /// # Errors
    ///
    /// When the range is not made of whole pages of the mapping.
    pub fn take(&self, map: &Mapping, offset: usize, len: usize) -> io::Result<()> {
        map.discard(offset, len)?;
        let mut range = Range {
            start: (map.addr() + offset) as u64,
            len: len as u64,
            mode: 1,
            answer: 0,
        };
        call(self.as_fd(), REGISTER, &mut range).map(drop)
    }

    /// Fills in zeroes at an address of the process that the pages are missing in, so that it goes
    /// on.
    ///
    /// # Errors
    ///
    /// When no page is missing there.
    pub fn fill(&self, address: u64, len: usize) -> io::Result<()> {
        let mut range = Range {
            start: address,
            len: len as u64,
            mode: 0,
            answer: 0,
        };
        call(self.as_fd(), ZERO_PAGE, &mut range).map(drop)
    }
}

impl AsFd for Userfault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
