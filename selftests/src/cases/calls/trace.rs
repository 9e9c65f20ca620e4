// SPDX-License-Identifier: GPL-2.0

//! What the trace events of a device say under traffic that is known.

use crate::cases::common::counts::Counts;
use crate::cases::common::frames::{self, single};
use crate::cases::common::iommu::Behind;
use crate::cases::common::stats::{Stats, until};
use crate::cases::common::workers;
use crate::cases::common::{Case, Context, accepts, case, check, lets_c_off, ring_case};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::iotlb::VERSION_2;
use crate::driver::ring::Segment;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::host::procfs;
use crate::host::trace::{Event, Recording};
use crate::sys::mapping::Mapping;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    case("trace.queues", 30, queues),
    case("trace.workers", 60, threads),
    ring_case("trace.rounds", 60, rounds),
    ring_case("trace.fault", 60, fault),
    ring_case("trace.misses", 60, misses),
];

const NAMES: [(u32, &str); 2] = [(RX, "rx"), (TX, "tx")];

/// The events of that name.
fn named<'a>(events: &'a [Event], name: &str) -> Vec<&'a Event> {
    events.iter().filter(|event| event.name == name).collect()
}

/// The events of that name that are about a queue.
fn about<'a>(events: &'a [Event], name: &str, queue: &str) -> Vec<&'a Event> {
    let mut all = named(events, name);
    all.retain(|event| event.text("queue").is_ok_and(|of| of == queue));
    all
}

/// Fails unless a field of the events has these values, in order.
fn values(events: &[&Event], field: &str, wanted: &[&str]) -> Result<()> {
    let found: Result<Vec<_>> = events.iter().map(|event| event.text(field)).collect();
    let found = found?;
    check(found == wanted, || {
        format!("{field} is {found:?}, not {wanted:?}")
    })
}

/// Queues start, and stop for the reason that they stop for.
fn queues(ctx: &Context) -> Result<()> {
    if lets_c_off(ctx)? {
        return Ok(());
    }
    let recording = Recording::start()?;
    let device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    let other = NetDevice::prepare(&ctx.device, Setup::new(feature::VERSION_1), "tap1", false)?;
    device.unbind(TX)?;
    // It is not bound any more.
    device.unbind(TX)?;
    accepts("RESET_OWNER", device.vhost.reset_owner())?;
    other.bind(TX)?;
    recording.enable(false)?;
    other.unbind(TX)?;
    let events = recording.events()?;
    let (starts, stops) = (named(&events, "queue_start"), named(&events, "queue_stop"));
    values(&starts, "queue", &["rx", "tx", "tx"])?;
    values(&stops, "queue", &["tx", "rx"])?;
    values(&stops, "reason", &["owner", "reset"])?;
    // One number for all that is about one device.
    let number = |event: &Event| event.number("device");
    let (first, second) = (number(starts[0])?, number(starts[2])?);
    for event in [starts[1], stops[0], stops[1]] {
        check(number(event)? == first, || {
            format!("{event:?}: not {first}")
        })?;
    }
    check(first != second, || format!("both devices are {first}"))
}

