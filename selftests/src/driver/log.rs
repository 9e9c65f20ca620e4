// SPDX-License-Identifier: GPL-2.0

//! The dirty log: one bit for each page of guest memory that the device wrote (`VHOST_F_LOG_ALL`).

use crate::driver::device::NetDevice;
use crate::driver::uapi::{VRING_LOG, VringAddr};
use crate::sys::mapping::Mapping;
use anyhow::{Context, Result};
use std::collections::BTreeSet;

/// The bytes that one bit stands for (`VHOST_PAGE_SIZE`).
pub const LOG_PAGE: u64 = 4096;

/// Numbers of guest pages.
pub type Pages = BTreeSet<u64>;

/// Adds the pages that `len` bytes at a guest address touch.
pub fn cover(pages: &mut Pages, addr: u64, len: u64) {
    if len > 0 {
        pages.extend(addr / LOG_PAGE..=(addr + len - 1) / LOG_PAGE);
    }
}

/// A log in shared memory.
#[derive(Debug)]
pub struct DirtyLog(Mapping);

impl DirtyLog {
    /// A clear log for the guest addresses below `end`, with an inaccessible page behind it.
    ///
    /// # Errors
    ///
    /// When the host has no memory.
    pub fn new(end: u64) -> Result<Self> {
        let bytes = usize::try_from(end.div_ceil(LOG_PAGE * 8))?;
        Ok(Self(Mapping::new(bytes).context("dirty log")?))
    }

    /// As [`DirtyLog::new`], at the upper end of user space: the bits of guest addresses from 2^63 on would
    /// lie beyond it on every machine.
    ///
    /// # Errors
    ///
    /// When the host has no memory.
    pub fn high(end: u64) -> Result<Self> {
        let bytes = usize::try_from(end.div_ceil(LOG_PAGE * 8))?;
        Ok(Self(Mapping::high(bytes).context("dirty log")?))
    }

    /// The address to hand to the device.
    #[must_use]
    pub fn addr(&self) -> u64 {
        self.0.addr() as u64
    }

    /// The memory, for cases that close it.
    #[must_use]
    pub fn memory(&self) -> &Mapping {
        &self.0
    }

    /// Takes all bits and leaves none, each word in one step, as a hypervisor does while the
    /// device runs.
    #[must_use]
    pub fn take(&self) -> Pages {
        let mut pages = Pages::new();
        for offset in (0..self.0.len()).step_by(2) {
            let word = self.0.take_u16(offset);
            if word != 0 {
                let first = 8 * offset as u64;
                pages.extend(
                    (0..16)
                        .filter(|bit| word >> bit & 1 != 0)
                        .map(|b| first + b),
                );
            }
        }
        pages
    }
}

/// Moves no ring, but turns the logging of one queue's used ring on, at guest address `log`, or
/// off.
///
/// # Errors
///
/// What the kernel answers to `SET_VRING_ADDR`.
pub fn log_used(device: &NetDevice, index: u32, log: Option<u64>) -> std::io::Result<()> {
    let queue = if index == device.rx.index {
        &device.rx
    } else {
        &device.tx
    };
    device.vhost.set_addr(VringAddr {
        flags: log.map_or(0, |_| VRING_LOG),
        log: log.unwrap_or(0),
        ..device.address(queue)
    })
}
