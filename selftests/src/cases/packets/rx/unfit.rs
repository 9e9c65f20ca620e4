// SPDX-License-Identifier: GPL-2.0

//! Frames that need more mergeable buffers than the ring has at the moment, or than it can ever
//! have.

use crate::cases::common::{Case, Context, check, lets_c_off, ring_case};
use crate::driver::device::{NetDevice, Setup, Shape};
use crate::driver::traffic::{self, Plan, RxFlow};
use crate::driver::uapi::feature;
use crate::host::procfs;
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    ring_case("rx.never_fits", 90, never_fits),
    ring_case("rx.fits_later", 90, fits_later),
];

const MERGE: u64 = feature::VERSION_1 | feature::MRG_RXBUF;
/// The length of a buffer.
const LEN: usize = 2048;
/// A frame of more than eight buffers, but less than 32.
const LONG: usize = 40_000;

/// Ring features, with the layouts that buffers may have under them.
fn layouts() -> Vec<(u64, Shape)> {
    let mut all = Vec::new();
    for features in [
        0,
        feature::EVENT_IDX,
        feature::IN_ORDER | feature::EVENT_IDX,
    ] {
        for (more, piece) in [(0, LEN), (0, LEN / 2), (feature::INDIRECT, LEN / 2)] {
            let shape = Shape {
                piece,
                indirect: more != 0,
                ..Shape::WHOLE
            };
            all.push((MERGE | features | more, shape));
        }
    }
    all
}

/// A ring of so many descriptors, with buffers for all of them.
fn start(ctx: &Context, (features, shape): (u64, Shape), size: u16) -> Result<NetDevice> {
    let mut setup = Setup::new(features);
    setup.rx_size = size;
    setup.rx_buffers = (size.into(), LEN);
    setup.rx_shape = shape;
    NetDevice::start(&ctx.device, setup)
}

fn send(ctx: &Context, device: &mut NetDevice, len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    frame::build(ctx.seed ^ 1, 0, len, &mut bytes);
    device.peer.send(NetHeader::default(), &bytes)?;
    Ok(bytes)
}

fn take(device: &mut NetDevice, expected: &[u8]) -> Result<()> {
    let mut got = Vec::new();
    Deadline::patient().until("a frame", || Ok(device.rx_take(&mut got)?.is_some()))?;
    frame::expect("received", 0, expected, &got)
}

/// All of the ring holds buffers, and a frame is longer than all of them: nothing that the guest
/// does can help, so it is dropped, and the next ones arrive. One that just fits arrives.
fn never_fits(ctx: &Context) -> Result<()> {
    for layout in layouts() {
        let (features, shape) = layout;
        let mut device = start(ctx, layout, 8)?;
        let mut small = RxFlow::new(Plan::new(ctx.seed, 0, |_| 200));
        small.way.refills = false;
        for round in 0..5 {
            device.rx_fill()?;
            device.rx.flush()?;
            procfs::idle()?;
            let room = device.rx.ring.pending() * LEN - device.setup.header();
            let what = || format!("features {features:#x}, {shape:?}, round {round}");
            if !lets_c_off(ctx)? {
                // C waits for buffers that there is no room for.
                for len in [LONG, room + 1] {
                    send(ctx, &mut device, len)?;
                }
            }
            small.extend(3);
            traffic::run(&mut device, &mut [&mut small]).with_context(what)?;
            device.rx_fill()?;
            device.rx.flush()?;
            let fits = send(ctx, &mut device, room)?;
            take(&mut device, &fits).with_context(what)?;
            check(device.rx.ring.pending() == 0, || "a buffer was left".into())?;
        }
        let errors = device.rx.err.take()?;
        check(errors == 0, || format!("{errors} errors for long frames"))?;
    }
    Ok(())
}

/// Part of the ring holds buffers, too few for a frame: it waits, and arrives with more of them.
fn fits_later(ctx: &Context) -> Result<()> {
    for layout in layouts() {
        let (features, shape) = layout;
        let mut device = start(ctx, layout, 64)?;
        for round in 0..6 {
            for _ in 0..8 {
                check(device.rx_post()?, || "no room for buffers".into())?;
            }
            device.rx.flush()?;
            let long = send(ctx, &mut device, LONG)?;
            let short = send(ctx, &mut device, 200)?;
            // Nothing can be done: the worker rests.
            procfs::idle()?;
            let mut got = Vec::new();
            check(device.rx_take(&mut got)?.is_none(), || {
                "a frame without room".into()
            })?;
            // One by one, or all at once; the last is for the short one.
            for _ in 8..LONG.div_ceil(LEN) + 1 {
                check(device.rx_post()?, || "no room for buffers".into())?;
                if round % 2 == 0 {
                    device.rx.flush()?;
                }
            }
            device.rx.flush()?;
            let mut result = take(&mut device, &long);
            result = result.and_then(|()| take(&mut device, &short));
            result.with_context(|| format!("features {features:#x}, {shape:?}, round {round}"))?;
        }
    }
    Ok(())
}