/// Threads begin and end, of either kind, however they are stopped.
fn threads(ctx: &Context) -> Result<()> {
    if lets_c_off(ctx)? {
        return Ok(());
    }
    let recording = Recording::start()?;
    let vhost = ctx.owned()?;
    let id = accepts("NEW_WORKER", vhost.new_worker())?;
    let seen = |name: &str, count: usize| -> Result<Vec<Event>> {
        Deadline::patient().until(&format!("{count} times {name}"), || {
            Ok(named(&recording.events()?, name).len() >= count)
        })?;
        let events = recording.events()?;
        let found = named(&events, name);
        check(found.len() == count, || {
            format!("{found:?}, not {count} times {name}")
        })?;
        Ok(found.into_iter().cloned().collect())
    };
    let mut starts = seen("worker_start", 2)?;
    // Threads begin in any order.
    starts.sort_by_key(|event| event.number("worker").ok());
    let mut tids = Vec::new();
    for (event, worker) in starts.iter().zip([0, id]) {
        let named = event.number("worker")?;
        check(named == u64::from(worker), || {
            format!("{event:?}, not worker {worker}")
        })?;
        tids.push(event.number("tid")?);
    }
    let threads: Vec<_> = procfs::workers()?
        .iter()
        .map(|thread| u64::from(thread.tid))
        .collect();
    tids.sort_unstable();
    check(tids == threads, || format!("{tids:?}, not {threads:?}"))?;
    accepts("FREE_WORKER", vhost.free_worker(id))?;
    let ends = seen("worker_end", 1)?;
    check(ends[0].text("tid")? == starts[1].text("tid")?, || {
        format!("{:?} has ended after {starts:?}", ends[0])
    })?;
    accepts("RESET_OWNER", vhost.reset_owner())?;
    let ends = seen("worker_end", 2)?;
    check(ends[1].text("tid")? == starts[0].text("tid")?, || {
        format!("{:?} has ended after {starts:?}", ends[1])
    })?;
    accepts(
        "SET_FORK_FROM_OWNER",
        vhost.set_fork_from_owner(workers::KTHREAD),
    )?;
    accepts("SET_OWNER", vhost.set_owner())?;
    let kernel = seen("worker_start", 3)?[2].number("tid")?;
    let threads = procfs::kernel_workers()?;
    check(
        threads.iter().any(|thread| u64::from(thread.tid) == kernel),
        || format!("{kernel} is none of {threads:?}"),
    )?;
    drop(vhost);
    let last = seen("worker_end", 3)?[2].number("tid")?;
    check(last == kernel, || format!("{last} has ended, not {kernel}"))
}

/// Each round is told, with what it moved and why it ended: together, what the statistics have.
fn rounds(ctx: &Context) -> Result<()> {
    if lets_c_off(ctx)? {
        return Ok(());
    }
    let recording = Recording::start()?;
    let mut setup = Setup::new(feature::VERSION_1 | feature::MRG_RXBUF);
    setup.tx_size = 1024;
    setup.tx_buffers.0 = 1024;
    let mut device = NetDevice::start(&ctx.device, setup)?;
    let plan = Plan {
        window: 1000,
        ..Plan::new(ctx.seed, 1000, |n| 60 + (n % 7) as usize * 100)
    };
    traffic::transmit(&mut device, plan)?;
    traffic::receive(&mut device, plan)?;
    // No further round begins.
    device.unbind(RX)?;
    device.unbind(TX)?;
    procfs::idle()?;
    let (events, stats) = (recording.events()?, Stats::of(ctx, &device)?);
    for (index, queue) in NAMES {
        let told = about(&events, "round_end", queue);
        let sum =
            |field: &str| -> Result<u64> { told.iter().map(|event| event.number(field)).sum() };
        let counts = Counts::of(&device, index)?;
        let (packets, rounds) = (sum("packets")?, told.len() as u64);
        check(packets == plan.count && counts.packets == packets, || {
            format!("{queue}: {packets} packets in rounds, of {}", plan.count)
        })?;
        check(rounds == counts.rounds, || {
            format!("{queue}: {rounds} rounds, {} counted", counts.rounds)
        })?;
        let lengths: u64 = (0..plan.count)
            .map(|n| ((plan.size)(n) + setup_header()) as u64)
            .sum();
        let bytes = sum("bytes")?;
        check(bytes == lengths, || {
            format!("{queue}: {bytes} bytes, not {lengths}")
        })?;
        for why in ["drained", "unbuffered", "no_room", "budget", "retry"] {
            let times = about(&events, "round_end", queue);
            let times = times
                .iter()
                .filter(|event| event.text("why").is_ok_and(|is| is == why));
            let (times, counted) = (
                times.count() as u64,
                stats.get(&format!("{queue}_ended_{why}"))?,
            );
            check(times == counted, || {
                format!("{queue}: {times} rounds ended {why}, {counted} counted")
            })?;
        }
        check(stats.get(&format!("{queue}_ended_drained"))? > 0, || {
            format!("{queue} never drained")
        })?;
    }
    Ok(())
}

/// Length of the virtio-net header of a modern device.
fn setup_header() -> usize {
    Setup::new(feature::VERSION_1).header()
}

