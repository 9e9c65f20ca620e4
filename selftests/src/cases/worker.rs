// SPDX-License-Identifier: GPL-2.0

//! The worker thread and the module behind the device.

use super::{Case, Context, Kind, Skip, accepts, case, check};
use crate::procfs;
use anyhow::{Context as _, Result};
use std::fs;
use std::process::Command;

pub(super) const CASES: &[Case] = &[
    case("worker.name", 20, name),
    case("module.in_use", 60, in_use),
];

/// Operators and management tools find the worker by this name.
fn name(ctx: &Context) -> Result<()> {
    let vhost = ctx.open()?;
    check(procfs::workers()?.is_empty(), || {
        "a worker before SET_OWNER".into()
    })?;
    accepts("SET_OWNER", vhost.set_owner())?;
    let workers = procfs::workers()?.len();
    check(workers == 1, || {
        let all = procfs::threads(std::process::id());
        format!(
            "{workers} threads named vhost-{}, of {all:?}",
            std::process::id()
        )
    })?;
    let second = ctx.owned()?;
    check(procfs::workers()?.len() == 2, || {
        "the second device has no worker".into()
    })?;
    drop(second);
    procfs::expect_workers(1)?;
    accepts("RESET_OWNER", vhost.reset_owner())?;
    procfs::expect_workers(0)
}

/// The module cannot go while a device is open, and its count is right afterwards.
fn in_use(ctx: &Context) -> Result<()> {
    let module = if ctx.kind == Kind::C {
        "vhost_net"
    } else {
        "vhost_rnet"
    };
    let path = format!("/sys/module/{module}/refcnt");
    if !fs::exists(&path)? {
        return Err(Skip(format!("{module} is built in")).into());
    }
    let count = || -> Result<u64> {
        let text = fs::read_to_string(&path).context("module reference count")?;
        text.trim().parse().context("module reference count")
    };
    let before = count()?;
    let devices = (0..10).map(|_| ctx.owned()).collect::<Result<Vec<_>>>()?;
    let held = count()?;
    check(held == before + 10, || {
        format!("{before} references, {held} with ten devices")
    })?;
    let status = Command::new("rmmod")
        .arg(module)
        .output()
        .context("rmmod")?
        .status;
    check(!status.success(), || {
        "the module went with devices open".into()
    })?;
    drop(devices);
    let after = count()?;
    check(after == before, || {
        format!("{before} references, {after} after closing")
    })
}
