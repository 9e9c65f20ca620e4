// SPDX-License-Identifier: GPL-2.0

//! Several workers for a device: their calls, and queues that change between them under traffic.

use super::live::under_traffic;
use super::{Case, Context, Kind, Role, accepts, case, check, kill, log_live, refuses, role};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::log::{DirtyLog, LOG_PAGE, Pages, log_used};
use crate::driver::traffic::{self, Flow, Plan, RxFlow, TxFlow};
use crate::driver::uapi::{self, feature};
use crate::driver::vhost::{RX, TX, Vhost};
use crate::host::procfs::{self, Thread};
use crate::runner;
use crate::sys::ioctl::BadPointer;
use crate::sys::mapping::Mapping;
use crate::wait::Deadline;
use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

pub(super) const CASES: &[Case] = &[
    case("workers.calls", 20, calls),
    case("workers.not_owner", 20, not_owner),
    case("workers.most", 60, most),
    case("workers.process_limit", 30, process_limit),
    case("workers.kernel_thread", 20, kernel_thread),
    case("workers.two_threads", 60, two_threads),
    case("workers.attach_live", 120, attach_live),
    case("workers.attach_idle", 60, attach_idle),
    case("workers.reset_owner", 60, reset_owner),
    case("workers.close", 90, close),
    case("workers.kill", 120, killed),
    case("workers.migration", 120, migration),
    case("workers.shared_log", 60, shared_log),
];

pub(super) const ROLES: &[Role] = &[
    role("workers-foreign-mm", foreign_role),
    role("workers-traffic", traffic_role),
    role("workers-limited", limited_role),
];

/// Every call about workers.
const CALLS: &[(&str, u64)] = &[
    ("NEW_WORKER", uapi::NEW_WORKER.number()),
    ("FREE_WORKER", uapi::FREE_WORKER.number()),
    ("ATTACH_VRING_WORKER", uapi::ATTACH_VRING_WORKER.number()),
    ("GET_VRING_WORKER", uapi::GET_VRING_WORKER.number()),
];

/// The most workers that a device may have.
const MOST: u32 = 16;

