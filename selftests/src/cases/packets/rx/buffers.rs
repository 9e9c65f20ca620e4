// SPDX-License-Identifier: GPL-2.0

//! Receive buffers that are small, few, or too short.

use crate::cases::common::{Case, Context, check, frames, ring_case};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::ring::Segment;
use crate::driver::traffic::{self, Flow, Plan, RxFlow};
use crate::driver::uapi::feature;
use crate::host::procfs;
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::time::{Duration, Instant};

pub(crate) const CASES: &[Case] = &[
    ring_case("rx.mergeable", 60, mergeable),
    ring_case("rx.byte_buffers", 60, byte_buffers),
    ring_case("rx.too_long", 60, too_long),
    ring_case("rx.too_many", 60, too_many),
    ring_case("rx.bursts", 120, bursts),
    ring_case("rx.one_short", 90, one_short),
    ring_case("rx.before_buffers", 60, before_buffers),
    ring_case("rx.unwoken", 60, unwoken),
];

const MERGE: u64 = feature::VERSION_1 | feature::MRG_RXBUF;

/// Frames over many buffers; the flow checks how many the header announces.
fn mergeable(ctx: &Context) -> Result<()> {
    for (len, features) in [
        (128, MERGE),
        (100, feature::MRG_RXBUF),
        (1500, MERGE | feature::EVENT_IDX),
    ] {
        let mut setup = Setup::new(features);
        setup.rx_buffers = (256, len);
        let mut device = NetDevice::start(&ctx.device, setup)?;
        let size = |n: u64| [60, 14, 88, 89, 116, 117, 1500, 9000, 16384, 20000][(n % 10) as usize];
        traffic::receive(&mut device, Plan::new(ctx.seed, 200, size))
            .with_context(|| format!("buffers of {len} bytes"))?;
    }
    Ok(())
}

/// Many short frames, then one that takes more buffers than a batch has room for.
fn byte_buffers(ctx: &Context) -> Result<()> {
    let mut setup = Setup::new(MERGE);
    setup.rx_size = 1024;
    setup.rx_buffers = (1024, 1);
    let mut device = NetDevice::start(&ctx.device, setup)?;
    let size = |n: u64| if n % 9 == 8 { 900 } else { 14 };
    traffic::receive(&mut device, Plan::new(ctx.seed, 180, size))
}

/// Without mergeable buffers, a frame that does not fit is dropped and uses no buffer.
fn too_long(ctx: &Context) -> Result<()> {
    drops_too_long(ctx, &[feature::VERSION_1, 0])
}

pub(crate) fn drops_too_long(ctx: &Context, features: &[u64]) -> Result<()> {
    for &features in features {
        let mut setup = Setup::new(features);
        setup.rx_buffers = (8, 256);
        let mut device = NetDevice::start(&ctx.device, setup)?;
        let (mut bytes, mut got) = (Vec::new(), Vec::new());
        device.rx_fill()?;
        device.rx.flush()?;
        let pending = device.rx.ring.pending();
        for round in 0..100 {
            for long in [257, 1500, 9000] {
                frame::build(ctx.seed ^ 1, round, long, &mut bytes);
                device.peer.send(NetHeader::default(), &bytes)?;
            }
            let fits = 256 - device.setup.header();
            frame::build(ctx.seed, round, fits, &mut bytes);
            device.peer.send(NetHeader::default(), &bytes)?;
            Deadline::patient().until("the frame that fits", || {
                Ok(device.rx_take(&mut got)?.is_some())
            })?;
            frame::expect("received", round, &bytes, &got)?;
            check(device.rx.ring.pending() == pending - 1, || {
                "a buffer is gone".into()
            })?;
            device.rx_fill()?;
            device.rx.flush()?;
        }
    }
    Ok(())
}

/// A frame that needs more buffers than one frame may take is dropped and uses none.
fn too_many(ctx: &Context) -> Result<()> {
    let mut setup = Setup::new(MERGE);
    setup.rx_size = 2048;
    setup.rx_buffers = (1100, 60);
    let mut device = NetDevice::start(&ctx.device, setup)?;
    let (mut bytes, mut got) = (Vec::new(), Vec::new());
    for round in 0..20 {
        device.rx_fill()?;
        device.rx.flush()?;
        // All buffers together would hold it, but not 1024 of them.
        frame::build(ctx.seed ^ 1, round, 65_000, &mut bytes);
        device.peer.send(NetHeader::default(), &bytes)?;
        frame::build(ctx.seed, round, 1000, &mut bytes);
        device.peer.send(NetHeader::default(), &bytes)?;
        Deadline::patient().until("the frame that fits", || {
            Ok(device.rx_take(&mut got)?.is_some())
        })?;
        frame::expect("received", round, &bytes, &got)?;
    }
    let errors = device.rx.err.take()?;
    check(errors == 0, || format!("{errors} errors for a long frame"))
}

