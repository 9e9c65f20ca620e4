// SPDX-License-Identifier: GPL-2.0

//! Devices that come and go.

use crate::cases::common::{Case, Context, accepts, case, check, ring_case};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Flow, Plan, RxFlow, TxFlow};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::host::{census, procfs};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    case("life.open_close", 60, open_close),
    case("life.memory", 120, memory),
    ring_case("life.close_under_traffic", 90, close_under_traffic),
    case("life.tap_first", 60, tap_first),
    case("life.many_devices", 90, many_devices),
];

fn open_close(ctx: &Context) -> Result<()> {
    for _ in 0..200 {
        drop(ctx.open()?);
    }
    for _ in 0..100 {
        let vhost = ctx.owned()?;
        accepts("RESET_OWNER", vhost.reset_owner())?;
        accepts("SET_OWNER", vhost.set_owner())?;
    }
    procfs::expect_workers(0)
}

/// One device, used for both directions, short frames and an error among them.
fn use_once(ctx: &Context, round: u64) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    traffic::exchange(&mut device, Plan::new(ctx.seed + round, 64, |_| 500))?;
    for _ in 0..32 {
        device.tx_post(NetHeader::default(), &[0; 5])?;
    }
    device.tx.flush()?;
    let mut back = 0;
    crate::wait::Deadline::patient().until("short frames", || {
        back += device.tx_reap()?;
        Ok(back == 32)
    })
}

/// Many devices leave nothing behind, period after period.
fn memory(ctx: &Context) -> Result<()> {
    let rounds = ctx.times(50);
    let use_all = |rounds| (0..rounds).try_for_each(|round| use_once(ctx, round));
    // The first device makes the kernel allocate what it keeps; that is no leak.
    use_all(30)?;
    let mut used = 0;
    let lost = census::expect_no_growth(|| {
        use_all(rounds)?;
        used += rounds;
        Ok(rounds)
    })?;
    println!("{used} devices used; {lost} KiB less than before");
    Ok(())
}

fn close_under_traffic(ctx: &Context) -> Result<()> {
    for round in 0..ctx.times(60) {
        let events = if round % 2 == 0 {
            feature::EVENT_IDX
        } else {
            0
        };
        let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1 | events))?;
        let plan = Plan {
            window: 150,
            ..Plan::new(ctx.seed, u64::MAX, |_| 300)
        };
        let (mut tx, mut rx) = (TxFlow::new(plan), RxFlow::new(plan));
        while tx.seen < round * 5 {
            let moved = tx.pump(&mut device)? | rx.pump(&mut device)?;
            let alive = moved || traffic::wait_activity(&mut device, crate::wait::PATIENCE)?;
            check(alive, || tx.describe(&device))?;
        }
        // Fills the ring once more and leaves at once.
        tx.pump(&mut device)?;
        drop(device);
        procfs::expect_workers(0)?;
    }
    Ok(())
}

/// The interface is deleted before the device, which is still bound to it.
fn tap_first(ctx: &Context) -> Result<()> {
    for round in 0..ctx.times(30) {
        let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
        traffic::exchange(&mut device, Plan::new(ctx.seed + round, 50, |_| 100))?;
        device.tx_post(NetHeader::default(), &frame::unseen(ctx.seed, 100))?;
        let NetDevice {
            vhost,
            tap,
            mut tx,
            memory,
            ..
        } = device;
        // The device still holds the queue, so closing it here does not end the interface.
        drop(tap);
        tx.flush()?;
        accepts("unbind", vhost.set_backend(TX, -1))?;
        accepts("unbind", vhost.set_backend(RX, -1))?;
        tx.ring.disarm_call();
        drop(vhost);
        drop(memory);
    }
    Ok(())
}

/// Eight pairs on one interface with as many queues.
fn many_devices(ctx: &Context) -> Result<()> {
    let mut devices = (0..8)
        .map(|_| {
            let setup = Setup::new(feature::VERSION_1 | feature::EVENT_IDX);
            let device = NetDevice::prepare(&ctx.device, setup, "tap0", true)?;
            device.bind(RX)?;
            device.bind(TX)?;
            Ok(device)
        })
        .collect::<Result<Vec<_>>>()?;
    let workers = procfs::workers()?.len();
    check(workers >= 8, || format!("{workers} workers for 8 devices"))?;
    // Every peer sees the frames of all pairs, so the pairs take turns.
    for turn in 0..4 {
        for number in 0..devices.len() {
            let plan = Plan::new(ctx.seed + turn, 50, |_| 150);
            traffic::transmit(&mut devices[number], plan)
                .with_context(|| format!("pair {number}"))?;
            let mut bytes = Vec::new();
            for other in &mut devices {
                while other.peer.receive(&mut bytes)?.is_some() {}
            }
        }
    }
    // The interface chooses a queue for each frame: any pair may get it, but one must.
    for device in &mut devices {
        device.rx_fill()?;
        device.rx.flush()?;
    }
    let mut bytes = Vec::new();
    for sequence in 0..200 {
        frame::build(ctx.seed, sequence, 200, &mut bytes);
        devices[0].peer.send(NetHeader::default(), &bytes)?;
        let mut got = Vec::new();
        crate::wait::Deadline::patient().until("a frame on any pair", || {
            for device in &mut devices {
                if device.rx_take(&mut got)?.is_some() {
                    device.rx_fill()?;
                    device.rx.flush()?;
                    return Ok(true);
                }
            }
            Ok(false)
        })?;
        frame::expect("any pair", sequence, &bytes, &got)?;
    }
    Ok(())
}
