// SPDX-License-Identifier: GPL-2.0

//! What a queue has done so far, by the statistics of its device.

use crate::driver::device::NetDevice;
use crate::driver::vhost::RX;
use anyhow::{Context as _, Result};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};

/// Counts of one queue. The in-tree driver has none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    /// Rounds that have ended.
    pub(crate) rounds: u64,
    /// Packets in them, dropped ones included.
    pub(crate) packets: u64,
    /// Batches of used buffers.
    pub(crate) batches: u64,
}

impl Counts {
    /// Those of a queue of `device`.
    pub(crate) fn of(device: &NetDevice, index: u32) -> Result<Self> {
        let fd = device.vhost.as_fd().as_raw_fd();
        let path = format!("/proc/self/fdinfo/{fd}");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        Self::parse(&text, index).with_context(|| format!("no counts in {text:?}"))
    }

    /// Those of a queue of the one device that process `pid` has.
    pub(crate) fn of_process(pid: u32, index: u32) -> Result<Self> {
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).context("list descriptors")? {
            // A descriptor may be closed between the listing and the look at it.
            let text = fs::read_to_string(entry?.path()).unwrap_or_default();
            if let Some(counts) = Self::parse(&text, index) {
                return Ok(counts);
            }
        }
        anyhow::bail!("process {pid} has no device")
    }

    fn parse(text: &str, index: u32) -> Option<Self> {
        let name = if index == RX { "rx:" } else { "tx:" };
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let words: Vec<_> = line.split_whitespace().collect();
        let value = |name| -> Option<u64> {
            let pair = words.windows(2).find(|pair| pair[0] == name)?;
            pair[1].parse().ok()
        };
        // Transmitted packets include dropped ones.
        let dropped = if index == RX { value("dropped")? } else { 0 };
        Some(Self {
            rounds: value("rounds")?,
            packets: value("packets")? + dropped,
            batches: value("batches")?,
        })
    }

    /// What has been added since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            rounds: self.rounds - before.rounds,
            packets: self.packets - before.packets,
            batches: self.batches - before.batches,
        }
    }
}
