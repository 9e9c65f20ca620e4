// SPDX-License-Identifier: GPL-2.0

//! Fuzzers: episodes of random calls and ring contents, each from a seed and in a process of its
//! own.
//!
//! What a seed decides is what is done; threads still meet the device, and each other, at times of
//! their own. An episode fails when the device breaks a promise, and when it does not end.

pub mod guest;
pub mod ioctls;
pub mod messages;

use crate::case::{Context, Kind};
use crate::driver::device::NetDevice;
use crate::driver::ring::Format;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::host::kmsg::Begun;
use crate::host::peer::Peer;
use crate::runner;
use crate::sys::kcov::Coverage;
use crate::sys::process;
use crate::wait::Deadline;
use anyhow::{Context as _, Result, anyhow, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// After which an episode counts as hung.
const LIMIT: Duration = Duration::from_secs(240);

/// Episodes after which a fuzzer must have reached what it is for.
const ENOUGH: u64 = 8;

/// Frames each way after an episode.
const FRAMES: u64 = 40;

/// A fuzzer.
#[derive(Clone, Copy, Debug)]
pub struct Fuzzer {
    /// Its name.
    pub name: &'static str,
    /// Runs the episode that belongs to the context's seed.
    pub episode: fn(&Context) -> Result<Counts>,
    /// What must have been counted after some episodes; else the fuzzer fails, since it shows
    /// nothing.
    pub reaches: &'static [&'static str],
}

/// All fuzzers.
pub const ALL: &[Fuzzer] = &[guest::FUZZER, ioctls::FUZZER, messages::FUZZER];

/// What each fuzzer counts of packed rings, and must reach where the device offers them.
const PACKED: &str = "on packed rings";

/// How long a fuzzer runs.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    /// Until so much time is over, at the end of an episode.
    Time(Duration),
    /// So many episodes.
    Episodes(u64),
}

impl Length {
    fn is_over(self, start: Instant, episodes: u64) -> bool {
        match self {
            Self::Time(time) => episodes > 0 && start.elapsed() >= time,
            Self::Episodes(count) => episodes >= count,
        }
    }
}

/// What was done how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    counts: BTreeMap<String, u64>,
    /// Addresses of the kernel that calls ran through, if it can tell.
    pub coverage: BTreeSet<u64>,
}

/// What the line about all of a fuzzer's episodes has, and no other.
pub const FIGURES: &str = " episodes from seed ";

/// What the line of addresses begins with.
const COVERAGE: &str = "coverage ";

impl Counts {
    /// Adds to what is called `name`.
    pub fn add(&mut self, name: &str, count: u64) {
        *self.counts.entry(name.to_owned()).or_default() += count;
    }

    /// Adds what the calling thread ran of the kernel since the last time, if that can be told.
    fn cover(&mut self, coverage: Option<&Coverage>) {
        if let Some(coverage) = coverage {
            coverage.take(&mut self.coverage);
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (name, count) in &other.counts {
            self.add(name, *count);
        }
        self.coverage.extend(&other.coverage);
    }

    fn get(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// The lines from which another process reads it.
    fn lines(&self) -> String {
        let mut lines = String::new();
        if !self.coverage.is_empty() {
            let addresses: Vec<_> = self.coverage.iter().map(u64::to_string).collect();
            lines = format!("{COVERAGE}{}\n", addresses.join(" "));
        }
        lines + &self.to_string()
    }

    /// Reads lines of another process.
    fn parse(text: &str) -> Option<Self> {
        let mut counts = Self::default();
        for pair in text.lines().last()?.split(", ") {
            let (count, name) = pair.split_once(' ')?;
            counts.add(name, count.parse().ok()?);
        }
        if let Some(addresses) = text.lines().find_map(|line| line.strip_prefix(COVERAGE)) {
            let addresses = addresses.split(' ').map(|address| address.parse().ok());
            counts.coverage = addresses.collect::<Option<_>>()?;
        }
        Some(counts)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, count)) in self.counts.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(to, "{comma}{count} {name}")?;
        }
        Ok(())
    }
}

/// Runs the episode of the context's seed in this process, and prints what it counted.
///
/// # Errors
///
/// What the episode found.
pub fn run_here(fuzzer: Fuzzer, context: &Context) -> Result<()> {
    // Whatever happens to the parent, nothing is left behind.
    process::die_with_parent()?;
    crate::host::tap::private_network()?;
    let counts = (fuzzer.episode)(context)?;
    println!("{}", counts.lines());
    Ok(())
}

/// Runs the episode of the context's seed in a process of its own.
fn episode(fuzzer: Fuzzer, context: &Context) -> Result<Counts> {
    let begun = Begun::Episode {
        fuzzer: fuzzer.name.to_owned(),
        seed: context.seed,
    };
    begun.note();
    let mut command = runner::again(context, "--episode", fuzzer.name)?;
    let (text, code) = runner::run(&mut command, Deadline::after(LIMIT))?;
    match code {
        Some(0) => Counts::parse(&text).with_context(|| format!("no counts in {text:?}")),
        Some(-1) => bail!("died by a signal\n{text}"),
        Some(_) => bail!("{}", text.trim_end()),
        None => bail!("no end within {:?}\n{text}", LIMIT * context.patience),
    }
}

