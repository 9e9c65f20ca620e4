// SPDX-License-Identifier: GPL-2.0

//! Memory for long frames: whose it is, and what becomes of it.

use crate::cases::common::accounting::{current, group, returns};
use crate::cases::common::{Case, Context, Kind, accepts, case, check};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::eventfd::EventFd;
use crate::host::tap::Tap;
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::sys::process::Forked;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    case("frames.charged", 120, charged),
    case("frames.limit", 120, limit),
    case("frames.given_back", 180, given_back),
];

/// Devices of one owner.
const DEVICES: usize = 16;

/// Frames that each sends at once.
const BURST: u64 = 64;

/// Length of each frame in bytes.
const LEN: usize = 60_000;

/// What the owner itself may have taken meanwhile, in bytes.
const SLACK: u64 = 4 << 20;

fn setup() -> Setup {
    let mut setup = Setup::new(feature::VERSION_1);
    setup.tx_buffers = (64, LEN + 12);
    setup
}

fn devices(ctx: &Context) -> Result<Vec<NetDevice>> {
    (0..DEVICES)
        .map(|number| {
            let setup = setup();
            let tap = Tap::new(&format!("tap{number}"), setup.tap())?;
            let peer = setup.peer(tap.if_index())?;
            let device = NetDevice::on(&ctx.device, setup, tap, peer)?;
            device.bind(RX)?;
            device.bind(TX)?;
            Ok(device)
        })
        .collect()
}

/// Posts frames for each device, and kicks.
fn post(ctx: &Context, devices: &mut [NetDevice]) -> Result<()> {
    let mut bytes = Vec::new();
    for sequence in 0..BURST {
        frame::build(ctx.seed, sequence, LEN, &mut bytes);
        for device in &mut *devices {
            check(device.tx_post(NetHeader::default(), &bytes)?, || {
                "no room".into()
            })?;
        }
    }
    for device in devices {
        device.tx.flush()?;
    }
    Ok(())
}

/// Sends frames, which the peers leave where they are.
fn burst(ctx: &Context, devices: &mut [NetDevice]) -> Result<()> {
    post(ctx, devices)?;
    Deadline::patient().until("the buffers to come back", || {
        let mut pending = 0;
        for device in &mut *devices {
            device.tx_reap()?;
            pending += device.tx.ring.pending();
        }
        Ok(pending == 0)
    })
}

/// Takes the frames from the peers.
fn take(ctx: &Context, devices: &mut [NetDevice]) -> Result<()> {
    let (mut bytes, mut got) = (Vec::new(), Vec::new());
    for sequence in 0..BURST {
        frame::build(ctx.seed, sequence, LEN, &mut bytes);
        for device in &mut *devices {
            Deadline::patient()
                .until("a frame", || Ok(device.peer.receive(&mut got)?.is_some()))?;
            frame::expect("transmitted", sequence, &bytes, &got)?;
        }
    }
    Ok(())
}

/// Frames that the guest has sent are charged to the owner's group until they have been received,
/// even if the queue is unbound before; then all of the memory is uncharged.
fn charged(ctx: &Context) -> Result<()> {
    let group = group("rnet-charged")?;
    group.enter()?;
    let mut devices = devices(ctx)?;
    for _ in 0..3 {
        let before = current(&group)?;
        burst(ctx, &mut devices)?;
        let all = BURST * (DEVICES * LEN) as u64;
        let used = current(&group)?.saturating_sub(before);
        // vhost-net's frames are allocated by the tap, which charges them to no group.
        check(ctx.kind == Kind::C || used >= all, || {
            format!("{used} bytes are charged for {all}")
        })?;
        for device in &devices {
            device.unbind(TX)?;
        }
        take(ctx, &mut devices)?;
        returns(&group, before, SLACK)?;
        for device in &devices {
            device.bind(TX)?;
        }
    }
    drop(devices);
    group.leave()?;
    group.remove()
}

/// An idle queue frees the pages that it keeps for its next frames, without a kick or a call.
///
/// What vhost-net keeps, some pages for each queue, is charged to nobody.
fn given_back(ctx: &Context) -> Result<()> {
    let group = group("rnet-given-back")?;
    group.enter()?;
    let mut devices = devices(ctx)?;
    let before = current(&group)?;
    for round in 0..3 {
        burst(ctx, &mut devices)?;
        take(ctx, &mut devices)?;
        returns(&group, before, SLACK).with_context(|| format!("round {round}"))?;
    }
    drop(devices);
    group.leave()?;
    group.remove()
}

/// An owner whose group has all the memory that it may have sends as before.
///
/// The owner is another process than the driver, which needs memory of its own.
fn limit(ctx: &Context) -> Result<()> {
    let group = group("rnet-limit")?;
    let mut device = NetDevice::start(&ctx.device, setup())?;
    let plan = Plan::new(ctx.seed, 600, |n| {
        [60_000, 60, 9000, 30_000, 1500][(n % 5) as usize]
    });
    accepts("RESET_OWNER", device.vhost.reset_owner())?;
    let ready = EventFd::new()?;
    group.enter()?;
    let owner = Forked::start(|| u8::from(own(&device, &ready).is_err()));
    group.leave()?;
    let owner = owner?;
    check(Deadline::patient().readable(&[&ready])?, || {
        "the owner is not ready".into()
    })?;
    // The owner has reached all of the buffers then: no page table is left to be allocated.
    traffic::transmit(&mut device, plan).context("without limit")?;
    let room = current(&group)? + (256 << 10);
    group.set("memory.max", &room.to_string())?;
    // More than there is room for, since nobody takes it meanwhile.
    post(ctx, std::slice::from_mut(&mut device))?;
    let count = |name: &str| -> Result<String> {
        let events = group.get("memory.events")?;
        let count = events.lines().find_map(|line| line.strip_prefix(name));
        count.map(str::to_owned).context("no such count")
    };
    // vhost-net's frames are allocated by the tap, which charges them to no group.
    if ctx.kind == Kind::Rnet {
        Deadline::patient().until("memory to be refused", || Ok(count("max ")? != "0"))?;
    }
    take(ctx, std::slice::from_mut(&mut device))?;
    traffic::transmit(&mut device, plan).context("at the limit")?;
    let kills = count("oom_kill ")?;
    check(kills == "0", || format!("{kills} processes killed"))?;
    group.set("memory.max", "max")?;
    traffic::transmit(&mut device, plan).context("without limit again")?;
    drop(device);
    drop(owner);
    group.remove()
}

/// Makes this process the owner of a device, until it is killed.
fn own(device: &NetDevice, ready: &EventFd) -> Result<()> {
    device.vhost.set_owner()?;
    device.configure()?;
    device.bind(TX)?;
    ready.signal()?;
    std::thread::sleep(Duration::MAX);
    Ok(())
}
