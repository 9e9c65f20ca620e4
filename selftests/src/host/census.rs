// SPDX-License-Identifier: GPL-2.0

//! What the kernel holds, counted again and again, to find what is not given back.
//!
//! Caches grow and shrink as they like, so a count tells little by itself. But who leaves something
//! behind does so each time: what grows in every one of several periods of use is a leak.

use crate::host::procfs;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// How long freed memory may take to come back, on machines of all kinds: what RCU and work queues
/// free comes later. What takes longer is only suspected, until it has grown in each period.
const SETTLE: Duration = Duration::from_secs(10);

/// Periods of use, of the same length.
pub const PERIODS: u64 = 3;

/// Periods, if something has grown in each before: a leak goes on, while a store that fills does
/// not. Reference trackers keep 128 that were released, for each network namespace
/// (`lib/ref_tracker.c`).
pub const MOST_PERIODS: u64 = 12;

/// KiB of memory that a period may seem to take: pages are counted per CPU, and the page cache
/// grows.
const NOISE: u64 = 4 << 10;

/// KiB of memory that each use may seem to take.
const SLACK: u64 = 16;

/// Caches whose objects are not freed when they could be: address ranges of the kernel that are
/// given back when there are many of them, and what belongs to inodes that are kept for later.
const LAZY: [&str; 2] = ["vmap_area", "lsm_inode_cache"];

/// How the caches are called in which detectors keep their books of what others have.
const BOOKS: [&str; 2] = ["kmemleak_", "debug_objects"];

/// Counts at one moment.
#[derive(Clone, Debug)]
struct Census {
    /// Objects of each slab cache that is not itself a cache of something.
    objects: BTreeMap<String, u64>,
    available: u64,
    descriptors: usize,
    workers: usize,
}

impl Census {
    /// Counts now.
    fn take() -> Result<Self> {
        Ok(Self {
            objects: objects()?,
            available: procfs::meminfo("MemAvailable:")?,
            descriptors: fs::read_dir("/proc/self/fd")
                .context("list descriptors")?
                .count(),
            workers: procfs::all_workers()?,
        })
    }

    /// What there is more of than before, by name, after `uses` of something of which each would
    /// have left something behind.
    fn growth(&self, before: &Self, uses: u64) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        for (name, now) in &self.objects {
            let then = before.objects.get(name).copied().unwrap_or(0);
            if *now >= then + uses.div_ceil(2) {
                out.insert(
                    name.clone(),
                    format!("{then} objects of {name}, then {now}"),
                );
            }
        }
        let lost = before.available.saturating_sub(self.available);
        if lost > NOISE + uses * SLACK {
            out.insert("memory".to_owned(), format!("{lost} KiB of memory gone"));
        }
        out
    }

    /// Fails if there are more descriptors or workers than before, of which there are never some
    /// just in case.
    fn expect_none_left(&self, before: &Self) -> Result<()> {
        for (what, then, now) in [
            ("descriptors", before.descriptors, self.descriptors),
            ("workers", before.workers, self.workers),
        ] {
            if now > then {
                bail!("{then} {what}, then {now}");
            }
        }
        Ok(())
    }
}

/// Runs `period`, which answers how often it used something, [`PERIODS`] times, and up to
/// [`MOST_PERIODS`] while something has grown in each; answers how many KiB of memory seem to be
/// gone.
///
/// # Errors
///
/// When something has grown in each: it is named.
pub fn expect_no_growth(mut period: impl FnMut() -> Result<u64>) -> Result<u64> {
    let first = Census::take()?;
    let mut before = first.clone();
    let mut suspects: Option<BTreeMap<String, String>> = None;
    for number in 0..MOST_PERIODS {
        if number >= PERIODS && suspects.as_ref().is_none_or(BTreeMap::is_empty) {
            break;
        }
        let uses = period()?;
        let end = Instant::now();
        loop {
            let now = Census::take()?;
            let mut growth = now.growth(&before, uses);
            if let Some(suspects) = &suspects {
                growth.retain(|name, _| suspects.contains_key(name));
            }
            let left = now.expect_none_left(&first);
            if (growth.is_empty() && left.is_ok()) || end.elapsed() > SETTLE {
                left?;
                (before, suspects) = (now, Some(growth));
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    let suspects = suspects.unwrap_or_default();
    if !suspects.is_empty() {
        let all: Vec<_> = suspects.into_values().collect();
        bail!("growing, at last from {}", all.join(", "));
    }
    Ok(first.available.saturating_sub(before.available))
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
        let book = BOOKS.iter().any(|book| name.starts_with(book));
        if !reclaimed && !book && !LAZY.contains(&name) {
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
        let grown = census(150, 0, 0).growth(&before, 100);
        let names: Vec<_> = grown.keys().map(String::as_str).collect();
        assert_eq!(names, ["kmalloc-64", "memory"]);
    }

    #[test]
    fn a_single_worker_is_one_too_many() {
        let before = census(100, 1 << 20, 0);
        assert!(census(0, 0, 0).expect_none_left(&before).is_ok());
        assert!(census(0, 0, 1).expect_none_left(&before).is_err());
    }
}
