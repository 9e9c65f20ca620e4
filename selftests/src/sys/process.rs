// SPDX-License-Identifier: GPL-2.0

//! Process-wide calls.

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// A child with a copy of this process's memory; it is killed when this is dropped.
#[derive(Debug)]
pub struct Forked(libc::pid_t);

impl Forked {
    /// Runs `run` in a child, whose status is what it answers.
    ///
    /// Nothing else of this process runs in the child: its memory goes with it, but for shared
    /// mappings.
    ///
    /// # Errors
    ///
    /// When there can be no further process.
    pub fn start(run: impl FnOnce() -> u8) -> io::Result<Self> {
        // SAFETY: the child sees a copy of this memory as it is now. It runs one closure and ends
        // without unwinding into frames of the parent; a lock that another thread holds would stop
        // it, not confuse it.
        let child = check(unsafe { libc::fork() })?;
        if child == 0 {
            let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            // SAFETY: ends this process, and does nothing else.
            unsafe { libc::_exit(i32::from(ran.unwrap_or(u8::MAX))) };
        }
        Ok(Self(child))
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.unsigned_abs()
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// None in practice.
    pub fn wait(self) -> io::Result<ExitStatus> {
        let status = self.reap();
        std::mem::forget(self);
        status
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// None in practice: until it is waited for, it has its number.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: takes integers only, and the child has not been waited for.
        check(unsafe { libc::kill(self.0, signal) })?;
        Ok(())
    }

    fn reap(&self) -> io::Result<ExitStatus> {
        let mut status = 0;
        // SAFETY: the pointer is to a live integer.
        check(unsafe { libc::waitpid(self.0, &raw mut status, 0) })?;
        Ok(ExitStatus::from_raw(status))
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        // There is nobody to tell of an error.
        let _ = self.signal(libc::SIGKILL).and_then(|()| self.reap());
    }
}

/// Runs `run` in a child as [`Forked::start`] does, and waits for its end.
///
/// # Errors
///
/// When there can be no further process, or the child died.
pub fn in_child(run: impl FnOnce()) -> io::Result<()> {
    let child = Forked::start(|| {
        run();
        0
    })?;
    let status = child.wait()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("a child ended with {status}")))
    }
}

/// Signals that have come of [`interrupt_after`].
static INTERRUPTIONS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_interruption(_signal: libc::c_int) {
    INTERRUPTIONS.fetch_add(1, Ordering::Relaxed);
}

/// Has one signal come after so many microseconds, less than a second; a call that it interrupts is
/// made again if it can be (`SA_RESTART`). Replaces the one that has not come yet.
///
/// # Errors
///
/// None in practice.
pub fn interrupt_after(micros: u32) -> io::Result<()> {
    // SAFETY: all zeroes is a valid value of this structure of integers and pointers.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = count_interruption as extern "C" fn(libc::c_int) as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the structure is valid, and its handler does nothing but add to an atomic number.
    check(unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) })?;
    let never = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    let timer = libc::itimerval {
        it_interval: never,
        it_value: libc::timeval {
            tv_usec: micros.into(),
            ..never
        },
    };
    // SAFETY: the structure is valid, and nothing is written.
    check(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) })?;
    Ok(())
}

/// How many signals of [`interrupt_after`] have come.
#[must_use]
pub fn interruptions() -> u64 {
    INTERRUPTIONS.load(Ordering::Relaxed)
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
    // SAFETY: takes integers only. Both numbers are open, and are so afterwards; what file is
    // behind the target is no matter of memory safety.
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
