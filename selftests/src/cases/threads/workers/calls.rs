// SPDX-License-Identifier: GPL-2.0

//! The calls about workers: who may make them, what they refuse, and how many workers there may be.

use super::{expect, start, with_workers};
use crate::cases::common::workers::{CALLS, as_user};
use crate::cases::common::{Case, Context, Kind, Role, accepts, case, check, refuses, role};
use crate::driver::uapi;
use crate::driver::vhost::{RX, TX, Vhost};
use crate::host::procfs;
use crate::runner;
use crate::sys::ioctl::BadPointer;
use crate::sys::mapping::Mapping;
use crate::wait::Deadline;
use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::io;
use std::os::fd::AsFd;
use std::process::Stdio;

pub(crate) const CASES: &[Case] = &[
    case("workers.calls", 20, |ctx| with_workers(ctx, calls)),
    case("workers.not_owner", 20, not_owner),
    case("workers.most", 60, |ctx| with_workers(ctx, most)),
    case("workers.process_limit", 30, |ctx| {
        with_workers(ctx, process_limit)
    }),
    case("workers.kernel_thread", 20, |ctx| {
        with_workers(ctx, kernel_thread)
    }),
];

pub(crate) const ROLES: &[Role] = &[
    role("workers-foreign-mm", foreign_role),
    role("workers-limited", limited_role),
];

/// The most workers that a device may have.
const MOST: u32 = 16;

fn calls(ctx: &Context) -> Result<()> {
    let vhost = ctx.owned()?;
    expect(&vhost, 0, 0)?;
    for id in [1, MOST, u32::MAX] {
        refuses("FREE of none", libc::ENODEV, vhost.free_worker(id))?;
        refuses("ATTACH to none", libc::ENODEV, vhost.attach_worker(RX, id))?;
    }
    for index in [2, u32::MAX] {
        refuses("GET of no queue", libc::ENOBUFS, vhost.worker(index))?;
        for id in [0, 7] {
            let result = vhost.attach_worker(index, id);
            refuses("ATTACH of no queue", libc::ENOBUFS, result)?;
        }
    }
    for pointer in [BadPointer::Null, BadPointer::Kernel, BadPointer::Top] {
        for (name, number) in CALLS {
            let what = format!("{name} at {pointer:?}");
            refuses(&what, libc::EFAULT, vhost.bad(*number, pointer))?;
        }
    }
    // A structure that ends beyond mapped memory.
    let map = Mapping::new(4096)?;
    for number in [uapi::ATTACH_VRING_WORKER, uapi::GET_VRING_WORKER] {
        let result = vhost.raw(number.number(), &map, 4096 - 4);
        refuses("half a structure", libc::EFAULT, result)?;
    }
    // A worker whose id cannot be written to the caller is not kept.
    procfs::expect_workers(1)?;
    for id in 1..=3 {
        start(&vhost, id)?;
    }
    procfs::expect_workers(4)?;
    refuses("FREE in use", libc::EBUSY, vhost.free_worker(0))?;
    accepts("FREE_WORKER", vhost.free_worker(2))?;
    procfs::expect_workers(3)?;
    refuses("FREE twice", libc::ENODEV, vhost.free_worker(2))?;
    start(&vhost, 2)?;
    accepts("ATTACH", vhost.attach_worker(RX, 2))?;
    expect(&vhost, 2, 0)?;
    refuses("FREE in use by RX", libc::EBUSY, vhost.free_worker(2))?;
    refuses("FREE in use by TX", libc::EBUSY, vhost.free_worker(0))?;
    accepts("ATTACH", vhost.attach_worker(TX, 2))?;
    accepts("ATTACH again", vhost.attach_worker(TX, 2))?;
    expect(&vhost, 2, 2)?;
    // The first one is like any other.
    accepts("FREE of the first", vhost.free_worker(0))?;
    refuses(
        "ATTACH to the first",
        libc::ENODEV,
        vhost.attach_worker(RX, 0),
    )?;
    expect(&vhost, 2, 2)?;
    procfs::expect_workers(3)?;
    start(&vhost, 0)?;
    accepts("ATTACH", vhost.attach_worker(RX, 0))?;
    expect(&vhost, 0, 2)?;
    accepts("RESET_OWNER", vhost.reset_owner())?;
    procfs::expect_workers(0)?;
    accepts("SET_OWNER", vhost.set_owner())?;
    procfs::expect_workers(1)?;
    expect(&vhost, 0, 0)?;
    refuses(
        "FREE of the last owner's",
        libc::ENODEV,
        vhost.free_worker(2),
    )
}

