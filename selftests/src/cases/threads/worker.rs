// SPDX-License-Identifier: GPL-2.0

//! The worker threads, as operators see them, and how many a device starts with.

use crate::cases::common::workers::{self, as_user, has_workers};
use crate::cases::common::{Case, Context, Role, accepts, case, check, refuses, role};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX, Vhost};
use crate::host::parameter::Parameter;
use crate::host::procfs::{self, Thread};
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::io;
use std::os::fd::AsFd;

pub(crate) const CASES: &[Case] = &[
    case("worker.name", 20, name),
    case("worker.threads_parameter", 20, threads_parameter),
    case("worker.threads_one", 60, threads_one),
    case("worker.threads_two", 60, threads_two),
    case("worker.threads_calls", 20, threads_calls),
    case("worker.threads_kernel", 60, threads_kernel),
    case("worker.threads_limit", 30, threads_limit),
];

pub(crate) const ROLES: &[Role] = &[role("worker-limited", limited_role)];

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

/// The parameter, set to so many threads.
fn threads(count: &str) -> Result<Parameter> {
    let parameter = Parameter::new("threads_per_device")?;
    accepts(count, parameter.set(count))?;
    Ok(parameter)
}

/// Fails unless the queues are attached to these workers.
fn attached(vhost: &Vhost, rx: u32, tx: u32) -> Result<()> {
    for (index, want) in [(RX, rx), (TX, tx)] {
        let got = accepts("GET_VRING_WORKER", vhost.worker(index))?;
        check(got == want, || {
            format!("queue {index} has worker {got}, not {want}")
        })?;
    }
    Ok(())
}

/// The parameter is one or two threads, and one unless it is set.
fn threads_parameter(ctx: &Context) -> Result<()> {
    if !has_workers(ctx)? {
        return Ok(());
    }
    let parameter = Parameter::new("threads_per_device")?;
    check(parameter.get()? == "1", || {
        format!("{:?} threads at first", parameter.get())
    })?;
    accepts("2", parameter.set("2"))?;
    for value in ["0", "3", "-1", "4294967297", "two"] {
        refuses(value, libc::EINVAL, parameter.set(value)).or_else(|error| {
            // Too large for the number's type, which is told otherwise.
            refuses(value, libc::ERANGE, parameter.set(value)).map_err(|_| error)
        })?;
        check(parameter.get()? == "2", || {
            format!("`{value}` has been taken: {:?}", parameter.get())
        })?;
    }
    Ok(())
}

/// Which of the threads ran while `action` did.
fn ran(threads: &[Thread], action: impl FnOnce() -> Result<()>) -> Result<Vec<bool>> {
    let slices = || -> Result<Vec<u64>> {
        procfs::idle()?;
        let all = threads.iter();
        all.map(|thread| Ok(procfs::schedule(thread.tid)?.slices))
            .collect()
    };
    let before = slices()?;
    action()?;
    let after = slices()?;
    Ok(before.iter().zip(after).map(|(a, b)| *a != b).collect())
}

/// Moves frames one way, without a backend of the other queue; answers which threads ran.
fn one_way(
    device: &mut NetDevice,
    threads: &[Thread],
    queue: u32,
    plan: Plan,
) -> Result<Vec<bool>> {
    // An idle queue's worker is woken to give memory back; one without a backend is left alone.
    let other = RX + TX - queue;
    device.unbind(other)?;
    let ran = ran(threads, || match queue == RX {
        true => traffic::receive(device, plan),
        false => traffic::transmit(device, plan),
    })?;
    device.bind(other)?;
    Ok(ran)
}

/// By default one thread serves both queues.
fn threads_one(ctx: &Context) -> Result<()> {
    if !has_workers(ctx)? {
        return Ok(());
    }
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    attached(&device.vhost, 0, 0)?;
    let threads = procfs::workers()?;
    check(threads.len() == 1, || format!("{threads:?} for a device"))?;
    let plan = Plan::new(ctx.seed, 300, |n| 60 + (n % 900) as usize);
    for queue in [RX, TX] {
        let ran = one_way(&mut device, &threads, queue, plan)?;
        check(ran == [true], || format!("queue {queue} ran elsewhere"))?;
    }
    traffic::exchange(&mut device, plan)
}