/// Whether the device has these calls; else they are tested to be unknown, as in-tree vhost-net
/// leaves them to vhost-scsi.
pub(super) fn has_workers(ctx: &Context) -> Result<bool> {
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

/// Fails unless the queues are attached to these workers.
fn expect(vhost: &Vhost, rx: u32, tx: u32) -> Result<()> {
    for (index, want) in [(RX, rx), (TX, tx)] {
        let got = accepts("GET_VRING_WORKER", vhost.worker(index))?;
        check(got == want, || {
            format!("queue {index} is attached to worker {got}, not {want}")
        })?;
    }
    Ok(())
}

/// Starts a worker that must get that id.
fn start(vhost: &Vhost, want: u32) -> Result<()> {
    let id = accepts("NEW_WORKER", vhost.new_worker())?;
    check(id == want, || format!("worker {id} started, not {want}"))
}

fn calls(ctx: &Context) -> Result<()> {
    if !has_workers(ctx)? {
        return Ok(());
    }
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
    // A worker whose id could not be told is none.
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
    // vhost-net tells by the owner before it looks at the call.
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
    if !has_workers(ctx)? {
        return Ok(());
    }
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
    // A thread that has ended counts for a moment longer.
    Deadline::patient().until("room for another", || match vhost.new_worker() {
        Ok(1) => Ok(true),
        Ok(id) => bail!("worker {id} started, not 1"),
        Err(_) => Ok(false),
    })
}

/// Workers count as threads of the owner.
fn process_limit(ctx: &Context) -> Result<()> {
    if !has_workers(ctx)? {
        return Ok(());
    }
    /// A user that runs nothing else.
    const NOBODY: u32 = 54321;
    let vhost = ctx.open()?;
    let fd = vhost.as_fd().try_clone_to_owned()?;
    let mut child = runner::again(ctx, "--role", "workers-limited")?;
    let output = child.uid(NOBODY).stdin(Stdio::from(fd)).output()?;
    check(output.status.success(), || {
        format!(
            "the other process ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stdout)
        )
    })
}

/// Kernel threads, which no limit counts, do not multiply.
fn kernel_thread(ctx: &Context) -> Result<()> {
    if !has_workers(ctx)? {
        return Ok(());
    }
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

/// How often the two threads were put on a CPU.
fn slices(threads: &[Thread; 2]) -> Result<[u64; 2]> {
    procfs::idle()?;
    let [first, second] = threads;
    Ok([
        procfs::schedule(first.tid)?.slices,
        procfs::schedule(second.tid)?.slices,
    ])
}

/// Each queue runs in the thread of its worker, and only there.
fn two_threads(ctx: &Context) -> Result<()> {
    if !has_workers(ctx)? {
        return Ok(());
    }
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    let [first] = <[Thread; 1]>::try_from(procfs::workers()?)
        .map_err(|threads| anyhow::anyhow!("{threads:?} for one worker"))?;
    start(&device.vhost, 1)?;
    let mut threads = procfs::workers()?;
    threads.retain(|thread| *thread != first);
    let [second] = <[Thread; 1]>::try_from(threads)
        .map_err(|threads| anyhow::anyhow!("{threads:?} for another worker"))?;
    let threads = [first, second];
    let plan = Plan::new(ctx.seed, 300, |n| 60 + (n % 900) as usize);
    for (rx, tx) in [(0, 1), (1, 0), (1, 1), (0, 0)] {
        accepts("ATTACH", device.vhost.attach_worker(RX, rx))?;
        accepts("ATTACH", device.vhost.attach_worker(TX, tx))?;
        traffic::exchange(&mut device, plan)?;
        for (queue, worker) in [(RX, rx), (TX, tx)] {
            // An idle queue's worker is woken to give memory back; one without a backend is left alone.
            let other = RX + TX - queue;
            device.unbind(other)?;
            procfs::idle()?;
            let before = slices(&threads)?;
            if queue == RX {
                traffic::receive(&mut device, plan)?;
            } else {
                traffic::transmit(&mut device, plan)?;
            }
            let after = slices(&threads)?;
            for (id, (before, after)) in (0..).zip(before.iter().zip(after)) {
                let ran = after - before;
                check((ran > 0) == (id == worker), || {
                    format!(
                        "queue {queue} is worker {worker}'s, but {:?} ran {ran} times",
                        threads[id as usize]
                    )
                })?;
            }
            device.bind(other)?;
        }
    }
    Ok(())
}

/// Frees every worker without a queue and starts others, so that there are four.
fn renew(vhost: &Vhost, ids: &mut Vec<u32>) -> Result<()> {
    let attached = [vhost.worker(RX)?, vhost.worker(TX)?];
    for id in ids.iter() {
        let result = vhost.free_worker(*id);
        if attached.contains(id) {
            refuses("FREE in use", libc::EBUSY, result)?;
        } else {
            accepts("FREE_WORKER", result)?;
        }
    }
    ids.retain(|id| attached.contains(id));
    while ids.len() < 4 {
        ids.push(accepts("NEW_WORKER", vhost.new_worker())?);
    }
    Ok(())
}

/// The one of `ids` whose turn it is.
fn turn(ids: &[u32], number: u64) -> Result<u32> {
    let at = usize::try_from(number)?.checked_rem(ids.len());
    at.and_then(|at| ids.get(at)).copied().context("no worker")
}

/// Queues change between workers, old and new, in the middle of traffic.
fn attach_live(ctx: &Context) -> Result<()> {
    if !has_workers(ctx)? {
        return Ok(());
    }
    for (features, buffers) in [
        (0, 256),
        (feature::EVENT_IDX, 256),
        // The device often waits for buffers, not for frames.
        (feature::EVENT_IDX, 16),
        (feature::MRG_RXBUF, 256),
    ] {
        let mut setup = Setup::new(feature::VERSION_1 | features);
        setup.rx_buffers.0 = buffers;
        let mut device = NetDevice::start(&ctx.device, setup)?;
        let mut ids = vec![0];
        renew(&device.vhost, &mut ids)?;
        under_traffic(ctx, &mut device, 150, |device, number| {
            let vhost = &device.vhost;
            if number % 7 == 3 {
                return renew(vhost, &mut ids);
            }
            let index = if number % 2 == 0 { TX } else { RX };
            // Several at once: the thread before has not looked when the next one is attached.
            for more in 0..=number % 6 {
                let id = turn(&ids, number + more)?;
                accepts("ATTACH", vhost.attach_worker(index, id))?;
                let got = vhost.worker(index)?;
                check(got == id, || format!("worker {got}, not {id}"))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Queues at rest change workers; the next kick and the next frame reach the new ones.
fn attach_idle(ctx: &Context) -> Result<()> {
    if !has_workers(ctx)? {
        return Ok(());
    }
    let setup = Setup::new(feature::VERSION_1 | feature::EVENT_IDX);
    let mut device = NetDevice::start(&ctx.device, setup)?;
    let mut ids = vec![0];
    for round in 0..60 {
        renew(&device.vhost, &mut ids)?;
        accepts("ATTACH", device.vhost.attach_worker(RX, turn(&ids, round)?))?;
        accepts(
            "ATTACH",
            device.vhost.attach_worker(TX, turn(&ids, round / 3)?),
        )?;
        // Those that were freed are listed for a moment longer.
        procfs::expect_workers(4)?;
        procfs::idle()?;
        let plan = Plan::new(ctx.seed + round, 1 + round % 3, |_| 100);
        traffic::exchange(&mut device, plan).with_context(|| format!("round {round}"))?;
    }
    // Without a backend, and without a kick.
    device.unbind(TX)?;
    accepts("SET_VRING_KICK", device.vhost.set_kick(TX, -1))?;
    accepts("ATTACH", device.vhost.attach_worker(TX, turn(&ids, 1)?))?;
    let fd = device.tx.kick.as_fd().as_raw_fd();
    accepts("SET_VRING_KICK", device.vhost.set_kick(TX, fd))?;
    device.bind(TX)?;
    traffic::exchange(&mut device, Plan::new(ctx.seed, 100, |_| 100))
}

/// Attaches both queues to workers of their own.
fn separate(vhost: &Vhost) -> Result<()> {
    for (index, id) in [(RX, 1), (TX, 2)] {
        start(vhost, id)?;
        accepts("ATTACH", vhost.attach_worker(index, id))?;
    }
    // One that nobody uses.
    start(vhost, 3)
}

/// Moves frames until the peer has seen `count`, and leaves the others under way.
fn pump(device: &mut NetDevice, tx: &mut TxFlow, rx: &mut RxFlow, count: u64) -> Result<()> {
    while tx.seen < count {
        let moved = tx.pump(device)? | rx.pump(device)?;
        let alive = moved || traffic::wait_activity(device, crate::wait::PATIENCE)?;
        check(alive, || tx.describe(device))?;
    }
    tx.pump(device)?;
    Ok(())
}

/// Ownership is given up with frames under way in several threads, and taken again.
fn reset_owner(ctx: &Context) -> Result<()> {
    if !has_workers(ctx)? {
        return Ok(());
    }
    let setup = Setup::new(feature::VERSION_1 | feature::EVENT_IDX);
    let mut device = NetDevice::start(&ctx.device, setup)?;
    for round in 0..20 {
        separate(&device.vhost)?;
        let plan = Plan::new(ctx.seed + round, u64::MAX, |_| 200);
        let (mut tx, mut rx) = (TxFlow::new(plan), RxFlow::new(plan));
        pump(&mut device, &mut tx, &mut rx, 100)?;
        accepts("RESET_OWNER", device.vhost.reset_owner())?;
        procfs::expect_workers(0)?;
        accepts("SET_OWNER", device.vhost.set_owner())?;
        expect(&device.vhost, 0, 0)?;
        device.configure()?;
        device.bind(RX)?;
        device.bind(TX)?;
        tx.finish();
        rx.finish();
        traffic::run(&mut device, &mut [&mut tx, &mut rx])
            .with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

fn close(ctx: &Context) -> Result<()> {
    if !has_workers(ctx)? {
        return Ok(());
    }
    for round in 0..ctx.times(40) {
        let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
        separate(&device.vhost)?;
        let plan = Plan {
            window: 150,
            ..Plan::new(ctx.seed, u64::MAX, |_| 300)
        };
        let (mut tx, mut rx) = (TxFlow::new(plan), RxFlow::new(plan));
        pump(&mut device, &mut tx, &mut rx, round * 5)?;
        drop(device);
        procfs::expect_workers(0)?;
    }
    Ok(())
}

/// Moves frames with several workers, and queues between them, until killed.
fn traffic_role(ctx: &Context) -> Result<()> {
    let setup = Setup::new(feature::VERSION_1 | feature::EVENT_IDX);
    let device = NetDevice::start(&ctx.device, setup)?;
    separate(&device.vhost)?;
    let mut number = 0;
    kill::until_killed(ctx, device, |device| {
        number += 1;
        let index = if number % 2 == 0 { TX } else { RX };
        let id = turn(&[0, 1, 2, 3], number / 3)?;
        accepts("ATTACH", device.vhost.attach_worker(index, id))
    })
}

fn killed(ctx: &Context) -> Result<()> {
    if !has_workers(ctx)? {
        return Ok(());
    }
    kill::one_by_one(ctx, "workers-traffic", 30, Duration::from_millis(3))
}

/// Two threads log what they write while a machine migrates.
fn migration(ctx: &Context) -> Result<()> {
    if !has_workers(ctx)? {
        return Ok(());
    }
    for setup in log_live::devices() {
        let mut device = NetDevice::start(&ctx.device, setup)?;
        separate(&device.vhost)?;
        log_live::migrate(ctx, &mut device)?;
    }
    Ok(())
}

/// Two threads set bits in the same word of the log, again and again; none gets lost.
fn shared_log(ctx: &Context) -> Result<()> {
    if !has_workers(ctx)? {
        return Ok(());
    }
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    separate(&device.vhost)?;
    let log = DirtyLog::new(16 * LOG_PAGE)?;
    accepts("SET_LOG_BASE", device.vhost.set_log_base(log.addr()))?;
    // Where the used rings seem to be, each in a page of its own.
    for (index, page) in [(RX, 0), (TX, 1)] {
        let set = log_used(&device, index, Some(page * LOG_PAGE));
        accepts("SET_VRING_ADDR", set)?;
    }
    for round in 0..1000 {
        traffic::exchange(&mut device, Plan::new(ctx.seed + round, 1, |_| 60))?;
        let mut pages = Pages::new();
        let both = Pages::from([0, 1]);
        Deadline::patient()
            .until("both used rings to be logged", || {
                pages.extend(log.take());
                Ok(pages == both)
            })
            .with_context(|| format!("round {round}: only {pages:?}"))?;
    }
    Ok(())
}