/// A burst of large frames arrives to its last one, though nothing wakes the device after it:
/// neither the guest, whose buffers suffice, nor more frames.
fn bursts(ctx: &Context) -> Result<()> {
    let mut setup = frames::roomy(feature::VERSION_1);
    setup.rx_buffers.0 = 40;
    setup.rx_size = 1024;
    let mut device = NetDevice::start(&ctx.device, setup)?;
    let mut rng = SmallRng::seed_from_u64(ctx.seed);
    let (mut bytes, mut got) = (Vec::new(), Vec::new());
    for round in 0..ctx.times(200) {
        device.rx_fill()?;
        device.rx.flush()?;
        procfs::idle()?;
        // A round of the device ends after nine of these.
        let count = rng.random_range(10..24);
        let pause = Duration::from_micros(rng.random_range(0..60));
        for sequence in 0..count {
            frame::build(ctx.seed, sequence, 65_000, &mut bytes);
            device.peer.send(NetHeader::default(), &bytes)?;
            let sent = Instant::now();
            while sent.elapsed() < pause {
                std::hint::spin_loop();
            }
        }
        for sequence in 0..count {
            Deadline::patient()
                .until("the frame", || Ok(device.rx_take(&mut got)?.is_some()))
                .with_context(|| format!("frame {sequence} of {count}, burst {round}"))?;
            frame::build(ctx.seed, sequence, 65_000, &mut bytes);
            frame::expect("received", sequence, &bytes, &got)?;
        }
    }
    Ok(())
}

/// A frame that lacks one buffer waits without using the processor, and goes on with it.
fn one_short(ctx: &Context) -> Result<()> {
    waits_for_buffer(ctx, &[MERGE, MERGE | feature::EVENT_IDX])
}

pub(crate) fn waits_for_buffer(ctx: &Context, features: &[u64]) -> Result<()> {
    for &features in features {
        let mut setup = Setup::new(features);
        setup.rx_buffers = (64, 128);
        let mut device = NetDevice::start(&ctx.device, setup)?;
        let (mut bytes, mut got) = (Vec::new(), Vec::new());
        for round in 0..12 {
            let need = 1 + round as usize * 3;
            let len = need * 128 - 12 - round as usize;
            for _ in 1..need {
                check(device.rx_post()?, || "no room for buffers".into())?;
            }
            device.rx.flush()?;
            frame::build(ctx.seed, round, len, &mut bytes);
            device.peer.send(NetHeader::default(), &bytes)?;
            procfs::idle().with_context(|| format!("{need} buffers needed"))?;
            check(device.rx_take(&mut got)?.is_none(), || {
                "a frame without room".into()
            })?;
            device.rx_post()?;
            let wanted = device.rx.flush()?;
            check(wanted, || "the device sleeps and wants no kick".into())?;
            Deadline::patient().until("the frame", || Ok(device.rx_take(&mut got)?.is_some()))?;
            frame::expect("received", round, &bytes, &got)?;
            check(device.rx.ring.pending() == 0, || "a buffer was left".into())?;
        }
    }
    Ok(())
}

/// Frames that wait in the tap are delivered once there are buffers.
fn before_buffers(ctx: &Context) -> Result<()> {
    let setup = Setup::new(feature::VERSION_1);
    let mut device = NetDevice::prepare(&ctx.device, setup, "tap0", false)?;
    let plan = Plan::new(ctx.seed, 100, |_| 100);
    let mut bytes = Vec::new();
    // Some before the backend is bound, some before there are buffers.
    let mut flow = RxFlow::new(plan);
    for sequence in 0..50 {
        frame::build(ctx.seed, sequence, 100, &mut bytes);
        device.peer.send(NetHeader::default(), &bytes)?;
    }
    device.bind(crate::driver::vhost::RX)?;
    for sequence in 50..100 {
        frame::build(ctx.seed, sequence, 100, &mut bytes);
        device.peer.send(NetHeader::default(), &bytes)?;
    }
    procfs::idle()?;
    flow.sent = 100;
    let flows: &mut [&mut dyn Flow] = &mut [&mut flow];
    traffic::run(&mut device, flows)
}

/// Packets that the guest has no use for do not wake the worker, whether buffers are missing or the
/// ring is broken.
fn unwoken(ctx: &Context) -> Result<()> {
    for broken in [false, true] {
        let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
        if broken {
            let nowhere = Segment {
                addr: 1 << 40,
                len: 2000,
                writable: true,
            };
            device.rx.ring.add(&[nowhere], None, 0)?;
            device.rx.flush()?;
        }
        let mut bytes = Vec::new();
        let mut send = |device: &mut NetDevice, count| -> Result<()> {
            for sequence in 0..count {
                frame::build(ctx.seed, sequence, 100, &mut bytes);
                device.peer.send(NetHeader::default(), &bytes)?;
            }
            procfs::idle()
        };
        // The first tells the worker that it has to wait for the guest.
        send(&mut device, 1)?;
        let worker = procfs::workers()?.pop().context("no worker")?;
        device.rx.err.take()?;
        let before = procfs::schedule(worker.tid)?.slices;
        send(&mut device, 200)?;
        let after = procfs::schedule(worker.tid)?.slices;
        check(before == after, || {
            format!("woken {} times (broken: {broken})", after - before)
        })?;
        check(device.rx.err.take()? == 0, || {
            "the error descriptor was signalled by packets".into()
        })?;
    }
    Ok(())
}
