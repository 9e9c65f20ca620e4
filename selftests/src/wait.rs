// SPDX-License-Identifier: GPL-2.0

//! Bounded waits: a test that hangs names what it waited for.

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use std::io;
use std::os::fd::AsFd;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything that should happen soon may take on a slow emulated machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// By how much all deadlines are multiplied.
static FACTOR: AtomicU32 = AtomicU32::new(1);

/// Multiplies all deadlines, of cases too, for a machine that is slower still.
pub fn be_patient(factor: u32) {
    FACTOR.store(factor, Ordering::Relaxed);
}

/// Whether a descriptor is readable now.
///
/// # Errors
///
/// When the kernel refuses to poll.
pub fn is_readable(fd: impl AsFd) -> Result<bool> {
    Deadline::after(Duration::ZERO).readable(&[fd])
}

/// A point in time after which waiting is a failure.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// A deadline of [`PATIENCE`] from now.
    #[must_use]
    pub fn patient() -> Self {
        Self::after(PATIENCE)
    }

    /// A deadline after `time` from now, or more if [`be_patient`] said so.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time * FACTOR.load(Ordering::Relaxed))
    }

    /// The time left, zero when it has passed.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.left().is_zero()
    }

    /// Waits until one of the descriptors is readable; false at the deadline.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to poll.
    pub fn readable<F: AsFd>(&self, fds: &[F]) -> Result<bool> {
        let mut set: Vec<_> = fds
            .iter()
            .map(|fd| PollFd::new(fd, PollFlags::IN))
            .collect();
        loop {
            let left = self.left();
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            match poll(&mut set, Some(&timeout)) {
                Ok(0) if self.passed() => return Ok(false),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error).context("poll"),
            }
        }
    }

    /// How `child` ended; `None` if it still runs at the deadline.
    ///
    /// # Errors
    ///
    /// When it is no child of this process any more.
    pub fn ended(&self, child: &mut Child) -> io::Result<Option<ExitStatus>> {
        loop {
            let ended = child.try_wait()?;
            if ended.is_some() || self.passed() {
                return Ok(ended);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks `done` again and again, with short pauses, for states that no descriptor tells.
    ///
    /// # Errors
    ///
    /// When `done` fails, or the deadline passes.
    pub fn until(&self, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        while !done()? {
            if self.passed() {
                bail!("waited in vain for {what}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}
