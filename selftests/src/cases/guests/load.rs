// SPDX-License-Identifier: GPL-2.0

//! Many devices at once, and who gets how much of a CPU and of a worker.

use crate::cases::common::flood::Flood;
use crate::cases::common::{Case, Context, case, check, ring_case};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::load::{self, Line};
use crate::driver::traffic::Plan;
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::host::{procfs, tap};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::sys::process;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    case("load.devices", 120, devices),
    case("load.shares", 120, shares),
    ring_case("load.flooded", 120, |ctx| flooded(ctx, TX)),
    ring_case("load.flooded_rx", 120, |ctx| flooded(ctx, RX)),
];

/// Many devices of one process move frames at once; each frame is checked.
fn devices(ctx: &Context) -> Result<()> {
    const DEVICES: u64 = 64;
    const FRAMES: u64 = 300;
    let mut lines = Vec::new();
    for number in 0..DEVICES {
        let events = feature::EVENT_IDX * (number % 2);
        let merge = feature::MRG_RXBUF * (number / 2 % 2);
        let mut setup = Setup::new(feature::VERSION_1 | events | merge);
        (setup.rx_size, setup.tx_size) = (64, 64);
        (setup.rx_buffers.0, setup.tx_buffers.0) = (64, 64);
        let device = NetDevice::prepare(&ctx.device, setup, &format!("tap{number}"), false)?;
        device.bind(RX)?;
        device.bind(TX)?;
        let plan = Plan::new(ctx.seed + number, FRAMES, |n| 60 + (n % 1400) as usize);
        lines.push(Line::new(device, plan));
    }
    let workers = procfs::workers()?.len() as u64;
    check(workers == DEVICES, || format!("{workers} workers"))?;
    load::run(&mut lines)?;
    drop(lines);
    procfs::expect_workers(0)
}

/// Devices with more to send than there is time for have like shares of it.
fn shares(ctx: &Context) -> Result<()> {
    const DEVICES: usize = 16;
    let frames = ctx.times(16384);
    // All on this one: of two CPUs the machine below may give one less time.
    let mut here = CpuSet::new();
    here.set(sched_getcpu());
    sched_setaffinity(None, &here).context("stay on a CPU")?;
    let (mut devices, mut floods) = (Vec::new(), Vec::new());
    for number in 0..DEVICES {
        let mut setup = Setup::new(feature::VERSION_1);
        // The largest ring, so that there is time to add to it before it is empty.
        setup.tx_size = 32768;
        let mut device = NetDevice::prepare(&ctx.device, setup, &format!("tap{number}"), false)?;
        device.bind(TX)?;
        floods.push(Flood::of_one_chain(&mut device, TX)?);
        devices.push(device);
    }
    // Else this one would have to wait for them.
    process::run_first().context("run before the workers")?;
    let deadline = Deadline::patient();
    let mut sent = vec![0; DEVICES];
    let alike = |sent: &[u64]| 4 * sent[0] > sent[DEVICES / 2];
    // By what is sent, not by time: the machine below may have taken some, from one device's turn.
    while (sent[DEVICES / 2] < frames || !alike(&sent)) && !deadline.passed() {
        floods.iter().try_for_each(Flood::pour)?;
        std::thread::sleep(Duration::from_millis(5));
        sent = floods.iter().map(Flood::used).collect();
        sent.sort_unstable();
    }
    let (least, median, most) = (sent[0], sent[DEVICES / 2], sent[DEVICES - 1]);
    println!("{DEVICES} devices sent {least} to {most} frames each, {median} in the middle");
    check(alike(&sent), || {
        format!("a device sent {least} frames, and others {median}")
    })
}

/// After so many packets the other queue has its turn (`VHOST_NET_PKT_WEIGHT`).
const ROUND: u16 = 256;

