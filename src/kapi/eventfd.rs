// SPDX-License-Identifier: GPL-2.0

//! Eventfds, for the call and error notifications, and the file behind a kick.
//!
//! C header: `include/linux/eventfd.h`.

use core::ptr::NonNull;

use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::fs::LocalFile;
use kernel::prelude::*;
use kernel::sync::aref::ARef;

use super::PollFile;

/// A reference to an eventfd that can be signalled.
///
/// # Invariants
///
/// Owns one reference to the `eventfd_ctx`.
pub(crate) struct EventFd(NonNull<bindings::eventfd_ctx>);

// SAFETY: an `eventfd_ctx` is reference-counted and locks itself.
unsafe impl Send for EventFd {}
// SAFETY: as above; `signal` may be called from anywhere.
unsafe impl Sync for EventFd {}

impl EventFd {
    /// Looks up `fd` in the caller's file table.
    ///
    /// # Errors
    ///
    /// `EBADF` when no file is open as `fd`, `EINVAL` for a file that is not an eventfd.
    pub(crate) fn from_fd(fd: i32) -> Result<Self> {
        // SAFETY: any number may be looked up.
        let ctx = from_err_ptr(unsafe { bindings::eventfd_ctx_fdget(fd) })?;
        // INVARIANT: the look-up took a reference, which is owned now.
        NonNull::new(ctx).map(Self).ok_or(EBADF)
    }

    /// Adds one to the eventfd's counter and wakes its waiters, in any context.
    #[inline]
    pub(crate) fn signal(&self) {
        // SAFETY: the context is alive by the type invariant.
        unsafe { bindings::eventfd_signal_mask(self.0.as_ptr(), 0) };
    }
}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: gives back the reference of the type invariant.
        unsafe { bindings::eventfd_ctx_put(self.0.as_ptr()) };
    }
}

/// Looks up `fd` in the caller's file table as an eventfd's file, to wait for kicks on it.
///
/// # Errors
///
/// `EBADF` when no file is open as `fd`, `EINVAL` for a file that is not an eventfd.
pub(crate) fn kick_file(fd: i32) -> Result<PollFile> {
    // SAFETY: any number may be looked up.
    let file = from_err_ptr(unsafe { bindings::eventfd_fget(fd) })?;
    let file = NonNull::new(file).ok_or(EBADF)?;
    // SAFETY: the look-up, in the calling thread, took a reference, which is owned now. `LocalFile`
    // has the layout of `struct file`.
    let file = unsafe { ARef::<LocalFile>::from_raw(file.cast()) };
    // SAFETY: an eventfd is not a regular file, and its wait queue is in its context, to which the
    // file has a reference.
    Ok(unsafe { PollFile::new(file) })
}
