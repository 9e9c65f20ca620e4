// SPDX-License-Identifier: GPL-2.0

//! What the statistics of a queue say after traffic whose numbers are known.

use crate::cases::common::counts::Counts;
use crate::cases::common::frames;
use crate::cases::common::stats::{Stats, until};
use crate::cases::common::{Case, Context, case, check, lets_c_off, ring_case};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::host::tap::{OFFLOAD_CSUM, OFFLOAD_TSO4};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::Result;
use std::collections::BTreeMap;

pub(crate) const CASES: &[Case] = &[
    ring_case("stats.sizes", 60, sizes),
    ring_case("stats.notifications", 60, notifications),
    ring_case("stats.drops", 60, drops),
    ring_case("stats.ends", 60, ends),
    ring_case("stats.faults", 60, faults),
    ring_case("stats.wakeups", 60, wakeups),
    ring_case("stats.segmented", 60, segmented),
    case("stats.pages_kept", 60, pages_kept),
];

/// Lengths of frames, each at the edge of a class.
const LENGTHS: [usize; 8] = [60, 64, 65, 128, 129, 256, 1024, 1500];
/// The class of each.
const CLASSES: [&str; 8] = ["64", "64", "128", "128", "256", "256", "1024", "2048"];
/// Frames of each length.
const EACH: u64 = 25;

const MERGE: u64 = feature::VERSION_1 | feature::MRG_RXBUF;

/// Each packet is counted in the class of its length, without the virtio-net header.
fn sizes(ctx: &Context) -> Result<()> {
    // CAST: an index below eight.
    let plan = Plan::new(ctx.seed, EACH * LENGTHS.len() as u64, |sequence| {
        LENGTHS[sequence as usize % LENGTHS.len()]
    });
    let mut device = NetDevice::start(&ctx.device, Setup::new(MERGE))?;
    let none = Stats::of(ctx, &device)?;
    for queue in ["rx", "tx"] {
        none.expect(&format!("{queue}_size"), &[])?;
        check(!none.has(&format!("{queue}_progress_ms")), || {
            "progress before the first packet".into()
        })?;
    }
    traffic::transmit(&mut device, plan)?;
    traffic::receive(&mut device, plan)?;
    let mut wanted = BTreeMap::new();
    for class in CLASSES {
        *wanted.entry(class).or_insert(0) += EACH;
    }
    let wanted: Vec<_> = wanted.into_iter().collect();
    for (queue, index) in [("rx", RX), ("tx", TX)] {
        // A round counts at its end what it has moved, after the guest has seen it.
        until(ctx, &device, "all packets to be counted", |stats| {
            let progress = stats.has(&format!("{queue}_progress_ms"));
            Ok(progress && Counts::of(&device, index)?.packets == plan.count)
        })?;
        Stats::of(ctx, &device)?.expect(&format!("{queue}_size"), &wanted)?;
    }
    Ok(())
}

/// Kicks are counted as the driver counts its own, and so are events of the tap.
fn notifications(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(MERGE | feature::EVENT_IDX))?;
    let before = device.tx.kicks;
    for sequence in 0..20 {
        let one = Plan::new(ctx.seed ^ sequence, 1, |_| 100);
        traffic::transmit(&mut device, one)?;
        traffic::receive(&mut device, one)?;
    }
    let kicks = device.tx.kicks - before;
    let stats = Stats::of(ctx, &device)?;
    if lets_c_off(ctx)? {
        return Ok(());
    }
    check(kicks > 0 && stats.get("tx_kicks")? == kicks, || {
        format!("{kicks} kicks, {:?} counted", stats.get("tx_kicks"))
    })?;
    check(stats.get("rx_backend_events")? > 0, || {
        "no event of the tap".into()
    })?;
    // Another worker is woken for what may have come meanwhile, which is no kick.
    let worker = device.vhost.new_worker()?;
    device.vhost.attach_worker(TX, worker)?;
    let stats = Stats::of(ctx, &device)?;
    check(stats.get("tx_kicks")? == kicks, || {
        "a kick of nobody's is counted".into()
    })
}

