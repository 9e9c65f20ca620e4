// SPDX-License-Identifier: GPL-2.0

//! Process-wide calls.

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Moves the calling process into a network namespace of its own.
///
/// # Errors
///
/// Without the privilege to do so.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: takes no pointer; only what later calls see of the network changes.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    Ok(())
}

/// Runs the calling thread before all ordinary ones, until it sleeps.
///
/// # Errors
///
/// Without the privilege to do so.
pub fn run_first() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 1 };
    // SAFETY: the pointer is to a live structure of the kind the call takes.
    check(unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &parameter)
    })?;
    Ok(())
}

/// Asks the kernel to kill this process when its parent ends.
///
/// # Errors
///
/// When the kernel refuses.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })?;
    Ok(())
}

/// Runs `run` in a child, which has a copy of this process's memory, and waits for its end.
///
/// Nothing else of this process runs in the child: its memory goes with it, but for shared mappings.
///
/// # Errors
///
/// When there can be no further process, or the child died.
pub fn in_child(run: impl FnOnce()) -> io::Result<()> {
    // SAFETY: the child sees a copy of this memory as it is now. It runs one closure and ends
    // without unwinding into frames of the parent; a lock that another thread holds would stop it,
    // not confuse it.
    let child = check(unsafe { libc::fork() })?;
    if child == 0 {
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        // SAFETY: ends this process, and does nothing else.
        unsafe { libc::_exit(i32::from(ran.is_err())) };
    }
    let mut status = 0;
    // SAFETY: the pointer is to a live integer.
    check(unsafe { libc::waitpid(child, &raw mut status, 0) })?;
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::other(format!("a child ended with {status:#x}")))
    }
}

/// Has the kernel kill this process after so many seconds; zero for never. Replaces the last one.
pub fn alarm(seconds: u32) {
    // SAFETY: takes an integer only.
    unsafe { libc::alarm(seconds) };
}

/// Opens a further descriptor number for the file behind `fd`, closing what `target` was.
///
/// Both are plain numbers: this exists to race a close and a reuse of a number against a call
/// that looks the number up.
///
/// # Errors
///
/// When `fd` is not open.
pub fn redirect(fd: i32, target: &RawSlot) -> io::Result<()> {
    // SAFETY: `target` reserves its number for exactly this use, no owner object exists for it.
    check(unsafe { libc::dup2(fd, target.0) })?;
    Ok(())
}

/// Puts the file of `fd` behind the open descriptor `target`, in place of its own.
///
/// # Errors
///
/// When the kernel has no memory.
pub fn replace(target: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes integers only. Both numbers are open, and are so afterwards; what file is behind
    // the target is no matter of memory safety.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target.as_raw_fd()) })?;
    Ok(())
}

/// A descriptor number that no owned object stands for.
#[derive(Debug)]
pub struct RawSlot(i32);

impl RawSlot {
    /// Takes over the number of an owned descriptor.
    #[must_use]
    pub fn new(fd: std::os::fd::OwnedFd) -> Self {
        Self(std::os::fd::IntoRawFd::into_raw_fd(fd))
    }

    /// The number.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.0
    }

    /// Closes whatever the number stands for now, keeping the number in use by this object.
    pub fn close(&self) {
        // SAFETY: the number belongs to `self`, no owned object refers to it.
        unsafe { libc::close(self.0) };
    }
}

impl Drop for RawSlot {
    fn drop(&mut self) {
        self.close();
    }
}