/// While one queue, `index`, has more to do than there is time for, frames of the other still pass:
/// its rounds end.
fn flooded(ctx: &Context, index: u32) -> Result<()> {
    const CHAINS: u16 = 8192;
    let samples = usize::try_from(ctx.times(40))?;
    let mut setup = Setup::new(feature::VERSION_1);
    let size = if index == RX {
        &mut setup.rx_size
    } else {
        &mut setup.tx_size
    };
    *size = CHAINS;
    let mut device = NetDevice::prepare(&ctx.device, setup, "tap0", false)?;
    tap::set_queue_length("tap0", CHAINS)?;
    device.bind(RX)?;
    device.bind(TX)?;
    let flood = Flood::of_one_chain(&mut device, index)?;
    let bytes = frame::unseen(1, 60);
    let mut passed = Vec::new();
    let deadline = Deadline::patient();
    for sequence in 0.. {
        if passed.len() == samples || deadline.passed() {
            break;
        }
        // Enough for some rounds, else the flood would end by itself.
        if flood.left() < 4 * ROUND {
            Deadline::patient().until("the end of the flood", || Ok(flood.left() == 0))?;
            if index == RX {
                // The tap keeps them until there are buffers.
                for _ in 0..CHAINS {
                    device.peer.send(NetHeader::default(), &bytes)?;
                }
            }
            flood.pour()?;
            look("the flood to begin", || Ok(flood.left() < CHAINS))?;
        }
        let one = if index == RX { send_one } else { receive_one };
        let count = one(ctx, &mut device, &flood, sequence);
        // One that nobody saw wait says nothing.
        let count = count.with_context(|| format!("frame {sequence}"))?;
        passed.extend((count > 0).then_some(count));
    }
    let what = if index == RX { "received" } else { "sent" };
    passed.sort_unstable();
    let worst = *passed.last().context("no frame had to wait")?;
    println!(
        "while a frame waited, up to {worst} others were {what}, {} in the middle of {} times",
        passed[passed.len() / 2],
        passed.len()
    );
    // What is left of the round, and chains that were used before and not told of: up to 320
    // on vhost-net.
    check(worst <= 2 * ROUND, || {
        format!("{worst} frames were {what} first")
    })
}

/// Sends a frame; how many chains a flood of the other queue has used meanwhile.
fn send_one(ctx: &Context, device: &mut NetDevice, flood: &Flood, sequence: u64) -> Result<u16> {
    let (mut bytes, mut got) = (Vec::new(), Vec::new());
    frame::build(ctx.seed, sequence, 200, &mut bytes);
    device.tx_post(NetHeader::default(), &bytes)?;
    device.tx.flush()?;
    let passed = passed(device, TX, flood)?;
    device.tx_reap()?;
    look("a frame for the peer", || {
        Ok(device.peer.receive(&mut got)?.is_some())
    })?;
    frame::expect("sent", sequence, &bytes, &got)?;
    Ok(passed)
}

/// Receives a frame; how many chains a flood of the other queue has used meanwhile.
fn receive_one(ctx: &Context, device: &mut NetDevice, flood: &Flood, sequence: u64) -> Result<u16> {
    let (mut bytes, mut got) = (Vec::new(), Vec::new());
    frame::build(ctx.seed, sequence, 200, &mut bytes);
    device.rx_fill()?;
    device.rx.flush()?;
    device.peer.send(NetHeader::default(), &bytes)?;
    let passed = passed(device, RX, flood)?;
    device.rx_take(&mut got)?;
    frame::expect("received", sequence, &bytes, &got)?;
    Ok(passed)
}

/// How many chains a flood uses until queue `index` has a used one.
///
/// Of those that are used while nobody looks none is counted: a process that runs late counts less,
/// not more.
fn passed(device: &mut NetDevice, index: u32, flood: &Flood) -> Result<u16> {
    let queue = device.queue(index);
    let first = flood.progress();
    let mut passed = 0;
    look("a frame in between", || {
        let used = flood.progress();
        let done = queue.ring.ready() > 0;
        if !done {
            passed = used.wrapping_sub(first);
        }
        Ok(done)
    })?;
    Ok(passed)
}

/// Asks `done` again and again without a pause, in which thousands of frames would pass.
fn look(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Deadline::patient();
    while !done()? {
        check(!deadline.passed(), || format!("looked in vain for {what}"))?;
    }
    Ok(())
}
