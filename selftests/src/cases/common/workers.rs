// SPDX-License-Identifier: GPL-2.0

//! What workers a device has: whether they may be several, and of what kind they are.

use crate::cases::common::{Context, Kind, accepts, check, refuses};
use crate::driver::device::NetDevice;
use crate::driver::uapi;
use crate::driver::vhost::{RX, TX};
use crate::runner;
use crate::sys::mapping::Mapping;
use anyhow::Result;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

/// Workers are kernel threads (`VHOST_SET_FORK_FROM_OWNER`).
pub(crate) const KTHREAD: u8 = 0;
/// Workers are threads of the owner.
pub(crate) const TASK: u8 = 1;

/// Every call about workers.
pub(crate) const CALLS: &[(&str, u64)] = &[
    ("NEW_WORKER", uapi::NEW_WORKER.number()),
    ("FREE_WORKER", uapi::FREE_WORKER.number()),
    ("ATTACH_VRING_WORKER", uapi::ATTACH_VRING_WORKER.number()),
    ("GET_VRING_WORKER", uapi::GET_VRING_WORKER.number()),
];

/// Whether the device has these calls; else they are tested to be unknown, as in-tree vhost-net
/// leaves them to vhost-scsi.
pub(crate) fn has_workers(ctx: &Context) -> Result<bool> {
    if ctx.kind == Kind::Rnet {
        return Ok(true);
    }
    let vhost = ctx.owned()?;
    let map = Mapping::new(4096)?;
    for (name, number) in CALLS {
        refuses(name, libc::ENOTTY, vhost.raw(*number, &map, 0))?;
    }
    Ok(false)
}

/// Gives a device a new owner, with a worker of that kind, and starts it again.
pub(crate) fn restart(device: &NetDevice, kind: u8) -> Result<()> {
    let vhost = &device.vhost;
    accepts("RESET_OWNER", vhost.reset_owner())?;
    accepts("SET_FORK_FROM_OWNER", vhost.set_fork_from_owner(kind))?;
    accepts("SET_OWNER", vhost.set_owner())?;
    device.configure()?;
    device.bind(RX)?;
    device.bind(TX)
}

/// Runs a role as the user `uid`, which runs nothing else, with a device as its standard input.
pub(crate) fn as_user(ctx: &Context, role: &str, uid: u32) -> Result<()> {
    let vhost = ctx.open()?;
    let fd = vhost.as_fd().try_clone_to_owned()?;
    let mut child = runner::again(ctx, "--role", role)?;
    let output = child.uid(uid).stdin(Stdio::from(fd)).output()?;
    check(output.status.success(), || {
        format!(
            "the other process ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stdout)
        )
    })
}
