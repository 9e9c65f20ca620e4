// SPDX-License-Identifier: GPL-2.0

//! Kick, call and error notifications.

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A non-blocking event counter.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Makes one with a count of zero.
    ///
    /// # Errors
    ///
    /// When the process has too many descriptors.
    pub fn new() -> Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(eventfd(0, flags).context("eventfd")?))
    }

    /// Adds one to the count.
    ///
    /// # Errors
    ///
    /// When the count is at its end.
    pub fn signal(&self) -> Result<()> {
        rustix::io::write(&self.0, &1u64.to_ne_bytes()).context("write to eventfd")?;
        Ok(())
    }

    /// Takes the count, which is zero if nothing was signalled since.
    ///
    /// # Errors
    ///
    /// Only when the descriptor is broken.
    pub fn take(&self) -> Result<u64> {
        let mut bytes = [0u8; 8];
        match rustix::io::read(&self.0, &mut bytes) {
            Ok(_) => Ok(u64::from_ne_bytes(bytes)),
            Err(rustix::io::Errno::AGAIN) => Ok(0),
            Err(error) => Err(error).context("read of eventfd"),
        }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