/// The command that runs an episode again, on `cargo xtask`'s kernel of that name.
#[must_use]
pub fn again(kernel: Option<&str>, device: &Path, seed: u64, fuzzer: &str) -> String {
    let kernel = kernel.map_or(String::new(), |name| format!("--kernel {name} "));
    let device = device.display();
    format!("cargo xtask fuzz {kernel}--device {device} --seed {seed} --episodes 1 {fuzzer}")
}

/// Runs `fuzzer` from the context's seed on; what was done, and what was found.
fn run(
    fuzzer: Fuzzer,
    context: &Context,
    length: Length,
    kernel: Option<&str>,
) -> (String, Result<()>) {
    let start = Instant::now();
    let mut total = Counts::default();
    let mut result = Ok(());
    let mut episodes = 0;
    while result.is_ok() && !length.is_over(start, episodes) {
        let seed = context.seed.wrapping_add(episodes);
        let here = Context {
            seed,
            ..context.clone()
        };
        episodes += 1;
        result = episode(fuzzer, &here)
            .map(|counts| total.merge(&counts))
            .with_context(|| {
                let command = again(kernel, &context.device.path, seed, fuzzer.name);
                format!("again: {command}")
            });
    }
    let packed = (context.kind == Kind::Rnet).then_some(&PACKED);
    let mut reaches = fuzzer.reaches.iter().chain(packed);
    let missed = reaches.find(|what| total.get(what) == 0);
    let missed = missed.filter(|_| episodes >= ENOUGH);
    if let (Ok(()), Some(what)) = (&result, missed) {
        result = Err(anyhow!("{episodes} episodes, but no {what}"));
    }
    let seconds = start.elapsed().as_secs();
    let first = context.seed;
    let mut done = format!("{episodes}{FIGURES}{first} in {seconds} s: {total}");
    if !total.coverage.is_empty() {
        done += &format!("; {} places of the kernel reached", total.coverage.len());
    }
    (done, result)
}

/// Runs fuzzers from the context's seed on, and reports in KTAP; true if nothing was found.
///
/// The name of the kernel is for the commands that repeat what was found.
///
/// # Errors
///
/// When the report cannot be written.
pub fn run_all(
    fuzzers: &[Fuzzer],
    context: &Context,
    length: Length,
    kernel: Option<&str>,
    to: &mut impl Write,
) -> Result<bool> {
    writeln!(to, "KTAP version 1\n1..{}", fuzzers.len())?;
    let mut good = true;
    for (number, fuzzer) in (1..).zip(fuzzers) {
        let (done, result) = run(*fuzzer, context, length, kernel);
        writeln!(
            to,
            "# {} on {}: {done}",
            fuzzer.name,
            context.device.path.display()
        )?;
        good &= result.is_ok();
        let not = match result {
            Ok(()) => "",
            Err(error) => {
                for line in format!("{error:#}").lines() {
                    writeln!(to, "# {line}")?;
                }
                "not "
            }
        };
        writeln!(to, "{not}ok {number} {}", fuzzer.name)?;
        to.flush()?;
    }
    Ok(good)
}

/// The format of rings in an episode: every other one has packed rings, if the device offers them.
fn format(context: &Context) -> Result<Format> {
    let offered = context.open()?.features()? & feature::RING_PACKED != 0;
    Ok(if offered && context.seed % 2 == 1 {
        Format::Packed
    } else {
        Format::Split
    })
}

/// Tells other threads to stop, however this one ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Takes frames that the guest sent, some at most; their number.
fn drain(peer: &mut Peer) -> u64 {
    let mut count = 0;
    // One whose header makes no sense to the socket is an error, and gone.
    while count < 1000 && !matches!(peer.take(), Ok(None)) {
        count += 1;
    }
    count
}

/// Moves frames both ways and checks them.
fn exchange(device: &mut NetDevice, seed: u64) -> Result<()> {
    let plan = Plan {
        tcp: device.setup.tcp,
        ..Plan::new(seed, FRAMES, |number| 60 + (number * 397 % 1455) as usize)
    };
    traffic::exchange(device, plan)?;
    for queue in [RX, TX] {
        if device.queue(queue).err.take()? > 0 {
            bail!("queue {queue} stopped");
        }
    }
    device.memory.margins_untouched()
}

#[cfg(test)]
mod tests {
    use super::{Counts, again};
    use std::path::Path;

    #[test]
    fn the_command_names_the_kernel() {
        let device = Path::new("/dev/vhost-net");
        assert_eq!(
            again(Some("debug"), device, 7, "guest"),
            "cargo xtask fuzz --kernel debug --device /dev/vhost-net --seed 7 --episodes 1 guest"
        );
        assert_eq!(
            again(None, device, 7, "guest"),
            "cargo xtask fuzz --device /dev/vhost-net --seed 7 --episodes 1 guest"
        );
    }

    #[test]
    fn counts_are_read_as_they_are_written() {
        let mut counts = Counts::default();
        counts.add("calls", 3);
        counts.add("queues bound", 2);
        counts.merge(&counts.clone());
        assert_eq!(counts.to_string(), "6 calls, 4 queues bound");
        counts.coverage.extend([1 << 63, 7]);
        assert_eq!(Counts::parse(&counts.lines()), Some(counts));
        assert_eq!(Counts::parse("a panic"), None);
    }
}