/// With two threads, each queue has one of its own, of the same name.
fn threads_two(ctx: &Context) -> Result<()> {
    if !has_workers(ctx)? {
        return Ok(());
    }
    let parameter = threads("2")?;
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    attached(&device.vhost, 0, 1)?;
    let threads = procfs::workers()?;
    check(threads.len() == 2, || format!("{threads:?} for a device"))?;
    let plan = Plan::new(ctx.seed, 300, |n| 60 + (n % 900) as usize);
    let rx = one_way(&mut device, &threads, RX, plan)?;
    let tx = one_way(&mut device, &threads, TX, plan)?;
    let alone = |ran: &[bool]| ran.iter().filter(|ran| **ran).count() == 1;
    check(alone(&rx) && alone(&tx) && rx != tx, || {
        format!("of {threads:?}, {rx:?} ran for RX and {tx:?} for TX")
    })?;
    traffic::exchange(&mut device, plan)?;
    // The device goes on with what it has started with.
    accepts("1", parameter.set("1"))?;
    attached(&device.vhost, 0, 1)?;
    traffic::exchange(&mut device, plan)?;
    workers::restart(&device, workers::TASK)?;
    procfs::expect_workers(1)?;
    attached(&device.vhost, 0, 0)?;
    traffic::exchange(&mut device, plan)
}

/// The calls about workers mean what they mean with one thread.
fn threads_calls(ctx: &Context) -> Result<()> {
    if !has_workers(ctx)? {
        return Ok(());
    }
    let _parameter = threads("2")?;
    let vhost = ctx.owned()?;
    procfs::expect_workers(2)?;
    attached(&vhost, 0, 1)?;
    refuses("FREE in use by RX", libc::EBUSY, vhost.free_worker(0))?;
    refuses("FREE in use by TX", libc::EBUSY, vhost.free_worker(1))?;
    let id = accepts("NEW_WORKER", vhost.new_worker())?;
    check(id == 2, || format!("worker {id} started, not 2"))?;
    procfs::expect_workers(3)?;
    accepts("ATTACH", vhost.attach_worker(TX, 0))?;
    accepts("FREE_WORKER", vhost.free_worker(1))?;
    accepts("FREE_WORKER", vhost.free_worker(2))?;
    attached(&vhost, 0, 0)?;
    procfs::expect_workers(1)?;
    accepts("RESET_OWNER", vhost.reset_owner())?;
    procfs::expect_workers(0)?;
    accepts("SET_OWNER", vhost.set_owner())?;
    procfs::expect_workers(2)?;
    attached(&vhost, 0, 1)
}

/// Kernel threads may be two as well.
fn threads_kernel(ctx: &Context) -> Result<()> {
    if !has_workers(ctx)? {
        return Ok(());
    }
    let _parameter = threads("2")?;
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    workers::restart(&device, workers::KTHREAD)?;
    attached(&device.vhost, 0, 1)?;
    let count = procfs::kernel_workers()?.len();
    check(count == 2, || format!("{count} kernel threads"))?;
    refuses("NEW_WORKER", libc::EFAULT, device.vhost.new_worker())?;
    traffic::exchange(&mut device, Plan::new(ctx.seed, 300, |_| 200))?;
    accepts("RESET_OWNER", device.vhost.reset_owner())?;
    Deadline::patient().until("both kernel threads to end", || {
        Ok(procfs::kernel_workers()?.is_empty())
    })
}

/// A user without privileges, who may have one thread beside the first: a device that wants two
/// gets none.
fn limited_role(_ctx: &Context) -> Result<()> {
    let vhost = Vhost::from_fd(io::stdin().as_fd().try_clone_to_owned()?);
    let limit = |current| {
        let limit = Rlimit {
            current: Some(current),
            maximum: Some(3),
        };
        setrlimit(Resource::Nproc, limit).context("limit")
    };
    limit(2)?;
    refuses("SET_OWNER", libc::ENOMEM, vhost.set_owner())?;
    procfs::expect_workers(0)?;
    refuses("a call of the owner", libc::EPERM, vhost.reset_owner())?;
    limit(3)?;
    // A thread that has ended still counts for a moment.
    Deadline::patient().until("room for both", || Ok(vhost.set_owner().is_ok()))?;
    procfs::expect_workers(2)?;
    attached(&vhost, 0, 1)
}

/// Without a second thread there is no first one either, and no owner.
fn threads_limit(ctx: &Context) -> Result<()> {
    /// A user that runs nothing else.
    const NOBODY: u32 = 54322;
    if !has_workers(ctx)? {
        return Ok(());
    }
    let _parameter = threads("2")?;
    as_user(ctx, "worker-limited", NOBODY)
}