/// Packets are dropped for a reason.
fn drops(ctx: &Context) -> Result<()> {
    let mut setup = Setup::new(MERGE);
    setup.rx_size = 8;
    setup.rx_buffers = (8, 2048);
    let mut device = NetDevice::start(&ctx.device, setup)?;
    if lets_c_off(ctx)? {
        // It keeps waiting for more buffers than the ring can have.
        return Ok(());
    }
    device.rx_fill()?;
    device.rx.flush()?;
    let mut bytes = Vec::new();
    frame::build(ctx.seed, 0, 40_000, &mut bytes);
    device.peer.send(NetHeader::default(), &bytes)?;
    let too_long = |stats: &Stats| Ok(stats.get("rx_dropped_too_long")? != 0);
    until(ctx, &device, "a frame to be dropped", too_long)?;
    frame::build(ctx.seed, 0, 100, &mut bytes);
    // The checksum's field would be behind the end.
    let behind = NetHeader {
        flags: 1,
        csum_start: 99,
        csum_offset: 16,
        ..NetHeader::default()
    };
    device.tx_post(behind, &bytes)?;
    device.tx.flush()?;
    let header = |stats: &Stats| Ok(stats.get("tx_dropped_header")? != 0);
    until(ctx, &device, "a header to be refused", header)?;
    let stats = Stats::of(ctx, &device)?;
    stats.expect("rx_dropped", &[("too_long", 1)])?;
    stats.expect("tx_dropped", &[("header", 1)])
}

/// Rounds end for want of packets, or of buffers.
fn ends(ctx: &Context) -> Result<()> {
    let mut setup = Setup::new(MERGE);
    setup.rx_buffers = (4, 2048);
    let mut device = NetDevice::start(&ctx.device, setup)?;
    traffic::transmit(&mut device, Plan::new(ctx.seed, 1000, |_| 100))?;
    // Without faults, each round that has ended has one reason.
    until(ctx, &device, "each round to have a reason", |stats| {
        let rounds = Counts::of(&device, TX)?.rounds;
        Ok(rounds != 0 && stats.sum("tx_ended")? == rounds)
    })?;
    let mut bytes = Vec::new();
    frame::build(ctx.seed, 0, 100, &mut bytes);
    for _ in 0..8 {
        device.peer.send(NetHeader::default(), &bytes)?;
    }
    let unbuffered = |stats: &Stats| Ok(stats.get("rx_ended_unbuffered")? > 0);
    until(ctx, &device, "a round without buffers", unbuffered)
}

/// A fault is counted by its kind, with the time since.
fn faults(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(MERGE))?;
    let none = Stats::of(ctx, &device)?;
    for queue in ["rx", "tx"] {
        none.expect(&format!("{queue}_fault"), &[])?;
        check(!none.has(&format!("{queue}_fault_ms")), || {
            format!("a fault of {queue} before the first")
        })?;
    }
    frames::send_short(&mut device)?;
    if lets_c_off(ctx)? {
        return Ok(());
    }
    let told = |stats: &Stats| Ok(stats.has("tx_fault_ms"));
    until(ctx, &device, "a fault", told)?;
    let stats = Stats::of(ctx, &device)?;
    // A packed ring's queue looks at the chain once more as it stops.
    let times = stats.get("tx_fault_short_header")?;
    check(times <= 2, || format!("{times} faults of one chain"))?;
    stats.expect("tx_fault", &[("short_header", times)])?;
    stats.expect("rx_fault", &[])
}

