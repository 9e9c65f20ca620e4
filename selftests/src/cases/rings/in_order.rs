// SPDX-License-Identifier: GPL-2.0

//! `VIRTIO_F_IN_ORDER`: chains laid out in ring order, and used elements, or used descriptors, that
//! stand for groups.
//!
//! The driver's half of the ring checks in every case that each of them names the last chain of its
//! group, and that the next one is where the group ends.

use super::base;
use crate::cases::common::{Case, Context, Kind, Skip, check, frames, lets_c_off, live, ring_case};
use crate::cases::packets::rx::buffers;
use crate::cases::rings::events;
use crate::driver::device::{NetDevice, Setup, Shape};
use crate::driver::queue::Queue;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result, bail};

pub(crate) const CASES: &[Case] = &[
    ring_case("in_order.tx", 60, tx),
    ring_case("in_order.rx", 60, rx),
    ring_case("in_order.small_rings", 60, small_rings),
    ring_case("in_order.any_start", 60, any_start),
    ring_case("in_order.groups", 60, groups),
    ring_case("in_order.spanning_buffers", 60, spanning),
    ring_case("in_order.tx_wrap", 60, tx_wrap),
    ring_case("in_order.rx_wrap", 60, rx_wrap),
    ring_case("in_order.send_buffer", 60, send_buffer),
    ring_case("in_order.rebind", 60, rebind),
    ring_case("in_order.one_short", 90, one_short),
    ring_case("in_order.too_long", 60, too_long),
    ring_case("in_order.call_suppressed", 60, call_suppressed),
    ring_case("in_order.call_after", 60, call_after),
    ring_case("in_order.call_within_group", 60, call_within_group),
    ring_case("in_order.no_lost_kick", 90, no_lost_kick),
    ring_case("in_order.no_lost_call", 90, no_lost_call),
];

const PLAIN: u64 = feature::VERSION_1 | feature::IN_ORDER;
const EVENTS: u64 = PLAIN | feature::EVENT_IDX;
const MERGE: u64 = PLAIN | feature::MRG_RXBUF;

/// Fails if the device lacks the feature; C has not always had it.
fn offered(ctx: &Context) -> Result<()> {
    if ctx.open()?.features()? & feature::IN_ORDER != 0 {
        return Ok(());
    }
    if ctx.kind == Kind::C {
        bail!(Skip("this kernel's vhost-net has no IN_ORDER".into()));
    }
    bail!("IN_ORDER is not offered")
}

/// Every set of features that changes how a ring or a frame looks, in order.
fn matrix() -> impl Iterator<Item = u64> {
    (0..8).map(|bits| {
        let bit = |number: u64, mask| if bits >> number & 1 == 0 { 0 } else { mask };
        PLAIN | bit(0, feature::EVENT_IDX) | bit(1, feature::INDIRECT) | bit(2, feature::MRG_RXBUF)
    })
}

fn integrity(ctx: &Context, go: fn(&mut NetDevice, Plan) -> Result<()>) -> Result<()> {
    offered(ctx)?;
    for (round, features) in (0..).zip(matrix()) {
        let mut device = NetDevice::start(&ctx.device, frames::roomy(features))?;
        let plan = Plan::new(ctx.seed + round, 220, frames::all_sizes);
        go(&mut device, plan).with_context(|| format!("features {features:#x}"))?;
    }
    Ok(())
}

fn tx(ctx: &Context) -> Result<()> {
    integrity(ctx, traffic::transmit)
}

fn rx(ctx: &Context) -> Result<()> {
    integrity(ctx, traffic::receive)
}

/// Rings that are always full, and chains that wrap around the end of the descriptor table.
fn small_rings(ctx: &Context) -> Result<()> {
    offered(ctx)?;
    for bits in 2..=6 {
        for pieces in [1, 2, 3] {
            let size = 1u16 << bits;
            let mut setup = Setup::new(if bits % 2 == 0 { PLAIN } else { EVENTS });
            setup.tx_size = size;
            setup.rx_size = size;
            setup.tx_buffers = (usize::from(size), 192);
            setup.rx_buffers = (usize::from(size), 192);
            setup.tx_shape.piece = 192 / pieces;
            setup.rx_shape.piece = 192 / pieces;
            let mut device = NetDevice::start(&ctx.device, setup)?;
            // Frames of different lengths, so that transmitted chains have one to `pieces`
            // descriptors.
            let plan = Plan::new(ctx.seed + bits, 300, |n| 14 + (n * 7 % 160) as usize);
            traffic::exchange(&mut device, plan)
                .with_context(|| format!("rings of {size}, chains of {pieces}"))?;
        }
    }
    Ok(())
}

