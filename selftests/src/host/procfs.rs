// SPDX-License-Identifier: GPL-2.0

//! What the kernel tells about threads and memory.

use crate::eventfd::EventFd;
use crate::wait::Deadline;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The process id of the parent of all kernel threads.
const KTHREADD: u64 = 2;

/// A thread of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its id.
    pub tid: u32,
    /// Its name.
    pub name: String,
}

/// All threads of a process.
///
/// # Errors
///
/// When the process is gone.
pub fn threads(pid: u32) -> Result<Vec<Thread>> {
    let mut out = Vec::new();
    for (tid, place) in numbered(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the look at it.
        if let Ok(name) = fs::read_to_string(place.join("comm")) {
            out.push(Thread {
                tid,
                name: name.trim_end().to_owned(),
            });
        }
    }
    Ok(out)
}

/// What in a folder has a number as its name, with its path.
fn numbered(folder: impl AsRef<Path>) -> Result<Vec<(u32, PathBuf)>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).context("list processes or threads")? {
        let entry = entry?;
        let number = entry.file_name().to_str().map(str::parse);
        if let Some(Ok(number)) = number {
            out.push((number, entry.path()));
        }
    }
    Ok(out)
}

/// The state of a thread of this process, as in `ps`: `S` when it waits and can be interrupted.
///
/// # Errors
///
/// When the thread is gone.
pub fn state(tid: u32) -> Result<char> {
    state_of(std::process::id(), tid)
}

/// The state of a thread of a process, as [`state`].
///
/// # Errors
///
/// When the thread is gone.
pub fn state_of(pid: u32, tid: u32) -> Result<char> {
    let path = format!("/proc/{pid}/task/{tid}/status");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix("State:"));
    let state = line.and_then(|line| line.trim_start().chars().next());
    state.context("status without a state")
}

/// The vhost workers of this process.
///
/// # Errors
///
/// When the process information is missing.
pub fn workers() -> Result<Vec<Thread>> {
    let pid = std::process::id();
    let name = format!("vhost-{pid}");
    Ok(threads(pid)?
        .into_iter()
        .filter(|thread| thread.name == name)
        .collect())
}

/// The kernel threads that work for this process.
///
/// # Errors
///
/// When the process information is missing.
pub fn kernel_workers() -> Result<Vec<Thread>> {
    let name = format!("vhost-{}", std::process::id());
    let mut out = Vec::new();
    for (tid, place) in numbered("/proc")? {
        // A process may end between the listing and the look at it.
        let Ok(status) = fs::read_to_string(place.join("status")) else {
            continue;
        };
        let named = status.lines().next() == Some(&format!("Name:\t{name}"));
        if named && field(&status, "PPid:") == Some(KTHREADD) {
            out.push(Thread {
                tid,
                name: name.clone(),
            });
        }
    }
    Ok(out)
}

/// How many vhost workers there are, of whatever process.
///
/// # Errors
///
/// When the process information is missing.
pub fn all_workers() -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir("/proc").context("list processes")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) {
            // A process may end between the listing and the look at it.
            let threads = threads(pid).unwrap_or_default();
            let worker = |thread: &&Thread| thread.name.starts_with("vhost-");
            count += threads.iter().filter(worker).count();
        }
    }
    Ok(count)
}

/// What a thread has run so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Nanoseconds on a CPU.
    pub run_ns: u64,
    /// How often it was put on a CPU.
    pub slices: u64,
}

/// Run time and count of a thread of this process.
///
/// # Errors
///
/// When the thread is gone.
pub fn schedule(tid: u32) -> Result<Schedule> {
    let path = format!("/proc/self/task/{tid}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let mut words = text.split_whitespace().map(str::parse);
    let mut next = || {
        words
            .next()
            .context("short schedstat")?
            .context("schedstat")
    };
    let run_ns = next()?;
    let _waiting: u64 = next()?;
    Ok(Schedule {
        run_ns,
        slices: next()?,
    })
}

/// Waits until no worker of this process runs any more or is about to: all wait, and their run time
/// stands still.
///
/// # Errors
///
/// When there is no worker, or it does not come to rest.
pub fn idle() -> Result<()> {
    let workers = workers()?;
    if workers.is_empty() {
        bail!("there is no worker");
    }
    let total = || -> Result<u64> {
        workers
            .iter()
            .map(|worker| Ok(schedule(worker.tid)?.run_ns))
            .sum()
    };
    Deadline::patient().until("the workers to go idle", || {
        let before = total()?;
        std::thread::sleep(Duration::from_millis(30));
        for worker in &workers {
            // Woken, but without a CPU so far.
            if state(worker.tid)? == 'R' {
                return Ok(false);
            }
        }
        Ok(total()? == before)
    })
}

/// Waits until this process has exactly `count` vhost workers; one that was stopped is listed for
/// a moment longer, until its thread has left the kernel.
///
/// # Errors
///
/// When the number stays another.
pub fn expect_workers(count: usize) -> Result<()> {
    Deadline::patient().until(
        &format!("{count} workers"),
        || Ok(workers()?.len() == count),
    )
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A count of `/proc/vmstat`.
///
/// # Errors
///
/// When there is no such line.
pub fn vmstat(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/vmstat").context("/proc/vmstat")?;
    field(&text, &format!("{name} ")).with_context(|| format!("{name} is not in vmstat"))
}

/// A line of `/proc/meminfo` in KiB.
///
/// # Errors
///
/// When there is no such line.
pub fn meminfo(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    field(&text, name).with_context(|| format!("{name} is not in meminfo"))
}

/// How much memory the kernel uses.
#[derive(Clone, Copy, Debug)]
pub struct MemoryUse {
    /// Slab memory that cannot be reclaimed, in KiB.
    slab: u64,
    /// Memory that is available, in KiB.
    available: u64,
}

impl MemoryUse {
    /// What it uses now.
    ///
    /// # Errors
    ///
    /// When it does not tell.
    pub fn now() -> Result<Self> {
        Ok(Self {
            slab: meminfo("SUnreclaim:")?,
            available: meminfo("MemAvailable:")?,
        })
    }

    /// Waits until there are less than `slab` KiB more of slab memory than this, and less than
    /// `lost` KiB are missing; some things are freed with a delay.
    ///
    /// # Errors
    ///
    /// When that does not happen.
    pub fn returns(&self, slab: u64, lost: u64) -> Result<()> {
        let mut now = *self;
        Deadline::patient()
            .until("memory to be free again", || {
                now = Self::now()?;
                Ok(now.slab < self.slab + slab && now.available + lost > self.available)
            })
            .with_context(|| format!("{self:?} before, {now:?} after"))
    }
}

/// The id of an event descriptor of this process: the lowest that none has had when it was made.
///
/// # Errors
///
/// When the kernel does not tell.
pub fn event_id(event: &EventFd) -> Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", event.as_fd().as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    field(&text, "eventfd-id:").context("an event descriptor without id")
}