/// A fault is told with its address; the queue stops, and starts when the owner has mended it.
fn fault(ctx: &Context) -> Result<()> {
    /// Where there is no memory so far.
    const BEYOND: u64 = 1 << 40;
    if lets_c_off(ctx)? {
        return Ok(());
    }
    let recording = Recording::start()?;
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    let chain = Segment {
        addr: BEYOND,
        len: 100,
        writable: false,
    };
    device.tx.ring.add(&[chain], None, 0)?;
    device.tx.flush()?;
    let count = |name: &str| -> Result<usize> { Ok(about(&recording.events()?, name, "tx").len()) };
    Deadline::patient().until("a fault", || Ok(count("fault")? > 0))?;
    let map = Mapping::new(4096)?;
    device.plug(BEYOND, &map)?;
    Deadline::patient().until("the queue to go on", || Ok(count("queue_start")? > 1))?;
    let ended = |stats: &Stats| Ok(stats.get("tx_size_128")? == 1);
    until(ctx, &device, "the packet", ended)?;
    let events = recording.events()?;
    let faults = about(&events, "fault", "tx");
    for event in &faults {
        values(&[event], "name", &["outside_memory"])?;
        values(&[event], "has_addr", &["1"])?;
        let addr = event.number("addr")?;
        check(addr == BEYOND, || format!("a fault at {addr:#x}"))?;
    }
    values(&about(&events, "queue_stop", "tx"), "reason", &["fault"])?;
    check(about(&events, "queue_start", "tx").len() == 2, || {
        format!("{events:?}")
    })?;
    let stats = Stats::of(ctx, &device)?;
    let counted = stats.get("tx_fault_outside_memory")?;
    check(faults.len() as u64 == counted, || {
        format!("{} faults, {counted} counted", faults.len())
    })?;
    let ends = about(&events, "round_end", "tx");
    let wrong = ends
        .iter()
        .filter(|event| event.text("why").is_ok_and(|why| why == "fault"));
    check(wrong.count() > 0, || {
        format!("no round with a fault: {ends:?}")
    })?;
    check(about(&events, "fault", "rx").is_empty(), || {
        "a fault of the other queue".into()
    })?;
    // A fault without an address.
    frames::send_short(&mut device)?;
    let last = || -> Result<Option<Event>> {
        Ok(about(&recording.events()?, "fault", "tx")
            .last()
            .copied()
            .cloned())
    };
    Deadline::patient().until("another fault", || {
        last()?
            .context("none")
            .and_then(|it| Ok(it.text("name")? == "short_header"))
    })?;
    let last = last()?.context("no fault")?;
    values(&[&last], "has_addr", &["0"])
}

/// Each miss is told, and then its answer, which covers it.
fn misses(ctx: &Context) -> Result<()> {
    if lets_c_off(ctx)? {
        return Ok(());
    }
    let recording = Recording::start()?;
    Behind::start(ctx, single(0), VERSION_2)?.run(|device, _iommu| {
        traffic::exchange(device, Plan::new(ctx.seed, 100, |_| 300))?;
        procfs::idle()?;
        let (events, stats) = (recording.events()?, Stats::of(ctx, device)?);
        for (_, queue) in NAMES {
            let mut open: Option<&Event> = None;
            let mut seen = 0;
            for event in &events {
                if event.text("queue").ok() != Some(queue) {
                    continue;
                }
                match event.name.as_str() {
                    "miss" => {
                        check(open.is_none(), || format!("{event:?} while {open:?} waits"))?;
                        open = Some(event);
                        seen += 1;
                    }
                    "answer" => {
                        let miss = open.take().context("an answer to no miss")?;
                        let (iova, size) = (event.number("iova")?, event.number("size")?);
                        let wanted = miss.number("iova")?;
                        check((iova..iova + size).contains(&wanted), || {
                            format!("{event:?} does not answer {miss:?}")
                        })?;
                        let (access, perm) = (miss.text("access")?, event.text("perm")?);
                        check(perm == "read_write" || perm == access, || {
                            format!("{event:?} allows too little for {miss:?}")
                        })?;
                    }
                    _ => {}
                }
            }
            check(open.is_none(), || format!("no answer to {open:?}"))?;
            let counted = stats.get(&format!("{queue}_iotlb_misses"))?;
            check(seen > 0 && seen == counted, || {
                format!("{queue}: {seen} misses, {counted} counted")
            })?;
        }
        Ok(())
    })
}
