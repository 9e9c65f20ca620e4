// SPDX-License-Identifier: GPL-2.0

//! Queues that are woken from debugfs or by the watchdog.

use super::{FEATURES, QUEUES};
use crate::cases::common::frames;
use crate::cases::common::stats::Stats;
use crate::cases::common::view::View;
use crate::cases::common::{Case, Context, a_while, check, lets_c_off, ring_case};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) const CASES: &[Case] = &[
    ring_case("view.wake", 60, wake),
    ring_case("view.two", 60, two),
    ring_case("view.hammered", 120, hammered),
    ring_case("view.watchdog", 60, watchdog),
];

/// Publishes a frame of the guest without a kick.
fn post_silently(ctx: &Context, device: &mut NetDevice) -> Result<()> {
    let mut bytes = Vec::new();
    frame::build(ctx.seed, 0, 100, &mut bytes);
    device.tx_post(NetHeader::default(), &bytes)?;
    check(device.tx.ring.publish(), || {
        "the device wants no kick".into()
    })
}

/// Waits until a frame of the guest has been sent.
fn sent(device: &mut NetDevice) -> Result<()> {
    Deadline::patient().until("a frame to be sent", || Ok(device.tx_reap()? == 1))
}

/// A kick that never comes leaves its frame waiting; waking the queue sends it.
fn wake(ctx: &Context) -> Result<()> {
    for events in [0, feature::EVENT_IDX] {
        let mut device = NetDevice::start(&ctx.device, Setup::new(FEATURES | events))?;
        if lets_c_off(ctx)? {
            return Ok(());
        }
        let view = View::of(&device.vhost)?;
        view.until("tx", &[("waits_for", "kick"), ("kicks", "wanted")])?;
        for _ in 0..3 {
            post_silently(ctx, &mut device)?;
            a_while();
            check(device.tx_reap()? == 0, || {
                "the device noticed without a kick".into()
            })?;
            let waiting = [
                ("available", "yes"),
                ("kicks", "wanted"),
                ("waits_for", "kick"),
            ];
            view.until("tx", &waiting)?;
            view.wake("tx")?;
            sent(&mut device)?;
            view.until("tx", &[("available", "no"), ("waits_for", "kick")])?;
        }
        check(Stats::of(ctx, &device)?.get("tx_kicks")? == 0, || {
            "a kick".into()
        })?;
    }
    Ok(())
}

/// Two devices of one process have directories of their own; waking one is nothing to the other.
fn two(ctx: &Context) -> Result<()> {
    let start = |name: &str| -> Result<NetDevice> {
        let device = NetDevice::prepare(&ctx.device, Setup::new(FEATURES), name, false)?;
        device.bind(RX)?;
        device.bind(TX)?;
        Ok(device)
    };
    let mut devices = [start("tap0")?, start("tap1")?];
    if lets_c_off(ctx)? {
        return Ok(());
    }
    let views = [View::of(&devices[0].vhost)?, View::of(&devices[1].vhost)?];
    check(views[0].0 != views[1].0, || format!("{views:?}"))?;
    for (view, name) in views.iter().zip(["tap0", "tap1"]) {
        let keys = [
            ("interface", name),
            ("waits_for", "kick"),
            ("kicks", "wanted"),
        ];
        view.until("tx", &keys)?;
    }
    for device in &mut devices {
        post_silently(ctx, device)?;
    }
    views[1].wake("tx")?;
    sent(&mut devices[1])?;
    a_while();
    check(devices[0].tx_reap()? == 0, || {
        "the other device is woken".into()
    })?;
    views[0].until("tx", &[("available", "yes"), ("waits_for", "kick")])?;
    views[0].wake("tx")?;
    sent(&mut devices[0])?;
    let [first, second] = devices;
    drop(first);
    check(!views[0].exists()? && views[1].exists()?, || {
        "the wrong directory".into()
    })?;
    drop(second);
    check(!views[1].exists()?, || {
        "the directory outlives its device".into()
    })
}