fn any_start(ctx: &Context) -> Result<()> {
    offered(ctx)?;
    for base in [1, 255, 32768, 65280, 65534, 65535] {
        for features in [PLAIN, EVENTS, MERGE] {
            let mut setup = Setup::new(features);
            setup.base = base;
            setup.rx_buffers = (256, 64);
            if features & feature::MRG_RXBUF == 0 {
                setup.rx_buffers = (256, 128);
            }
            base::start_at(ctx, setup)?;
        }
    }
    Ok(())
}

/// Waits until `count` chains of a queue are used, and fails unless the device said so at once.
fn used_together(queue: &Queue, count: usize) -> Result<()> {
    Deadline::patient().until("the frames", || Ok(queue.ring.ready() == count))?;
    let entries = queue.ring.used_entries();
    check(entries == 1, || {
        format!("{entries} used entries for {count} chains")
    })
}

/// Frames sent together come back as one element or descriptor, where that of the first would be;
/// taking them back shows that it names the last.
fn groups(ctx: &Context) -> Result<()> {
    offered(ctx)?;
    for base in [0, 65530] {
        let mut setup = Setup::new(PLAIN);
        setup.base = base;
        let mut device = NetDevice::start(&ctx.device, setup)?;
        for count in [1, 2, 20, 64] {
            events::post(&mut device, ctx.seed, count)?;
            let count = usize::try_from(count)?;
            used_together(&device.tx, count).with_context(|| format!("base {base}"))?;
            events::settle(&mut device, count)?;
        }
    }
    Ok(())
}

/// The buffers of a received frame come back as one element with the length of the last.
fn spanning(ctx: &Context) -> Result<()> {
    offered(ctx)?;
    for features in [MERGE, MERGE | feature::EVENT_IDX, MERGE | feature::INDIRECT] {
        let indirect = features & feature::INDIRECT != 0;
        let mut setup = Setup::new(features);
        setup.rx_buffers = (256, 128);
        setup.rx_shape = Shape {
            own_header: indirect,
            indirect,
            ..Shape::WHOLE
        };
        let mut device = NetDevice::start(&ctx.device, setup)?;
        let (mut bytes, mut got) = (Vec::new(), Vec::new());
        for round in 0..200 {
            device.rx_fill()?;
            device.rx.flush()?;
            let chains = 1 + (round % 23) as u16;
            let len = usize::from(chains) * 128 - 12 - (round % 60) as usize;
            frame::build(ctx.seed, round, len, &mut bytes);
            device.peer.send(NetHeader::default(), &bytes)?;
            used_together(&device.rx, chains.into()).with_context(|| format!("round {round}"))?;
            let header = device.rx_take(&mut got)?.context("a frame")?;
            check(header.num_buffers == chains, || {
                format!("round {round}: {} buffers announced", header.num_buffers)
            })?;
            frame::expect("received", round, &bytes, &got)?;
        }
        let sizes = |n: u64| [60, 14, 116, 117, 1500, 9000, 16384, 20000][(n % 8) as usize];
        traffic::receive(&mut device, Plan::new(ctx.seed, 400, sizes))
            .with_context(|| format!("features {features:#x}"))?;
    }
    Ok(())
}

/// More frames than a 16-bit index counts.
fn wrap(
    ctx: &Context,
    features: u64,
    rx_buffer: usize,
    go: fn(&mut NetDevice, Plan) -> Result<()>,
) -> Result<()> {
    offered(ctx)?;
    let mut setup = Setup::new(features);
    setup.tx_buffers = (256, 128);
    setup.rx_buffers = (256, rx_buffer);
    let mut device = NetDevice::start(&ctx.device, setup)?;
    let plan = Plan {
        window: 120,
        ..Plan::new(ctx.seed, 66_000, |_| 60)
    };
    go(&mut device, plan)
}

fn tx_wrap(ctx: &Context) -> Result<()> {
    wrap(ctx, PLAIN, 128, traffic::transmit)
}

/// Two buffers for each frame.
fn rx_wrap(ctx: &Context) -> Result<()> {
    wrap(ctx, MERGE | feature::EVENT_IDX, 64, traffic::receive)
}

