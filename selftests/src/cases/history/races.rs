// SPDX-License-Identifier: GPL-2.0

//! Guests that never stop sending, owners that are killed at the wrong moment, and concurrent
//! calls.

use crate::cases::common::flood::Flood;
use crate::cases::common::frames::expect_no_errors;
use crate::cases::common::owners::{kill, one_by_one, say_ready, start, still_works};
use crate::cases::common::{Case, Context, Role, case, check, refuses, ring_case, role};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX, Vhost};
use crate::host::procfs;
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ring_case("history.fairness", 90, fairness),
    ring_case("history.kill_flood", 90, kill_flood),
    case("history.kick_the_dead", 90, kick_the_dead),
    case("history.owner_race", 90, owner_race),
    ring_case("history.busy_faults", 90, busy_faults),
];

pub(crate) const ROLES: &[Role] = &[role("endless-flood", endless_flood)];

/// Sends frames that no peer looks at to the guest until `stop`, whether there is room or not.
fn flood(ctx: &Context, setup: &Setup, if_index: i32, stop: &AtomicBool) -> Result<()> {
    let mut peer = setup.peer(if_index)?;
    let bytes = frame::unseen(ctx.seed, 200);
    while !stop.load(Ordering::Relaxed) {
        let _ = peer.send(NetHeader::default(), &bytes);
    }
    Ok(())
}

/// A device with a transmit queue so long that its driver has time to add to it before it is empty.
fn with_long_queue(ctx: &Context) -> Result<NetDevice> {
    let mut setup = Setup::new(feature::VERSION_1);
    setup.tx_size = 32768;
    setup.tx_buffers = (32768, 256);
    let mut device = NetDevice::start(&ctx.device, setup)?;
    let bytes = frame::unseen(ctx.seed, 200);
    while device.tx_post(NetHeader::default(), &bytes)? {}
    device.tx.flush()?;
    Ok(device)
}

/// A transmit queue that always has work leaves the other its turn, and not only when its driver
/// has been too slow: most frames come while few chains are used.
fn fairness(ctx: &Context) -> Result<()> {
    let mut device = with_long_queue(ctx)?;
    let endless = Flood::of(&mut device, TX)?;
    let few = u64::from(endless.size()) / 4;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let driver = scope.spawn(|| endless.run(&stop));
        let mut receive = || -> Result<()> {
            let (mut sent, mut prompt) = (0, 0);
            while sent < 60 || !endless.goes_on() {
                check(!driver.is_finished(), || "the driver stopped".into())?;
                let used = receive_one(ctx, &mut device, &endless, sent)?;
                sent += 1;
                prompt += u64::from(used < few);
            }
            check(prompt > sent / 2, || {
                format!("{prompt} of {sent} frames came before {few} chains were used")
            })
        };
        let result = receive();
        stop.store(true, Ordering::Relaxed);
        driver.join().expect("a driver does not panic")?;
        result
    })
}

/// Receives a frame; how many chains the other queue has used meanwhile.
fn receive_one(ctx: &Context, device: &mut NetDevice, other: &Flood, sequence: u64) -> Result<u64> {
    let (mut bytes, mut got) = (Vec::new(), Vec::new());
    frame::build(ctx.seed, sequence, 100, &mut bytes);
    device.rx_fill()?;
    device.rx.flush()?;
    let mut last = other.progress();
    let mut count = 0;
    device.peer.send(NetHeader::default(), &bytes)?;
    Deadline::patient().until("a frame", || {
        let used = other.progress();
        count += u64::from(used.wrapping_sub(last));
        last = used;
        Ok(device.rx_take(&mut got)?.is_some())
    })?;
    frame::expect("received", sequence, &bytes, &got)?;
    Ok(count)
}

/// Floods both queues until killed.
fn endless_flood(ctx: &Context) -> Result<()> {
    let mut device = with_long_queue(ctx)?;
    device.rx_fill()?;
    device.rx.flush()?;
    let queues = [Flood::of(&mut device, TX)?, Flood::of(&mut device, RX)?];
    let never = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for queue in &queues {
            scope.spawn(|| queue.run(&never));
        }
        let (setup, tap) = (device.setup.clone(), device.tap.if_index());
        let never = &never;
        scope.spawn(move || flood(ctx, &setup, tap, never));
        while !queues.iter().all(Flood::goes_on) {
            std::thread::sleep(Duration::from_millis(5));
        }
        say_ready()
    })
}

/// An owner whose guest never rests can be killed.
fn kill_flood(ctx: &Context) -> Result<()> {
    one_by_one(ctx, "endless-flood", 3, Duration::from_millis(7))
}

/// The device of another process, and all its event descriptors.
fn descriptors_of(ctx: &Context, child: &Child) -> Result<(Vhost, Vec<OwnedFd>)> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let (mut vhost, mut events) = (None, Vec::new());
    for entry in fs::read_dir(format!("/proc/{}/fd", child.id()))? {
        let entry = entry?;
        let target = fs::read_link(entry.path())?;
        let number = entry.file_name().to_string_lossy().parse()?;
        let copy = || pidfd_getfd(&process, number, PidfdGetfdFlags::empty());
        if target == ctx.device.path {
            vhost = Some(Vhost::from_fd(copy()?));
        } else if target.to_string_lossy().contains("[eventfd]") {
            events.push(copy()?);
        }
    }
    let vhost = vhost.context("it has no device open")?;
    check(events.len() >= 6, || format!("{} events", events.len()))?;
    Ok((vhost, events))
}

