// SPDX-License-Identifier: GPL-2.0

//! Memory for long frames: whose it is, and what becomes of it.

use crate::cases::common::accounting::{current, group, returns};
use crate::cases::common::frames::{FEATURES, all_sizes, roomy, send_one, take_one};
use crate::cases::common::iommu::Behind;
use crate::cases::common::pace::{Pace, expect_back};
use crate::cases::common::workers::{KTHREAD, TASK, restart};
use crate::cases::common::{Case, Context, Kind, Skip, accepts, case, check, lets_c_off};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::iotlb::VERSION_2;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::eventfd::EventFd;
use crate::host::census;
use crate::host::cgroup::Group;
use crate::host::tap::Tap;
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::sys::process::Forked;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    case("frames.charged", 120, |ctx| charged(ctx, TASK)),
    case("frames.charged_kthread", 120, |ctx| charged(ctx, KTHREAD)),
    case("frames.limit", 900, limit),
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
/// even if the queue is unbound before; then all of the memory is uncharged. It is not much more
/// than the frames.
fn charged(ctx: &Context, workers: u8) -> Result<()> {
    let group = group("rnet-charged")?;
    group.enter()?;
    let mut devices = devices(ctx)?;
    if workers == KTHREAD {
        if ctx.kind == Kind::C && ctx.open()?.fork_from_owner().is_err() {
            return Err(Skip("this kernel does not offer the choice".into()).into());
        }
        for device in &devices {
            restart(device, KTHREAD)?;
        }
    }
    // From then on the guests' own memory is charged.
    burst(ctx, &mut devices)?;
    take(ctx, &mut devices)?;
    let unbind = |devices: &[NetDevice]| devices.iter().try_for_each(|device| device.unbind(TX));
    let bind = |devices: &[NetDevice]| devices.iter().try_for_each(|device| device.bind(TX));
    unbind(&devices)?;
    let before = current(&group)?;
    for _ in 0..3 {
        bind(&devices)?;
        burst(ctx, &mut devices)?;
        let all = BURST * (DEVICES * LEN) as u64;
        let used = current(&group)?.saturating_sub(before);
        println!("{used} bytes for {all}");
        // vhost-net's frames are allocated by the tap, which charges them to no group.
        let fair = all..=all + all / 2;
        check(lets_c_off(ctx)? || fair.contains(&used), || {
            format!("{used} bytes are charged for {all}")
        })?;
        unbind(&devices)?;
        take(ctx, &mut devices)?;
        returns(&group, before, SLACK)?;
    }
    drop(devices);
    group.leave()?;
    group.remove()
}

/// A queue without packets frees the pages that it keeps for its next frames, without a kick or a
/// call: if it has nothing to do, after a fault, and while it waits for a translation.
///
/// What vhost-net keeps, some pages for each queue, is charged to nobody.
fn given_back(ctx: &Context) -> Result<()> {
    let group = group("rnet-given-back")?;
    group.enter()?;
    let mut devices = devices(ctx)?;
    burst(ctx, &mut devices)?;
    take(ctx, &mut devices)?;
    for device in &devices {
        device.unbind(TX)?;
    }
    let before = current(&group)?;
    for device in &devices {
        device.bind(TX)?;
    }
    for stops in [false, false, true, true] {
        burst(ctx, &mut devices)?;
        take(ctx, &mut devices)?;
        if stops {
            devices.iter_mut().try_for_each(stop)?;
        }
        returns(&group, before, SLACK).with_context(|| format!("stops: {stops}"))?;
        if stops {
            for device in &mut devices {
                device.reset_queue(TX, 0)?;
            }
        }
    }
    drop(devices);
    unanswered(ctx, &group).context("without a translation")?;
    group.leave()?;
    group.remove()
}