/// With a limit on frames in flight each is sent by itself, and may have to wait.
fn send_buffer(ctx: &Context) -> Result<()> {
    offered(ctx)?;
    for bytes in [1 << 20, 100_000] {
        let mut device = NetDevice::start(&ctx.device, frames::roomy(EVENTS))?;
        device.tap.set_send_buffer(bytes)?;
        traffic::exchange(&mut device, Plan::new(ctx.seed, 330, frames::all_sizes))
            .with_context(|| format!("a send buffer of {bytes}"))?;
    }
    Ok(())
}

/// Stop and start of single queues; the next chain is the one after the last used.
fn rebind(ctx: &Context) -> Result<()> {
    offered(ctx)?;
    let own_header = Shape {
        own_header: true,
        ..Shape::WHOLE
    };
    for (features, shape) in [
        (PLAIN, Shape::WHOLE),
        (EVENTS | feature::MRG_RXBUF, Shape::WHOLE),
        (EVENTS, own_header),
    ] {
        let mut setup = Setup::new(features);
        setup.tx_shape = shape;
        setup.rx_shape = shape;
        if features & feature::MRG_RXBUF != 0 {
            setup.rx_buffers = (256, 300);
        }
        // C takes the base for the index of the next descriptor as well, which is wrong once a
        // chain has had more than one descriptor.
        let restart = !shape.own_header || !lets_c_off(ctx)?;
        let mut device = NetDevice::start(&ctx.device, setup)?;
        live::under_traffic(ctx, &mut device, 60, |device, number| {
            let queue = if number % 3 == 0 { RX } else { TX };
            live::stop_and_start(device, queue, number % 2 == 0 && restart)
        })
        .with_context(|| format!("features {features:#x}, {shape:?}"))?;
    }
    Ok(())
}

fn one_short(ctx: &Context) -> Result<()> {
    offered(ctx)?;
    buffers::waits_for_buffer(ctx, &[MERGE, MERGE | feature::EVENT_IDX])
}

fn too_long(ctx: &Context) -> Result<()> {
    offered(ctx)?;
    buffers::drops_too_long(ctx, &[PLAIN, EVENTS])
}

fn call_suppressed(ctx: &Context) -> Result<()> {
    offered(ctx)?;
    events::calls_suppressed(ctx, &[PLAIN, EVENTS])
}

fn call_after(ctx: &Context) -> Result<()> {
    offered(ctx)?;
    events::call_after(ctx, EVENTS)
}

/// A call is made even if the used index steps over the event index within one batch.
fn call_within_group(ctx: &Context) -> Result<()> {
    offered(ctx)?;
    for base in [0, 65500] {
        let mut setup = Setup::new(EVENTS);
        setup.base = base;
        let mut device = NetDevice::start(&ctx.device, setup)?;
        events::post(&mut device, ctx.seed, 1)?;
        events::settle(&mut device, 1)?;
        let first = Deadline::patient().readable(&[&device.tx.call])?;
        check(first, || "no call for the first frame".into())?;
        for wanted in 1..=20u16 {
            device.tx.call.take()?;
            let early = device.tx.ring.arm_call(wanted);
            check(!early, || "used buffers nobody posted".into())?;
            events::post(&mut device, ctx.seed, 20)?;
            let came = Deadline::patient().readable(&[&device.tx.call])?;
            check(came, || {
                format!("base {base}: no call for {wanted} of 20 buffers")
            })?;
            events::settle(&mut device, 20)?;
            device.tx.call.take()?;
            // One more than the batch has: no call before the next one.
            let early = device.tx.ring.arm_call(wanted + 1);
            check(!early, || "used buffers nobody posted".into())?;
            events::post(&mut device, ctx.seed, u64::from(wanted))?;
            events::settle(&mut device, usize::from(wanted))?;
            let made = device.tx.call.take()?;
            check(made == 0, || {
                format!("base {base}: a call for {wanted} buffers, one early")
            })?;
            events::post(&mut device, ctx.seed, 1)?;
            let came = Deadline::patient().readable(&[&device.tx.call])?;
            check(came, || format!("base {base}: no call after {wanted} + 1"))?;
            events::settle(&mut device, 1)?;
        }
    }
    Ok(())
}

fn no_lost_kick(ctx: &Context) -> Result<()> {
    offered(ctx)?;
    events::no_lost_kick(ctx, &[PLAIN, EVENTS])
}

fn no_lost_call(ctx: &Context) -> Result<()> {
    offered(ctx)?;
    events::no_lost_call(ctx, &[PLAIN, EVENTS])
}