/// Each round begins since the worker was woken, or since the one before it left more to do.
fn wakeups(ctx: &Context) -> Result<()> {
    let mut setup = Setup::new(MERGE);
    (setup.tx_size, setup.tx_buffers.0) = (1024, 1024);
    let mut device = NetDevice::start(&ctx.device, setup)?;
    if lets_c_off(ctx)? {
        return Ok(());
    }
    let mut bytes = Vec::new();
    // More than a round takes, made available at once.
    for sequence in 0..900 {
        frame::build(ctx.seed, sequence, 100, &mut bytes);
        device.tx_post(NetHeader::default(), &bytes)?;
    }
    device.tx.flush()?;
    let budget = |stats: &Stats| stats.get("tx_ended_budget");
    until(ctx, &device, "full rounds", |stats| {
        let all = Counts::of(&device, TX)?.packets == 900;
        Ok(all && budget(stats)? > 0 && stats.get("tx_ended_drained")? > 0)
    })?;
    until(ctx, &device, "each round to have begun somehow", |stats| {
        let rounds = Counts::of(&device, TX)?.rounds;
        Ok(stats.get("tx_wakeups")? + budget(stats)? == rounds)
    })?;
    drop(device);
    let mut device = NetDevice::start(&ctx.device, Setup::new(MERGE))?;
    for sequence in 0..10 {
        traffic::transmit(&mut device, Plan::new(ctx.seed ^ sequence, 1, |_| 100))?;
    }
    // Each waits for the one before it.
    until(ctx, &device, "a wake-up for each packet", |stats| {
        Ok(stats.get("tx_wakeups")? >= 10)
    })
}

/// Frames of the plan for [`segmented`]: every other one is longer than a segment.
fn mixed(sequence: u64) -> usize {
    match sequence % 4 {
        0 => 200,
        1 => 3000,
        2 => 1000,
        _ => 30_000,
    }
}

/// Packets to be segmented are counted, by whatever way they go.
fn segmented(ctx: &Context) -> Result<()> {
    let mut setup = Setup::new(MERGE);
    setup.tcp = true;
    setup.offloads = OFFLOAD_CSUM | OFFLOAD_TSO4;
    setup.tx_buffers = (64, 32 << 10);
    // Without a limit frames go in batches or in pages, with one each goes by itself.
    for limit in [None, Some(1 << 20)] {
        let mut device = NetDevice::start(&ctx.device, setup.clone())?;
        if let Some(limit) = limit {
            device.tap.set_send_buffer(limit)?;
        }
        let plan = Plan {
            tcp: true,
            window: 16,
            ..Plan::new(ctx.seed, 200, mixed)
        };
        traffic::transmit(&mut device, plan)?;
        traffic::receive(&mut device, plan)?;
        for queue in ["rx", "tx"] {
            until(ctx, &device, "all packets to be counted", |stats| {
                Ok(stats.sum(&format!("{queue}_size"))? == 200)
            })?;
        }
        if lets_c_off(ctx)? {
            continue;
        }
        let stats = Stats::of(ctx, &device)?;
        for queue in ["rx", "tx"] {
            let counted = stats.get(&format!("{queue}_gso"))?;
            check(counted == 100, || {
                format!("{queue}: {counted} to be segmented, not 100, limit {limit:?}")
            })?;
        }
    }
    Ok(())
}

/// Pages are kept after frames were sent, and given back at the end.
fn pages_kept(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(MERGE))?;
    let kept = |device: &NetDevice, queue: &str| {
        Stats::of(ctx, device)?.get(&format!("{queue}_pages_kept"))
    };
    if lets_c_off(ctx)? {
        return traffic::transmit(&mut device, Plan::new(ctx.seed, 100, |_| 100));
    }
    check(kept(&device, "tx")? == 0, || {
        "pages before any frame".into()
    })?;
    let mut most = 0;
    for round in 0..3 {
        // An idle queue gives them back soon.
        let mut number = 0;
        Deadline::patient().until("pages to be kept", || {
            number += 1;
            let plan = Plan::new(ctx.seed + number, 300, |_| 1000);
            traffic::transmit(&mut device, plan)?;
            most = kept(&device, "tx")?;
            Ok(most > 0)
        })?;
        // Two MiB, in pages of the smallest size.
        check(most <= (2 << 20) / 4096, || format!("{most} pages"))?;
        match round {
            0 => until(ctx, &device, "an idle queue to keep none", |stats| {
                Ok(stats.get("tx_pages_kept")? == 0)
            })?,
            _ => {
                device.unbind(TX)?;
                let left = kept(&device, "tx")?;
                check(left == 0, || format!("{left} pages of an unbound queue"))?;
                device.bind(TX)?;
            }
        }
        check(kept(&device, "rx")? == 0, || "pages to receive".into())?;
    }
    Ok(())
}
