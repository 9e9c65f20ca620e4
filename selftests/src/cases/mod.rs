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

// For the cases, which name them as this module's.
use crate::case::{Case, Context, Kind, Role, Skip, case, role};
use crate::driver::queue::Queue;
use anyhow::{Context as _, Result, bail};
use std::io;

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
