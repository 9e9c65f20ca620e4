// SPDX-License-Identifier: GPL-2.0

//! Queues that change between workers, and workers that share what the device has, under traffic.

use super::{expect, start, with_workers};
use crate::cases::common::live::{self, under_traffic};
use crate::cases::common::{
    Case, Context, Role, accepts, case, check, migration, owners, refuses, ring_case, role,
};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::log::{DirtyLog, LOG_PAGE, Pages, log_used};
use crate::driver::traffic::{self, Plan, RxFlow, TxFlow};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX, Vhost};
use crate::host::procfs::{self, Thread};
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    case("workers.two_threads", 60, |ctx| {
        with_workers(ctx, two_threads)
    }),
    ring_case("workers.attach_live", 120, |ctx| {
        with_workers(ctx, attach_live)
    }),
    case("workers.attach_idle", 60, |ctx| {
        with_workers(ctx, attach_idle)
    }),
    case("workers.reset_owner", 60, |ctx| {
        with_workers(ctx, reset_owner)
    }),
    case("workers.close", 90, |ctx| with_workers(ctx, close)),
    case("workers.kill", 120, |ctx| with_workers(ctx, killed)),
    case("workers.migration", 120, |ctx| with_workers(ctx, migration)),
    case("workers.shared_log", 60, |ctx| {
        with_workers(ctx, shared_log)
    }),
];

pub(crate) const ROLES: &[Role] = &[role("workers-traffic", traffic_role)];

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
            // An idle queue's worker is woken to give memory back; one without a backend is left
            // alone.
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
            // Several in a row: the next worker is attached before the last one has run.
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
    // And one without a queue.
    start(vhost, 3)
}

/// Ownership is given up with frames under way in several threads, and taken again.
fn reset_owner(ctx: &Context) -> Result<()> {
    let prepare = |device: &NetDevice| {
        expect(&device.vhost, 0, 0)?;
        separate(&device.vhost)
    };
    live::reset_owner(ctx, prepare, || procfs::expect_workers(0))
}

fn close(ctx: &Context) -> Result<()> {
    for round in 0..ctx.times(40) {
        let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
        separate(&device.vhost)?;
        let plan = Plan {
            window: 150,
            ..Plan::new(ctx.seed, u64::MAX, |_| 300)
        };
        let (mut tx, mut rx) = (TxFlow::new(plan), RxFlow::new(plan));
        live::pump(&mut device, &mut tx, &mut rx, round * 5)?;
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
    owners::until_killed(ctx, device, |device| {
        number += 1;
        let index = if number % 2 == 0 { TX } else { RX };
        let id = turn(&[0, 1, 2, 3], number / 3)?;
        accepts("ATTACH", device.vhost.attach_worker(index, id))
    })
}

fn killed(ctx: &Context) -> Result<()> {
    owners::one_by_one(ctx, "workers-traffic", 30, Duration::from_millis(3))
}

/// Two threads log what they write while a machine migrates.
fn migration(ctx: &Context) -> Result<()> {
    for setup in migration::devices() {
        let mut device = NetDevice::start(&ctx.device, setup)?;
        separate(&device.vhost)?;
        migration::migrate(ctx, &mut device)?;
    }
    Ok(())
}

/// Two threads set bits in the same word of the log, again and again; none gets lost.
fn shared_log(ctx: &Context) -> Result<()> {
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