/// Stops the transmit queue of a device with a chain that is no memory.
fn stop(device: &mut NetDevice) -> Result<()> {
    const NOWHERE: u64 = 0x9000_0000_0000;
    let slot = device.tx.pool.free.pop().context("no room")?;
    let header = device.setup.header();
    check(device.tx.chain(NOWHERE, header, 100, slot)?, || {
        "no room".into()
    })?;
    device.tx.flush()?;
    let told = Deadline::patient().readable(&[&device.tx.err])?;
    check(told, || "the queue did not stop".into())
}

/// As [`given_back`], of a queue whose owner does not answer its miss.
fn unanswered(ctx: &Context, group: &Group) -> Result<()> {
    /// Half of what the queue would keep.
    const HALF: u64 = 1 << 20;
    let behind = Behind::prepare(ctx, setup(), VERSION_2)?;
    behind.iommu.set_granule(4 << 20);
    behind.bind(RX)?;
    behind.bind(TX)?;
    behind.run(|device, iommu| {
        burst(ctx, std::slice::from_mut(device))?;
        take(ctx, std::slice::from_mut(device))?;
        device.unbind(TX)?;
        let before = current(group)?;
        iommu.bind(device, TX)?;
        for round in 0..3 {
            burst(ctx, std::slice::from_mut(device))?;
            take(ctx, std::slice::from_mut(device))?;
            iommu.hold();
            let (start, len) = device.tx.buffers();
            iommu.unmap(start, len as u64)?;
            send_one(ctx, device, TX, round)?;
            Deadline::patient().until("a miss", || Ok(!iommu.waiting().is_empty()))?;
            returns(group, before, HALF).with_context(|| format!("round {round}"))?;
            iommu.release()?;
            take_one(ctx, device, TX, round)?;
        }
        Ok(())
    })
}

/// An owner whose group has all the memory that it may have sends and receives as before, and keeps
/// nothing afterwards.
fn limit(ctx: &Context) -> Result<()> {
    let kept = census::expect_no_growth(|| {
        FEATURES.into_iter().try_fold(0, |sent, features| {
            let more = limit_with(ctx, features);
            more.map(|more| sent + more)
                .with_context(|| format!("features {features:#x}"))
        })
    })?;
    println!("{kept} KiB of memory gone");
    Ok(())
}

/// As [`limit`], once; returns the number of frames that were sent at the limit.
///
/// The owner is another process than the driver, which needs memory of its own.
fn limit_with(ctx: &Context, features: u64) -> Result<u64> {
    let group = group("rnet-limit")?;
    let mut setup = roomy(feature::VERSION_1 | features);
    // Together more than a queue keeps.
    (setup.tx_size, setup.tx_buffers) = (1024, (64, 1 << 16));
    let mut device = NetDevice::start(&ctx.device, setup)?;
    let plan = Plan::new(ctx.seed, 110, all_sizes);
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
    for _ in 0..2 {
        traffic::exchange(&mut device, plan).context("without limit")?;
    }
    let pace = Pace::of(ctx, &mut device)?;
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
    if !lets_c_off(ctx)? {
        Deadline::patient().until("memory to be refused", || Ok(count("max ")? != "0"))?;
    }
    take(ctx, std::slice::from_mut(&mut device))?;
    traffic::exchange(&mut device, plan).context("at the limit")?;
    let kills = count("oom_kill ")?;
    check(kills == "0", || format!("{kills} processes killed"))?;
    group.set("memory.max", "max")?;
    // A queue asks for memory again after 64 long frames.
    let long = Plan { count: 330, ..plan };
    traffic::exchange(&mut device, long).context("without limit again")?;
    expect_back(ctx, &mut device, pace)?;
    drop(device);
    drop(owner);
    group.remove()?;
    Ok(BURST + plan.count)
}

/// Makes this process the owner of a device, until it is killed.
fn own(device: &NetDevice, ready: &EventFd) -> Result<()> {
    device.vhost.set_owner()?;
    device.configure()?;
    device.bind(RX)?;
    device.bind(TX)?;
    ready.signal()?;
    std::thread::sleep(Duration::MAX);
    Ok(())
}