/// What everybody but the owner is told.
fn refused(vhost: &Vhost, errno: i32) -> Result<()> {
    let map = Mapping::new(4096)?;
    for (name, number) in CALLS {
        refuses(name, errno, vhost.raw(*number, &map, 0))?;
        let result = vhost.bad(*number, BadPointer::Null);
        refuses(&format!("{name} at a bad pointer"), errno, result)?;
    }
    Ok(())
}

/// Gets the parent's device as standard input.
fn foreign_role(_ctx: &Context) -> Result<()> {
    let fd = io::stdin().as_fd().try_clone_to_owned()?;
    refused(&Vhost::from_fd(fd), libc::EPERM)
}

fn not_owner(ctx: &Context) -> Result<()> {
    let vhost = ctx.open()?;
    // vhost-net checks the owner before it looks at the call.
    let nobody = match ctx.kind {
        Kind::C => libc::EPERM,
        Kind::Rnet => libc::EINVAL,
    };
    refused(&vhost, nobody)?;
    accepts("SET_OWNER", vhost.set_owner())?;
    let fd = vhost.as_fd().try_clone_to_owned()?;
    let mut child = runner::again(ctx, "--role", "workers-foreign-mm")?;
    let status = child.stdin(Stdio::from(fd)).status()?;
    check(status.success(), || {
        format!("the other process ended with {status}")
    })?;
    procfs::expect_workers(1)?;
    accepts("RESET_OWNER", vhost.reset_owner())?;
    refused(&vhost, nobody)
}

/// A device has a bounded number of workers; other devices are not concerned.
fn most(ctx: &Context) -> Result<()> {
    let vhost = ctx.owned()?;
    let other = ctx.owned()?;
    for _ in 0..3 {
        for id in 1..MOST {
            start(&vhost, id)?;
        }
        refuses("one more", libc::ENOSPC, vhost.new_worker())?;
        start(&other, 1)?;
        procfs::expect_workers(MOST as usize + 2)?;
        for id in (1..MOST).rev() {
            accepts("ATTACH", vhost.attach_worker(TX, id))?;
            accepts("ATTACH", vhost.attach_worker(TX, 0))?;
            accepts("FREE_WORKER", vhost.free_worker(id))?;
        }
        accepts("FREE_WORKER", other.free_worker(1))?;
        procfs::expect_workers(2)?;
    }
    for id in 1..MOST {
        start(&vhost, id)?;
    }
    drop(vhost);
    procfs::expect_workers(1)
}

/// A user without privileges, whose processes and threads are limited to four.
fn limited_role(_ctx: &Context) -> Result<()> {
    let vhost = Vhost::from_fd(io::stdin().as_fd().try_clone_to_owned()?);
    let limit = Rlimit {
        current: Some(4),
        maximum: Some(4),
    };
    setrlimit(Resource::Nproc, limit).context("limit")?;
    accepts("SET_OWNER", vhost.set_owner())?;
    start(&vhost, 1)?;
    start(&vhost, 2)?;
    refuses("beyond the limit", libc::ENOMEM, vhost.new_worker())?;
    expect(&vhost, 0, 0)?;
    accepts("FREE_WORKER", vhost.free_worker(1))?;
    // A thread that has ended still counts for a moment.
    Deadline::patient().until("room for another", || match vhost.new_worker() {
        Ok(1) => Ok(true),
        Ok(id) => bail!("worker {id} started, not 1"),
        Err(_) => Ok(false),
    })
}

/// Workers count as threads of the owner.
fn process_limit(ctx: &Context) -> Result<()> {
    /// A user that runs nothing else.
    const NOBODY: u32 = 54321;
    as_user(ctx, "workers-limited", NOBODY)
}

/// There is only one worker if workers are kernel threads, which no process limit counts.
fn kernel_thread(ctx: &Context) -> Result<()> {
    let vhost = ctx.open()?;
    accepts("SET_FORK_FROM_OWNER", vhost.set_fork_from_owner(0))?;
    accepts("SET_OWNER", vhost.set_owner())?;
    refuses("NEW_WORKER", libc::EFAULT, vhost.new_worker())?;
    expect(&vhost, 0, 0)?;
    accepts("ATTACH", vhost.attach_worker(TX, 0))?;
    refuses("ATTACH to none", libc::ENODEV, vhost.attach_worker(TX, 1))?;
    refuses("FREE in use", libc::EBUSY, vhost.free_worker(0))?;
    let workers = procfs::kernel_workers()?.len();
    check(workers == 1, || format!("{workers} kernel threads"))?;
    accepts("RESET_OWNER", vhost.reset_owner())?;
    accepts("SET_OWNER", vhost.set_owner())?;
    start(&vhost, 1)
}
