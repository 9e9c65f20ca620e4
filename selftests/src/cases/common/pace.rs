// SPDX-License-Identifier: GPL-2.0

//! How many packets a queue moves at a time, counted and not timed: a queue that lacks memory sends
//! long frames one by one.

use crate::cases::common::counts::Counts;
use crate::cases::common::{Context, Kind, check, frames};
use crate::driver::device::NetDevice;
use crate::driver::vhost::{RX, TX};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};

/// Frames of a burst.
const BURST: u64 = 12;
/// Their length to the guest, and from it: such a frame does not fit a page.
const LENGTHS: (usize, usize) = (200, 9000);
/// Batches that a burst may take more at one time than at another: counts of the round before it.
const SLACK: u64 = 3;

/// Batches of used buffers that a burst takes in each direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace([u64; 2]);

impl Pace {
    /// Measures a burst in each direction of a device that is at rest. C does not count.
    pub(crate) fn of(ctx: &Context, device: &mut NetDevice) -> Result<Option<Self>> {
        if ctx.kind == Kind::C {
            return Ok(None);
        }
        let received = to_guest(ctx, device).context("a burst to the guest")?;
        let sent = from_guest(ctx, device).context("a burst from the guest")?;
        Ok(Some(Self([received, sent])))
    }
}

/// Fails unless the device is as fast as it was `before`.
pub(crate) fn expect_back(
    ctx: &Context,
    device: &mut NetDevice,
    before: Option<Pace>,
) -> Result<()> {
    let (Some(Pace(before)), Some(Pace(now))) = (before, Pace::of(ctx, device)?) else {
        return Ok(());
    };
    let mut pairs = before.iter().zip(&now);
    check(pairs.all(|(before, now)| *now <= before + SLACK), || {
        format!("{BURST} frames each way took {before:?} batches, and take {now:?} now")
    })
}

fn to_guest(ctx: &Context, device: &mut NetDevice) -> Result<u64> {
    let mut bytes = Vec::new();
    let mut got = Vec::new();
    // The frames of the burst wait for buffers, so that they are all there when it begins.
    while device.rx.ring.pending() > 0 {
        device
            .peer
            .send(NetHeader::default(), &frame::unseen(ctx.seed, LENGTHS.0))?;
        Deadline::patient().until("a frame", || Ok(device.rx_take(&mut got)?.is_some()))?;
    }
    for sequence in 0..BURST {
        frame::build(ctx.seed, sequence, LENGTHS.0, &mut bytes);
        device.peer.send(NetHeader::default(), &bytes)?;
    }
    let before = Counts::of(device, RX)?;
    device.rx_fill()?;
    device.rx.flush()?;
    for sequence in 0..BURST {
        frame::build(ctx.seed, sequence, LENGTHS.0, &mut bytes);
        Deadline::patient().until("a frame", || Ok(device.rx_take(&mut got)?.is_some()))?;
        frame::expect("received", sequence, &bytes, &got)?;
    }
    Ok(Counts::of(device, RX)?.since(before).batches)
}

fn from_guest(ctx: &Context, device: &mut NetDevice) -> Result<u64> {
    let mut bytes = Vec::new();
    let mut got = Vec::new();
    let before = Counts::of(device, TX)?;
    frames::send_all(ctx, device, 0..BURST, |_| LENGTHS.1)?;
    for sequence in 0..BURST {
        frame::build(ctx.seed, sequence, LENGTHS.1, &mut bytes);
        Deadline::patient().until("a frame", || Ok(device.peer.receive(&mut got)?.is_some()))?;
        frame::expect("transmitted", sequence, &bytes, &got)?;
    }
    Ok(Counts::of(device, TX)?.since(before).batches)
}