/// Readers of all files, and wakes, do not disturb traffic or backends that come and go, and all
/// that they read is whole.
fn hammered(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(FEATURES))?;
    if lets_c_off(ctx)? {
        return Ok(());
    }
    let view = View::of(&device.vhost)?;
    let info = format!("/proc/self/fdinfo/{}", device.vhost.as_fd().as_raw_fd());
    let done = AtomicBool::new(false);
    let hammer = || -> Result<u64> {
        let mut reads = 0;
        while !done.load(Ordering::Relaxed) {
            check(view.read("state")?.find("owner").is_some(), || {
                "no owner".into()
            })?;
            for (queue, _) in QUEUES {
                let keys = view.read(&format!("{queue}/state"))?;
                let whole = match keys.get("running")? {
                    "yes" => ["fault", "running", "worker"].as_slice() == keys.names(),
                    _ => keys.find("waits_for").is_some() && keys.find("worker").is_some(),
                };
                check(whole, || format!("{keys:?}"))?;
                view.wake(queue)?;
            }
            let text = fs::read_to_string(&info)?;
            check(text.contains("rx_kicks:\t"), || text.clone())?;
            reads += 1;
        }
        Ok(reads)
    };
    std::thread::scope(|scope| {
        let readers = [scope.spawn(hammer), scope.spawn(hammer)];
        let work = (0..ctx.times(10)).try_for_each(|round| -> Result<()> {
            traffic::transmit(&mut device, Plan::new(ctx.seed ^ round, 300, |_| 100))?;
            traffic::receive(&mut device, Plan::new(ctx.seed ^ round, 300, |_| 100))?;
            for (_, index) in QUEUES {
                device.unbind(index)?;
                device.bind(index)?;
            }
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            let reads = reader.join().ok().context("a reader has panicked")??;
            check(reads > 0, || "nothing was read".into())?;
        }
        work
    })
}

/// The period of the watchdog, which is as before when this is dropped.
struct Period(String);

impl Period {
    const PATH: &str = "/sys/module/vhost_rnet/parameters/watchdog_ms";

    fn set(millis: u32) -> Result<Self> {
        let before = fs::read_to_string(Self::PATH).context(Self::PATH)?;
        fs::write(Self::PATH, millis.to_string()).context(Self::PATH)?;
        Ok(Self(before))
    }
}

impl Drop for Period {
    fn drop(&mut self) {
        let _ = fs::write(Self::PATH, &self.0);
    }
}

/// The watchdog finds a frame whose kick never comes, and nothing else.
fn watchdog(ctx: &Context) -> Result<()> {
    if lets_c_off(ctx)? {
        return Ok(());
    }
    let period = Period::set(20)?;
    let mut device = NetDevice::start(&ctx.device, Setup::new(FEATURES))?;
    drop(period);
    let view = View::of(&device.vhost)?;
    for times in 1..=3 {
        view.until("tx", &[("waits_for", "kick"), ("kicks", "wanted")])?;
        post_silently(ctx, &mut device)?;
        sent(&mut device)?;
        let count = Stats::of(ctx, &device)?.get("tx_watchdog")?;
        check(count == times, || format!("{count} of {times} counted"))?;
    }
    check(Stats::of(ctx, &device)?.get("tx_kicks")? == 0, || {
        "a kick".into()
    })?;
    // Frames without buffers are no forgotten kick.
    let mut bytes = Vec::new();
    frame::build(ctx.seed, 0, 100, &mut bytes);
    for _ in 0..3 {
        device.peer.send(NetHeader::default(), &bytes)?;
    }
    view.until("rx", &[("available", "no"), ("waits_for", "kick")])?;
    // Neither is a chain that a queue has stopped at.
    frames::send_short(&mut device)?;
    view.until("tx", &[("stopped", "yes"), ("available", "yes")])?;
    a_while();
    let stats = Stats::of(ctx, &device)?;
    let counts = (stats.get("rx_watchdog")?, stats.get("tx_watchdog")?);
    check(counts == (0, 3), || format!("{counts:?} counted"))
}
