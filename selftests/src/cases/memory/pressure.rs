// SPDX-License-Identifier: GPL-2.0

//! Traffic of all kinds while the host is short of memory.

use crate::cases::common::pace::{Pace, expect_back};
use crate::cases::common::{Case, Context, accounting, case, frames};
use crate::driver::device::NetDevice;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::host::fragments::Fragments;
use crate::host::tap::Tap;
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[case("pressure.fragmented", 240, fragmented)];

/// Frames of each exchange, in each direction.
const FRAMES: u64 = 220;
/// What the driver itself may have taken meanwhile, in bytes.
const SLACK: u64 = 4 << 20;

/// Exchanges frames of all sizes on each device.
fn exchange(devices: &mut [NetDevice], seed: u64) -> Result<()> {
    for (device, features) in devices.iter_mut().zip(frames::FEATURES) {
        let plan = Plan::new(seed, FRAMES, frames::all_sizes);
        traffic::exchange(device, plan).with_context(|| format!("features {features:#x}"))?;
    }
    Ok(())
}

/// All frames arrive in both directions while no two free pages lie together, and after that; and
/// then the queues have kept nothing.
fn fragmented(ctx: &Context) -> Result<()> {
    let group = accounting::group("rnet-fragmented")?;
    group.enter()?;
    let mut devices = Vec::new();
    for (number, features) in frames::FEATURES.into_iter().enumerate() {
        let setup = frames::roomy(feature::VERSION_1 | features);
        let tap = Tap::new(&format!("tap{number}"), setup.tap())?;
        let peer = setup.peer(tap.if_index())?;
        let device = NetDevice::on(&ctx.device, setup, tap, peer)?;
        device.bind(RX)?;
        device.bind(TX)?;
        devices.push(device);
    }
    exchange(&mut devices, ctx.seed)?;
    // With the guests' memory, and without what the queues give back when they end.
    for device in &devices {
        device.unbind(TX)?;
    }
    let before = accounting::current(&group)?;
    for device in &devices {
        device.bind(TX)?;
    }
    let paces = devices
        .iter_mut()
        .map(|device| Pace::of(ctx, device))
        .collect::<Result<Vec<_>>>()?;
    let fragments = Fragments::new()?;
    exchange(&mut devices, ctx.seed + 1).context("with memory in pieces")?;
    drop(fragments);
    exchange(&mut devices, ctx.seed + 2).context("with memory free again")?;
    for (device, pace) in devices.iter_mut().zip(paces) {
        expect_back(ctx, device, pace)?;
    }
    accounting::returns(&group, before, SLACK)?;
    drop(devices);
    group.leave()?;
    group.remove()
}
