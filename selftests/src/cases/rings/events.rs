// SPDX-License-Identifier: GPL-2.0

//! Notifications: none is sent unasked, each that is asked for is sent, and none is lost.

use crate::cases::common::{Case, Context, case, check, ring_case};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    ring_case("events.call_suppressed", 60, suppressed),
    ring_case("events.call_after", 60, after),
    ring_case("events.kick_suppressed", 60, kick_suppressed),
    ring_case("events.no_lost_kick", 90, lost_kick),
    ring_case("events.no_lost_call", 90, lost_call),
    case("events.notify_on_empty", 60, on_empty),
    ring_case("events.no_call_fd", 60, no_call_fd),
];

/// Posts `count` frames at once and kicks if wanted.
pub(crate) fn post(device: &mut NetDevice, seed: u64, count: u64) -> Result<()> {
    let mut bytes = Vec::new();
    for sequence in 0..count {
        frame::build(seed, sequence, 60, &mut bytes);
        check(device.tx_post(NetHeader::default(), &bytes)?, || {
            "no room in the ring".into()
        })?;
    }
    device.tx.flush()?;
    Ok(())
}

/// Waits by looking at the ring alone until `count` frames are back.
pub(crate) fn settle(device: &mut NetDevice, count: usize) -> Result<()> {
    let mut seen = 0;
    Deadline::patient().until("used buffers", || {
        seen += device.tx_reap()?;
        Ok(seen >= count)
    })
}

/// The calls so far. Unbinding waits for the worker, so no call is still pending.
fn calls(device: &NetDevice) -> Result<u64> {
    device.unbind(TX)?;
    device.tx.call.take()
}

fn flavours() -> [u64; 2] {
    [feature::VERSION_1, feature::VERSION_1 | feature::EVENT_IDX]
}

fn suppressed(ctx: &Context) -> Result<()> {
    calls_suppressed(ctx, &flavours())
}

pub(crate) fn calls_suppressed(ctx: &Context, features: &[u64]) -> Result<()> {
    for &features in features {
        let mut device = NetDevice::start(&ctx.device, Setup::new(features))?;
        // The first call after binding is always made: no earlier used index can show that it is
        // not wanted.
        post(&mut device, ctx.seed, 1)?;
        settle(&mut device, 1)?;
        check(calls(&device)? > 0, || "no call for the first frame".into())?;
        device.bind(TX)?;
        post(&mut device, ctx.seed, 1)?;
        let second = Deadline::patient().readable(&[&device.tx.call])?;
        check(second, || {
            "no call for the first frame after binding again".into()
        })?;
        settle(&mut device, 1)?;
        device.tx.call.take()?;
        device.tx.ring.disarm_call();
        for round in 0..40 {
            post(&mut device, ctx.seed + round, 1 + round % 50)?;
            settle(&mut device, usize::try_from(1 + round % 50)?)?;
        }
        let made = calls(&device)?;
        check(made == 0, || format!("{made} calls while none was wanted"))?;
    }
    Ok(())
}

/// A call comes when exactly as many buffers are used as the driver named, at any index.
fn after(ctx: &Context) -> Result<()> {
    call_after(ctx, feature::VERSION_1 | feature::EVENT_IDX)
}

pub(crate) fn call_after(ctx: &Context, features: u64) -> Result<()> {
    for base in [0, 65500, 65533] {
        let mut setup = Setup::new(features);
        setup.base = base;
        let mut device = NetDevice::start(&ctx.device, setup)?;
        post(&mut device, ctx.seed, 1)?;
        settle(&mut device, 1)?;
        let first = Deadline::patient().readable(&[&device.tx.call])?;
        check(first, || "no call for the first frame".into())?;
        for wanted in 1..20u16 {
            device.tx.call.take()?;
            let early = device.tx.ring.arm_call(wanted);
            check(!early, || "used buffers nobody posted".into())?;
            for _ in 1..wanted {
                post(&mut device, ctx.seed, 1)?;
            }
            Deadline::patient().until("all but one", || {
                Ok(device.tx.ring.ready() == usize::from(wanted - 1))
            })?;
            let made = device.tx.call.take()?;
            check(made == 0, || {
                format!("base {base}: a call one buffer of {wanted} early")
            })?;
            post(&mut device, ctx.seed, 1)?;
            let came = Deadline::patient().readable(&[&device.tx.call])?;
            check(came, || {
                format!("base {base}: no call after {wanted} buffers")
            })?;
            settle(&mut device, usize::from(wanted))?;
            let made = device.tx.call.take()?;
            check(made == 1, || {
                format!("base {base}: {made} calls for {wanted} buffers")
            })?;
        }
    }
    Ok(())
}