/// Other processes hold the device and its kick descriptors, and go on kicking after the owner's
/// death.
fn kick_the_dead(ctx: &Context) -> Result<()> {
    for (round, name) in (0..).zip(
        ["endless-traffic", "idle-owner"]
            .into_iter()
            .cycle()
            .take(10),
    ) {
        let child = start(ctx, name, Stdio::null())?;
        let (vhost, events) = descriptors_of(ctx, &child)?;
        let stop = AtomicBool::new(false);
        let kicks = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for event in &events {
                        // Full, when nobody reads it any more.
                        let _ = rustix::io::write(event, &1u64.to_ne_bytes());
                    }
                    kicks.fetch_add(1, Ordering::Relaxed);
                }
            });
            let result = kill(child, Duration::from_millis(round)).and_then(|()| {
                let dead = kicks.load(Ordering::Relaxed);
                while kicks.load(Ordering::Relaxed) < dead + 200 {
                    std::thread::yield_now();
                }
                refuses("GET_VRING_BASE", libc::EPERM, vhost.base(TX))
            });
            // Closed under the kicks.
            drop(vhost);
            stop.store(true, Ordering::Relaxed);
            result
        })?;
        still_works(ctx).with_context(|| format!("after kill {round}"))?;
    }
    Ok(())
}

/// Backends, features and the owner itself change from several threads, up to the close.
fn owner_race(ctx: &Context) -> Result<()> {
    let (bound, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let count = |what: &str, result: std::io::Result<()>| match result {
        Ok(()) => {
            bound.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EFAULT)) => {
            refused.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        Err(error) => Err(error).with_context(|| what.to_owned()),
    };
    for round in 0..5 {
        let device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
        let tap = device.tap_duplicate()?;
        let copy =
            || -> Result<Vhost> { Ok(Vhost::from_fd(device.vhost.as_fd().try_clone_to_owned()?)) };
        let (binder, changer) = (copy()?, copy()?);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            let threads = [
                scope.spawn(|| -> Result<()> {
                    let vhost = binder;
                    while !stop.load(Ordering::Relaxed) {
                        for queue in [RX, TX] {
                            count("bind", vhost.set_backend(queue, tap.as_raw_fd()))?;
                            count("unbind", vhost.set_backend(queue, -1))?;
                        }
                    }
                    Ok(())
                }),
                scope.spawn(|| -> Result<()> {
                    let vhost = changer;
                    let mut bit = 0;
                    while !stop.load(Ordering::Relaxed) {
                        bit ^= feature::EVENT_IDX;
                        count("features", vhost.set_features(feature::VERSION_1 | bit))?;
                    }
                    Ok(())
                }),
            ];
            let main = || -> Result<()> {
                for turn in 0..40 {
                    device.vhost.reset_owner().context("RESET_OWNER")?;
                    device.vhost.set_owner().context("SET_OWNER")?;
                    // What the other thread has bound may not be set up any more.
                    let vhost = &device.vhost;
                    vhost.set_memory(&device.memory.table())?;
                    for queue in [&device.rx, &device.tx] {
                        vhost.set_addr(device.address(queue))?;
                        vhost.set_kick(queue.index, queue.kick.as_fd().as_raw_fd())?;
                        queue.kick.force()?;
                    }
                    if turn % 8 == 0 {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
                Ok(())
            };
            let result = main();
            // The last of them closes the device.
            drop(device);
            stop.store(true, Ordering::Relaxed);
            for thread in threads {
                thread.join().expect("a racer does not panic")?;
            }
            result
        })
        .with_context(|| format!("round {round}"))?;
        drop(tap);
        procfs::expect_workers(0)?;
        still_works(ctx)?;
    }
    let (bound, refused) = (bound.into_inner(), refused.into_inner());
    check(bound > 0 && refused > 0, || {
        format!("no race: {bound} calls went well, {refused} were refused")
    })
}

/// A queue that waits busily looks at pages that are not there, and gives up when nothing comes.
fn busy_faults(ctx: &Context) -> Result<()> {
    for features in [
        0,
        feature::EVENT_IDX | feature::IN_ORDER,
        feature::EVENT_IDX | feature::IN_ORDER | feature::MRG_RXBUF,
    ] {
        let mut setup = Setup::new(feature::VERSION_1 | features);
        if features & feature::MRG_RXBUF != 0 {
            setup.rx_buffers = (256, 128);
        }
        let mut device = NetDevice::start(&ctx.device, setup)?;
        for queue in [RX, TX] {
            device
                .vhost
                .set_busy_timeout(queue, 3000)
                .context("BUSYLOOP")?;
        }
        let memory = device.memory.clone();
        let areas = [device.rx.layout, device.tx.layout].map(|layout| layout.areas());
        let stop = AtomicBool::new(false);
        let taken = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let thief = scope.spawn(|| -> Result<()> {
                while !stop.load(Ordering::Relaxed) {
                    for area in areas.as_flattened() {
                        let (map, offset) = memory.mapping(area.addr);
                        map.unmap_page(offset)?;
                    }
                    taken.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_micros(100));
                }
                Ok(())
            });
            // Few at a time, so that the queues wait.
            let plan = Plan {
                window: 3,
                ..Plan::new(ctx.seed, 400, |n| 60 + (n % 400) as usize)
            };
            let result = traffic::exchange(&mut device, plan);
            stop.store(true, Ordering::Relaxed);
            thief.join().expect("a thief does not panic")?;
            result
        })
        .with_context(|| format!("features {features:#x}"))?;
        check(taken.into_inner() > 0, || "no page was taken".into())?;
        procfs::idle()?;
        expect_no_errors(&device)?;
    }
    Ok(())
}
