// SPDX-License-Identifier: GPL-2.0

//! What the kernel holds, counted before and after, to find what is not given back.

use crate::procfs;
use crate::wait::Deadline;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// How long freed memory may take to come back: what RCU and work queues free comes later.
const SETTLE: Duration = Duration::from_secs(30);

/// KiB of memory that may seem to be gone: pages are counted per CPU, and the page cache grows.
const NOISE: u64 = 8 << 10;

/// KiB of memory that each use may seem to take.
const SLACK: u64 = 16;

/// Caches whose objects are not freed when they could be: address ranges of the kernel that are
/// given back when there are many of them, and what belongs to inodes that are kept for later.
const LAZY: [&str; 2] = ["vmap_area", "lsm_inode_cache"];

/// Counts at one moment.
#[derive(Clone, Debug)]
pub struct Census {
    /// Objects of each slab cache that is not itself a cache of something.
    objects: BTreeMap<String, u64>,
    available: u64,
    descriptors: usize,
    workers: usize,
}

impl Census {
    /// Counts now.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell, which takes privileges.
    pub fn take() -> Result<Self> {
        Ok(Self {
            objects: objects()?,
            available: procfs::meminfo("MemAvailable:")?,
            descriptors: fs::read_dir("/proc/self/fd")
                .context("list descriptors")?
                .count(),
            workers: procfs::all_workers()?,
        })
    }

    /// What there is more of than before, after `uses` of something of which each would have left
    /// something behind.
    fn growth(&self, before: &Self, uses: u64) -> Vec<String> {
        let mut out = Vec::new();
        for (name, now) in &self.objects {
            let then = before.objects.get(name).copied().unwrap_or(0);
            if *now >= then + uses.div_ceil(2) {
                out.push(format!("{then} objects of {name}, then {now}"));
            }
        }
        let lost = before.available.saturating_sub(self.available);
        if lost > NOISE + uses * SLACK {
            out.push(format!("{lost} KiB of memory gone"));
        }
        for (what, then, now) in [
            ("descriptors", before.descriptors, self.descriptors),
            ("workers", before.workers, self.workers),
        ] {
            if now > then {
                out.push(format!("{then} {what}, then {now}"));
            }
        }
        out
    }
}

/// Waits until no more is held than `before`, after `uses` of something; answers how many KiB of
/// memory seem to be gone, which are few.
///
/// # Errors
///
/// When something stays: it is named.
pub fn expect_no_growth(before: &Census, uses: u64) -> Result<u64> {
    let deadline = Deadline::after(SETTLE);
    loop {
        let now = Census::take()?;
        let growth = now.growth(before, uses);
        if growth.is_empty() {
            return Ok(before.available.saturating_sub(now.available));
        }
        if deadline.passed() {
            bail!("after {uses} uses: {}", growth.join(", "));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Objects in use of each slab cache, but for those whose memory is taken back when it is needed.
fn objects() -> Result<BTreeMap<String, u64>> {
    // Page cache, inodes and names, with what others keep for each of them.
    fs::write("/proc/sys/vm/drop_caches", "3").context("drop caches")?;
    for entry in fs::read_dir("/sys/kernel/slab").context("list slab caches")? {
        // What a CPU keeps for itself counts as used. A cache may be gone since the listing.
        let _ = fs::write(entry?.path().join("shrink"), "1");
    }
    let text = fs::read_to_string("/proc/slabinfo").context("/proc/slabinfo")?;
    let mut out = BTreeMap::new();
    // Two lines say what is in the others.
    for line in text.lines().skip(2) {
        let mut words = line.split_whitespace();
        let (Some(name), Some(active)) = (words.next(), words.next()) else {
            bail!("/proc/slabinfo: `{line}`");
        };
        let flag = format!("/sys/kernel/slab/{name}/reclaim_account");
        let reclaimed = fs::read_to_string(flag).is_ok_and(|flag| flag.trim() == "1");
        if !reclaimed && !LAZY.contains(&name) {
            out.insert(name.to_owned(), active.parse().context("/proc/slabinfo")?);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::Census;

    fn census(objects: u64, available: u64, workers: usize) -> Census {
        Census {
            objects: [("kmalloc-64".to_owned(), objects)].into(),
            available,
            descriptors: 3,
            workers,
        }
    }

    #[test]
    fn growth_is_named() {
        let before = census(100, 1 << 20, 0);
        assert!(census(149, 1 << 20, 0).growth(&before, 100).is_empty());
        let grown = census(150, 1 << 20, 1).growth(&before, 100);
        assert_eq!(
            grown,
            ["100 objects of kmalloc-64, then 150", "0 workers, then 1"]
        );
        assert_eq!(census(0, 0, 0).growth(&before, 100).len(), 1);
    }
}