/// While the receive queue has buffers, the device wants no kicks for more, from its first frame on.
fn kick_suppressed(ctx: &Context) -> Result<()> {
    for features in flavours() {
        let mut device = NetDevice::start(&ctx.device, Setup::new(features))?;
        let few = |count| Plan {
            window: 8,
            ..Plan::new(ctx.seed, count, |_| 60)
        };
        traffic::receive(&mut device, few(1))?;
        for when in ["its first frame", "it was bound again"] {
            let before = device.rx.kicks;
            traffic::receive(&mut device, few(2000))
                .with_context(|| format!("features {features:#x} after {when}"))?;
            let kicks = device.rx.kicks - before;
            check(kicks == 0, || {
                format!("{kicks} kicks after {when}, features {features:#x}")
            })?;
            device.unbind(RX)?;
            device.bind(RX)?;
        }
    }
    Ok(())
}

/// One frame at a time: the flow would hang if a kick was not asked for or a call was not made.
fn lost_kick(ctx: &Context) -> Result<()> {
    no_lost_kick(ctx, &flavours())
}

pub(crate) fn no_lost_kick(ctx: &Context, features: &[u64]) -> Result<()> {
    for &features in features {
        let mut setup = Setup::new(features);
        setup.base = 64_000;
        let mut device = NetDevice::start(&ctx.device, setup)?;
        let plan = Plan {
            window: 1,
            ..Plan::new(ctx.seed, 3000, |_| 60)
        };
        traffic::transmit(&mut device, plan).with_context(|| format!("features {features:#x}"))?;
        let kicks = device.tx.kicks;
        check(kicks > 0 && kicks <= 3000, || {
            format!("{kicks} kicks for 3000 frames")
        })?;
    }
    Ok(())
}

fn lost_call(ctx: &Context) -> Result<()> {
    no_lost_call(ctx, &flavours())
}

pub(crate) fn no_lost_call(ctx: &Context, features: &[u64]) -> Result<()> {
    for &features in features {
        let mut setup = Setup::new(features);
        setup.base = 64_000;
        // Only two buffers, so that the worker runs out of them and has to be kicked again and
        // again.
        setup.rx_buffers = (2, 256);
        let mut device = NetDevice::start(&ctx.device, setup)?;
        let plan = Plan {
            window: 3,
            ..Plan::new(ctx.seed, 3000, |_| 60)
        };
        traffic::receive(&mut device, plan).with_context(|| format!("features {features:#x}"))?;
    }
    Ok(())
}

fn on_empty(ctx: &Context) -> Result<()> {
    let features = feature::VERSION_1 | feature::NOTIFY_ON_EMPTY;
    for features in [features, features | feature::EVENT_IDX] {
        let mut device = NetDevice::start(&ctx.device, Setup::new(features))?;
        post(&mut device, ctx.seed, 1)?;
        settle(&mut device, 1)?;
        let first = Deadline::patient().readable(&[&device.tx.call])?;
        check(first, || "no call for the first frame".into())?;
        device.tx.ring.disarm_call();
        for round in 0..50 {
            device.tx.call.take()?;
            post(&mut device, ctx.seed + round, 5)?;
            let came = Deadline::patient().readable(&[&device.tx.call])?;
            check(came, || {
                format!("round {round}: no call though the ring ran empty")
            })?;
            settle(&mut device, 5)?;
        }
    }
    Ok(())
}

/// A queue without a call descriptor works for a driver that polls.
fn no_call_fd(ctx: &Context) -> Result<()> {
    for features in flavours() {
        let mut device = NetDevice::start(&ctx.device, Setup::new(features))?;
        device.vhost.set_call(TX, -1)?;
        device.vhost.set_err(TX, -1)?;
        for round in 0..50 {
            post(&mut device, ctx.seed + round, 3)?;
            settle(&mut device, 3)?;
        }
        let made = calls(&device)?;
        check(made == 0, || {
            format!("{made} calls on a descriptor that was taken away")
        })?;
    }
    Ok(())
}
