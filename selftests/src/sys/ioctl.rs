// SPDX-License-Identifier: GPL-2.0

//! Typed ioctl calls, and one on raw memory for the calls that must fail.

use super::check;
use super::mapping::{Mapping, PAGE, user_end};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The kernel reads the argument.
pub const DIR_WRITE: u64 = 1;
/// The kernel writes the argument.
pub const DIR_READ: u64 = 2;

/// An ioctl number together with the type its argument points to.
#[derive(Clone, Copy, Debug)]
pub struct Request<T> {
    number: u64,
    argument: std::marker::PhantomData<fn(T)>,
}

/// The number of a call: `_IOC()` of the kernel's `asm-generic/ioctl.h`.
#[must_use]
pub const fn number(direction: u64, kind: u8, nr: u8, size: usize) -> u64 {
    // CAST: sizes of ioctl arguments are below 2^14 and widening is exact.
    (direction << 30) | ((size as u64) << 16) | ((kind as u64) << 8) | nr as u64
}

impl<T> Request<T> {
    const fn new(number: u64) -> Self {
        Self {
            number,
            argument: std::marker::PhantomData,
        }
    }

    /// `_IO`: no argument.
    pub(crate) const fn none(kind: u8, nr: u8) -> Self {
        Self::new(number(0, kind, nr, 0))
    }

    /// `_IOR`: the kernel writes the argument.
    pub(crate) const fn read(kind: u8, nr: u8) -> Self {
        Self::new(number(DIR_READ, kind, nr, size_of::<T>()))
    }

    /// `_IOW`: the kernel reads the argument.
    pub(crate) const fn write(kind: u8, nr: u8) -> Self {
        Self::new(number(DIR_WRITE, kind, nr, size_of::<T>()))
    }

    /// `_IOWR`: both.
    pub(crate) const fn read_write(kind: u8, nr: u8) -> Self {
        Self::new(number(DIR_READ | DIR_WRITE, kind, nr, size_of::<T>()))
    }

    /// A number that predates the encoding.
    pub(crate) const fn plain(number: u64) -> Self {
        Self::new(number)
    }

    /// The encoded number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.number
    }
}

/// Where a call that must not succeed points its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPointer {
    /// Address zero.
    Null,
    /// An address in the kernel's half.
    Kernel,
    /// The last page below the end of user space, where no process has anything.
    Top,
}

impl BadPointer {
    fn address(self) -> usize {
        match self {
            Self::Null => 0,
            Self::Kernel => 0xffff_8880_0000_0000,
            Self::Top => user_end() as usize - PAGE,
        }
    }
}

/// Issues an ioctl whose argument is `arg`, which the kernel may read and write.
pub(crate) fn call<T: Copy>(fd: BorrowedFd<'_>, req: Request<T>, arg: &mut T) -> io::Result<i32> {
    // SAFETY: `Request` values exist only as constants that pair a number with the structure the
    // kernel expects behind it, and `arg` is exclusively borrowed for the whole call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), req.number, std::ptr::from_mut(arg)) })
}

/// Issues an ioctl without argument.
pub(crate) fn call_none(fd: BorrowedFd<'_>, req: Request<()>) -> io::Result<i32> {
    // SAFETY: requests of type `()` are constants of calls that take no pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), req.number, 0usize) })
}

/// Issues an ioctl, of any number, on memory at `offset` of a shared mapping.
///
/// # Errors
///
/// What the kernel answers; an offset outside of the mapping is refused here.
pub fn call_raw(fd: BorrowedFd<'_>, number: u64, map: &Mapping, offset: usize) -> io::Result<i32> {
    if offset >= map.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the address lies in a mapping that no Rust reference points into, so whatever the
    // kernel writes there upsets nobody; the guard page behind it bounds a long write.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), number, map.addr() + offset) })
}

/// Issues an ioctl, of any number, on an address that user space cannot own.
///
/// # Errors
///
/// What the kernel answers.
pub fn call_bad(fd: BorrowedFd<'_>, number: u64, pointer: BadPointer) -> io::Result<i32> {
    // SAFETY: none of the addresses is ever mapped by this process, so nothing can be written.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), number, pointer.address()) })
}
