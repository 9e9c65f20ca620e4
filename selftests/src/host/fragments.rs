// SPDX-License-Identifier: GPL-2.0

//! Memory in small pieces: most of it is held, but for every second page.
//!
//! A kernel with fault injection says that there are no others, to those who cannot wait.

use crate::host::procfs;
use crate::skip::Skip;
use crate::sys::ballast::Ballast;
use crate::sys::mapping::PAGE;
use crate::sys::net;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};

/// Memory that is taken at once, in bytes.
const STEP: usize = 4 << 20;
/// Memory that is left free by then, in KiB.
const RESERVE: u64 = 24 << 10;
/// The most memory of a machine that is made for tests, in KiB.
const MOST: u64 = 8 << 20;
/// How often to take what lies together: a block may be taken from something larger.
const TRIES: u32 = 3;

/// Kernel settings, below `/proc/sys/vm`, under which pages stay where they are and hardly any are
/// held back.
const SETTINGS: [(&str, &str); 3] = [
    ("compact_unevictable_allowed", "0"),
    ("compaction_proactiveness", "0"),
    ("min_free_kbytes", "4096"),
];

/// Settings of `fail_page_alloc`, below [`FAIL`], with which nobody gets pages that lie together
/// who cannot wait for them, but for two: a kernel that checks its slabs needs these for some.
const FAILURES: [(&str, &str); 6] = [
    ("ignore-gfp-wait", "Y"),
    ("min-order", "2"),
    ("task-filter", "N"),
    ("verbose", "0"),
    ("times", "-1"),
    // Last, for it begins with that.
    ("probability", "100"),
];
/// Where a kernel with fault injection has it for pages.
const FAIL: &str = "/sys/kernel/debug/fail_page_alloc";

/// Keeps memory in pieces as long as it lives.
#[derive(Debug)]
pub struct Fragments {
    /// Files, and what they said before.
    settings: Vec<(String, String)>,
    held: Vec<Ballast>,
    /// Packet sockets with receive rings, whose blocks are two pages each.
    rings: Vec<OwnedFd>,
}

impl Fragments {
    /// Takes nearly all memory, gives every second page back, and takes what lies together then.
    ///
    /// # Errors
    ///
    /// Without the privilege to lock memory. A machine with much memory skips the case.
    pub fn new() -> Result<Self> {
        let mut fragments = Self {
            settings: Vec::new(),
            held: Vec::new(),
            rings: Vec::new(),
        };
        if fs::exists(FAIL)? {
            fragments.set(FAIL, &FAILURES)?;
            return Ok(fragments);
        }
        if procfs::meminfo("MemTotal:")? > MOST {
            return Err(Skip("this machine has too much memory to take it".into()).into());
        }
        fragments.set("/proc/sys/vm", &SETTINGS)?;
        while procfs::meminfo("MemAvailable:")? > RESERVE {
            let more = Ballast::new(STEP).context("hold memory")?;
            fragments.held.push(more);
        }
        for ballast in &fragments.held {
            ballast.thin_out().context("give pages back")?;
        }
        fragments.take_pairs()?;
        let (all, paired) = (free_pages(0)?, free_pages(1)?);
        if paired > all / 20 {
            bail!("{paired} of {all} free pages still lie together");
        }
        Ok(fragments)
    }

    /// Changes settings of the kernel for as long as this lives.
    fn set(&mut self, directory: &str, settings: &[(&str, &str)]) -> Result<()> {
        for (name, value) in settings {
            let path = format!("{directory}/{name}");
            let before = fs::read_to_string(&path).with_context(|| path.clone())?;
            fs::write(&path, value).with_context(|| path.clone())?;
            self.settings.push((path, before));
        }
        Ok(())
    }

    /// Takes what lies together now: pieces come up where the kernel frees something.
    ///
    /// # Errors
    ///
    /// When the kernel does not give it.
    pub fn take_pairs(&mut self) -> Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        for _ in 0..TRIES {
            let pairs = u32::try_from(free_pages(1)? / 2)?;
            if pairs == 0 {
                break;
            }
            let ring = net::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).context("packet socket")?;
            // CAST: 8 KiB.
            net::packet_ring(ring.as_fd(), 2 * PAGE as u32, pairs).context("a packet ring")?;
            self.rings.push(ring);
        }
        Ok(())
    }
}

/// How many pages are free in pieces of at least `1 << order`.
fn free_pages(order: usize) -> Result<u64> {
    let pieces = free()?;
    let pages = pieces
        .iter()
        .enumerate()
        .map(|(order, count)| count << order);
    Ok(pages.skip(order).sum())
}

/// How many pieces of each order are free, beside those below 16 MiB, which hardly anybody gets.
fn free() -> Result<Vec<u64>> {
    let text = fs::read_to_string("/proc/buddyinfo").context("/proc/buddyinfo")?;
    let mut sums = Vec::new();
    for zone in text.lines() {
        if zone.contains(" DMA ") {
            continue;
        }
        // `Node 0, zone   Normal`, then a count for each order.
        for (order, count) in zone.split_whitespace().skip(4).enumerate() {
            let count: u64 = count.parse().context("a count of pages")?;
            if order == sums.len() {
                sums.push(0);
            }
            sums[order] += count;
        }
    }
    Ok(sums)
}

impl Drop for Fragments {
    fn drop(&mut self) {
        for (path, before) in self.settings.iter().rev() {
            // What is not put back shows in later cases.
            let _ = fs::write(path, before);
        }
    }
}
