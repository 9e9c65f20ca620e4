// SPDX-License-Identifier: GPL-2.0

//! Traffic both ways in the middle of which something changes.

use crate::cases::common::{Context, accepts, check, wake_c};
use crate::driver::device::NetDevice;
use crate::driver::setup::Setup;
use crate::driver::traffic::{self, Flow, Plan, RxFlow, TxFlow};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use anyhow::{Context as _, Result};

/// Frames between two changes.
const STEP: u64 = 40;

/// Runs both directions, with a `change` after each [`STEP`] frames, in the middle of traffic.
pub(crate) fn under_traffic(
    ctx: &Context,
    device: &mut NetDevice,
    changes: u64,
    mut change: impl FnMut(&mut NetDevice, u64) -> Result<()>,
) -> Result<()> {
    let plan = Plan {
        window: 100,
        ..Plan::new(ctx.seed, u64::MAX, |n| 60 + (n % 900) as usize)
    };
    let (mut tx, mut rx) = (TxFlow::new(plan), RxFlow::new(plan));
    for number in 0..changes {
        // Wait for one of the flows only, so that the change meets the other at an arbitrary point.
        let target = (number + 1) * STEP;
        loop {
            let moved = tx.pump(device)? | rx.pump(device)?;
            let seen = if number % 2 == 0 { tx.seen } else { rx.seen };
            if seen >= target {
                break;
            }
            let alive = moved || traffic::wait_activity(device, crate::wait::PATIENCE)?;
            check(alive, || {
                format!("{}; {}", tx.describe(device), rx.describe(device))
            })?;
        }
        change(device, number).with_context(|| format!("change {number}"))?;
    }
    tx.finish();
    rx.finish();
    traffic::run(device, &mut [&mut tx, &mut rx])
}

/// Moves frames until the peer has seen `count`, and leaves the others under way.
pub(crate) fn pump(
    device: &mut NetDevice,
    tx: &mut TxFlow,
    rx: &mut RxFlow,
    count: u64,
) -> Result<()> {
    while tx.seen < count {
        let moved = tx.pump(device)? | rx.pump(device)?;
        let alive = moved || traffic::wait_activity(device, crate::wait::PATIENCE)?;
        check(alive, || tx.describe(device))?;
    }
    tx.pump(device)?;
    Ok(())
}

/// Gives ownership up with frames under way, and takes it again: after `prepare`, which says how
/// the device is, and with `between` called while nobody owns it.
pub(crate) fn reset_owner(
    ctx: &Context,
    prepare: impl Fn(&NetDevice) -> Result<()>,
    between: impl Fn() -> Result<()>,
) -> Result<()> {
    let setup = Setup::new(feature::VERSION_1 | feature::EVENT_IDX);
    let mut device = NetDevice::start(&ctx.device, setup)?;
    for round in 0..20 {
        prepare(&device)?;
        let plan = Plan::new(ctx.seed + round, u64::MAX, |_| 200);
        let (mut tx, mut rx) = (TxFlow::new(plan), RxFlow::new(plan));
        pump(&mut device, &mut tx, &mut rx, 100)?;
        accepts("RESET_OWNER", device.vhost.reset_owner())?;
        between()?;
        accepts("SET_OWNER", device.vhost.set_owner())?;
        device.configure()?;
        // The rings have not changed: the device now uses the chains that it had not used before.
        device.bind(RX)?;
        device.bind(TX)?;
        tx.finish();
        rx.finish();
        traffic::run(&mut device, &mut [&mut tx, &mut rx])
            .with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// Stops a queue, compares its base with what the driver saw, and starts it, from the base that was
/// told if `set`.
pub(crate) fn stop_and_start(device: &mut NetDevice, index: u32, set: bool) -> Result<()> {
    device.unbind(index)?;
    let stopped = device.vhost.base(index)?;
    let used = device.queue(index).ring.base();
    check(stopped == used, || {
        format!("queue {index} stopped at {stopped}, the driver saw {used} used")
    })?;
    if set {
        accepts("SET_VRING_BASE", device.vhost.set_base(index, stopped))?;
    }
    device.bind(index)
}

/// Moves an empty ring to the second region while it is bound, and uses it there. If `unasked`, the
/// memory there says beforehand that the device wants no kick.
pub(crate) fn move_ring(
    ctx: &Context,
    device: &mut NetDevice,
    index: u32,
    unasked: bool,
) -> Result<()> {
    let memory = device.memory.clone();
    let queue = device.queue(index);
    let old = queue.layout;
    let at = || memory.alloc_in(1, 16384, 4096);
    let new = old.moved([at()?, at()?, at()?]);
    let base = queue.ring.base();
    check(index == RX || queue.ring.pending() == 0, || {
        "chains are out".into()
    })?;
    device.unbind(index)?;
    accepts("SET_VRING_BASE", device.vhost.set_base(index, base))?;
    device.bind(index)?;
    // The queue is idle: resetting the driver's half takes all of its buffers back.
    let features = device.setup.features;
    let queue = device.queue(index);
    let count = old.format().count(old.size(), base);
    queue.ring = new.driver(&memory, features, count);
    queue.layout = new;
    queue.forget_buffers()?;
    if unasked {
        new.ask_no_kick(&memory, base);
    }
    let place = if index == RX {
        device.address(&device.rx)
    } else {
        device.address(&device.tx)
    };
    accepts("SET_VRING_ADDR live", device.vhost.set_addr(place))?;
    if unasked || features & feature::EVENT_IDX != 0 {
        // C has asked for kicks at the old place only.
        wake_c(ctx, device.queue(index))?;
    }
    let parts = old.areas().map(|area| (area.addr, area.len.min(512)));
    for (addr, len) in parts {
        memory.fill(addr, len, 0xee);
    }
    traffic::exchange(device, Plan::new(ctx.seed + 1, 300, |_| 100))?;
    for (addr, len) in parts {
        let now = memory.content(addr, len);
        check(now.iter().all(|byte| *byte == 0xee), || {
            format!("the old ring was written, at {addr:#x} or behind")
        })?;
    }
    Ok(())
}
