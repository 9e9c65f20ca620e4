// SPDX-License-Identifier: GPL-2.0

//! The tests: one function each, run in a process and network namespace of its own.

mod alloc;
mod alloc_random;
mod away;
mod backends;
mod backends_accept;
mod backends_change;
mod backends_frames;
mod backends_queues;
mod base;
mod bounded;
mod busy;
mod drops;
mod endian;
mod events;
mod evil;
mod faults;
mod fork;
mod frames_long;
mod frames_memory;
mod frames_routed;
mod goes_on;
mod guest;
mod guest_rx;
mod history_leaks;
mod history_races;
mod history_rings;
mod in_order;
mod integrity;
mod ioctl_features;
mod ioctl_memory;
mod ioctl_owner;
mod ioctl_vring;
mod iotlb;
mod iotlb_calls;
mod iotlb_log;
mod kill;
mod lifecycle;
mod live;
mod load;
mod messages;
mod nics;
mod log;
mod log_control;
mod log_live;
mod rxbuf;
mod pressure;
mod shortage;
mod signals;
mod soak;
mod stopped;
mod stress;
mod tunnel;
mod unfit;
mod worker;
mod workers;
mod wrap;

use crate::driver::queue::Queue;
use crate::driver::vhost::Vhost;
use anyhow::{Context as _, Result, bail};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which driver is behind the device node; expectations differ where one is meant to be better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The in-tree `vhost_net`.
    C,
    /// `vhost_rnet`.
    Rnet,
}

impl Kind {
    /// The driver whose node usually has that name.
    #[must_use]
    pub fn of(device: &Path) -> Self {
        if device.file_name().is_some_and(|name| name == "vhost-net") {
            Self::C
        } else {
            Self::Rnet
        }
    }
}

impl std::str::FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "c" => Ok(Self::C),
            "rnet" => Ok(Self::Rnet),
            _ => bail!("`{text}` is neither `c` nor `rnet`"),
        }
    }
}

/// What a case is run on.
#[derive(Clone, Debug)]
pub struct Context {
    /// The device node.
    pub device: PathBuf,
    /// Which driver that is.
    pub kind: Kind,
    /// The file of the module behind it, if that is not installed.
    pub module: Option<PathBuf>,
    /// Seed of all content.
    pub seed: u64,
    /// A process id or the like, for helper roles.
    pub argument: u64,
    /// How many times as often as usual to repeat what shows only after many times.
    pub factor: u64,
    /// By how much deadlines are multiplied.
    pub patience: u32,
}

impl Context {
    fn open(&self) -> Result<Vhost> {
        Vhost::open(&self.device)
    }

    fn owned(&self) -> Result<Vhost> {
        Vhost::owned(&self.device)
    }

    /// As often as `usual`, more often if that is wanted, and less often where all takes long.
    fn times(&self, usual: u64) -> u64 {
        let slowness = u64::from(self.patience.div_ceil(2)).max(1);
        usual.saturating_mul(self.factor).div_ceil(slowness)
    }

    /// A case that is repeated more often than usual may take longer.
    #[must_use]
    pub fn timeout(&self, case: &Case) -> Duration {
        let factor = u32::try_from(self.factor).unwrap_or(u32::MAX);
        case.timeout.saturating_mul(factor)
    }
}

/// One test.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name, family first.
    pub name: &'static str,
    /// After which it counts as hung.
    pub timeout: Duration,
    /// Whether the machine has to have all of [`crate::host::nics::ALL`].
    pub cards: bool,
    /// The test itself.
    pub run: fn(&Context) -> Result<()>,
}

const fn case(name: &'static str, seconds: u64, run: fn(&Context) -> Result<()>) -> Case {
    Case {
        name,
        timeout: Duration::from_secs(seconds),
        cards: false,
        run,
    }
}

/// A process that a case starts beside itself.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub run: fn(&Context) -> Result<()>,
}

const fn role(name: &'static str, run: fn(&Context) -> Result<()>) -> Role {
    Role { name, run }
}

/// Why a case does not apply to a device; an error that is no failure.
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// All cases, in the order they run.
#[must_use]
pub fn all() -> Vec<Case> {
    [
        ioctl_owner::CASES,
        ioctl_features::CASES,
        ioctl_memory::CASES,
        ioctl_vring::CASES,
        messages::CASES,
        integrity::CASES,
        wrap::CASES,
        base::CASES,
        events::CASES,
        rxbuf::CASES,
        unfit::CASES,
        in_order::CASES,
        busy::CASES,
        backends::CASES,
        backends_change::CASES,
        backends_queues::CASES,
        backends_frames::CASES,
        frames_long::CASES,
        frames_memory::CASES,
        frames_routed::CASES,
        backends_accept::CASES,
        drops::CASES,
        guest::CASES,
        guest_rx::CASES,
        live::CASES,
        log::CASES,
        log_control::CASES,
        log_live::CASES,
        iotlb::CASES,
        iotlb_calls::CASES,
        iotlb_log::CASES,
        tunnel::CASES,
        endian::CASES,
        lifecycle::CASES,
        kill::CASES,
        worker::CASES,
        workers::CASES,
        signals::CASES,
        fork::CASES,
        history_leaks::CASES,
        history_rings::CASES,
        faults::CASES,
        away::CASES,
        goes_on::CASES,
        shortage::CASES,
        pressure::CASES,
        load::CASES,
        bounded::CASES,
        stress::CASES,
        soak::CASES,
        alloc::CASES,
        alloc_random::CASES,
        history_races::CASES,
        // Last, for the drivers that it loads stay.
        nics::CASES,
    ]
    .concat()
}

/// All helper roles.
#[must_use]
pub fn roles() -> Vec<Role> {
    [
        ioctl_owner::ROLES,
        kill::ROLES,
        workers::ROLES,
        fork::ROLES,
        faults::ROLES,
        backends_change::ROLES,
        iotlb_calls::ROLES,
        history_races::ROLES,
        bounded::ROLES,
    ]
    .concat()
}

/// Fails unless `result` is the error number `errno`.
fn refuses<T: std::fmt::Debug>(what: &str, errno: i32, result: io::Result<T>) -> Result<()> {
    let name = |code| io::Error::from_raw_os_error(code);
    match result {
        Err(error) if error.raw_os_error() == Some(errno) => Ok(()),
        Err(error) => bail!("{what}: `{error}`, not `{}`", name(errno)),
        Ok(value) => bail!("{what}: succeeded with {value:?}, not `{}`", name(errno)),
    }
}

/// Fails unless `result` is a success.
fn accepts<T>(what: &str, result: io::Result<T>) -> Result<T> {
    result.with_context(|| format!("{what} was refused"))
}

/// Kicks a queue that C leaves stopped where others go on by themselves. Why it does so is said where
/// this is called.
fn wake_c(ctx: &Context, queue: &Queue) -> Result<()> {
    match ctx.kind {
        Kind::C => queue.kick.force(),
        Kind::Rnet => Ok(()),
    }
}

/// Fails unless `condition` holds.
fn check(condition: bool, what: impl FnOnce() -> String) -> Result<()> {
    if condition { Ok(()) } else { bail!(what()) }
}
