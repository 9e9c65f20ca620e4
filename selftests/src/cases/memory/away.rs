// SPDX-License-Identifier: GPL-2.0

//! Memory that a queue needs is away for a while: with it the queue goes on by itself.
//!
//! The driver does not know. It has published what there is, kicks only when asked, and adds
//! nothing until all of that has arrived; its receive ring is full of buffers.

use crate::cases::common::{Case, Context, accepts, check, lets_c_off, ring_case, wake_c};
use crate::driver::away::{Away, Part, without, without_pages};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::log::{DirtyLog, Pages, cover, log_used};
use crate::driver::traffic::{self, Flow, Plan, RxFlow, TxFlow};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::host::procfs;
use crate::sys::mapping::PAGE;
use anyhow::{Context as _, Result};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ring_case("away.tx_frame", 60, tx_frame),
    ring_case("away.rx_buffers", 60, rx_buffers),
    ring_case("away.tx_ring", 90, |ctx| ring(ctx, TX)),
    ring_case("away.rx_ring", 90, |ctx| ring(ctx, RX)),
    ring_case("away.log", 90, log),
];

/// Features that change how a queue tells what it has done and what it wants.
const FEATURES: [u64; 4] = [
    0,
    feature::EVENT_IDX,
    feature::IN_ORDER,
    feature::IN_ORDER | feature::EVENT_IDX,
];

/// Leaves the device time to meet what is away. That it does is no condition of any case.
fn a_while() {
    std::thread::sleep(Duration::from_millis(100));
}

fn setup(features: u64) -> Setup {
    let mut setup = Setup::new(feature::VERSION_1 | features);
    let indirect = features & feature::INDIRECT != 0;
    (setup.rx_shape.indirect, setup.tx_shape.indirect) = (indirect, indirect);
    if indirect {
        (setup.rx_shape.piece, setup.tx_shape.piece) = (600, 600);
    }
    setup.removable = true;
    setup
}

fn plan(ctx: &Context) -> Plan {
    Plan {
        window: 1000,
        ..Plan::new(ctx.seed, 0, |n| 60 + (n % 900) as usize)
    }
}

/// One of four frames lies in a page that is away: they arrive when it is back, in order.
fn tx_frame(ctx: &Context) -> Result<()> {
    for features in FEATURES {
        let mut setup = setup(features);
        // A page for each.
        setup.tx_buffers = (64, PAGE);
        let mut device = NetDevice::start(&ctx.device, setup)?;
        let memory = device.memory.clone();
        let mut tx = TxFlow::new(plan(ctx));
        for (round, away) in (0..6).zip([Away::Closed, Away::Unmapped].into_iter().cycle()) {
            let page = (device.tx.buffer_ahead(round % 4)?, PAGE);
            tx.extend(4);
            without(&memory, page, away, || {
                tx.pump(&mut device)?;
                // The queue looks again after 1, 2, 4 ... ms: until it does so only now and then.
                std::thread::sleep(Duration::from_millis(300));
                traffic::receive(&mut device, Plan::new(ctx.seed, 20, |_| 300))
                    .context("the receive queue")
            })?;
            traffic::run(&mut device, &mut [&mut tx])
                .with_context(|| format!("features {features:#x}, round {round}, {away:?}"))?;
        }
    }
    Ok(())
}

/// All receive buffers are away: frames are lost until they are back, and none after that.
fn rx_buffers(ctx: &Context) -> Result<()> {
    for features in FEATURES {
        for merge in [0, feature::MRG_RXBUF] {
            let mut device = NetDevice::start(&ctx.device, setup(features | merge))?;
            let memory = device.memory.clone();
            let pages = Part::Buffers.pages(&device.rx);
            let mut rx = RxFlow::new(plan(ctx));
            rx.way.refills = false;
            for away in [Away::Closed, Away::Unmapped, Away::ReadOnly] {
                device.rx_fill()?;
                device.rx.flush()?;
                procfs::idle()?;
                rx.extend(4);
                rx.way.may_lose = rx.sent + 4;
                without(&memory, pages, away, || {
                    rx.pump(&mut device)?;
                    a_while();
                    other_works(ctx, &mut device, RX)
                })?;
                rx.extend(100);
                traffic::run(&mut device, &mut [&mut rx])
                    .with_context(|| format!("features {:#x}, {away:?}", features | merge))?;
            }
        }
    }
    Ok(())
}

/// A part of a ring is away, of either queue: all that is in it is done when it is back, and once.
fn ring(ctx: &Context, index: u32) -> Result<()> {
    const CLOSED: &[Away] = &[Away::Closed, Away::Unmapped];
    for features in FEATURES {
        for (part, ways, more) in [
            (Part::Descriptors, CLOSED, 0),
            (Part::Available, CLOSED, 0),
            (Part::Tables, CLOSED, feature::INDIRECT),
            (
                Part::Used,
                &[Away::Closed, Away::Unmapped, Away::ReadOnly],
                0,
            ),
        ] {
            if part == Part::Used && lets_c_off(ctx)? {
                // vhost_add_used_n() gives up, and its caller goes on: those chains are lost.
                continue;
            }
            for &away in ways {
                part_away(ctx, index, features | more, part, away).with_context(|| {
                    format!("queue {index}, features {features:#x}, {part:?} {away:?}")
                })?;
            }
        }
    }
    Ok(())
}

fn part_away(ctx: &Context, index: u32, features: u64, part: Part, away: Away) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, setup(features))?;
    let memory = device.memory.clone();
    let pages = part.pages(device.queue(index));
    let (mut tx, mut rx) = (TxFlow::new(plan(ctx)), RxFlow::new(plan(ctx)));
    rx.way.refills = false;
    // At rest, a few, and more than the device gives back at once.
    for frames in [20, 4, 200] {
        device.rx_fill()?;
        device.rx.flush()?;
        procfs::idle()?;
        let flow: &mut dyn Flow = if index == RX {
            rx.extend(frames);
            &mut rx
        } else {
            tx.extend(frames);
            &mut tx
        };
        without(&memory, pages, away, || {
            flow.pump(&mut device)?;
            a_while();
            other_works(ctx, &mut device, index)
        })?;
        // C takes it for a broken ring, and waits for a kick that it has switched off.
        wake_c(ctx, device.queue(index))?;
        traffic::run(&mut device, &mut [flow]).with_context(|| format!("{frames} frames"))?;
    }
    traffic::exchange(&mut device, Plan::new(ctx.seed + 1, 50, |_| 300))
}

/// Frames pass by the queue that has all it needs.
fn other_works(ctx: &Context, device: &mut NetDevice, index: u32) -> Result<()> {
    let plan = Plan::new(ctx.seed, 20, |_| 300);
    if index == RX {
        traffic::transmit(device, plan).context("the transmit queue")
    } else {
        traffic::receive(device, plan).context("the receive queue")
    }
}

/// The dirty log is away: when it is back, it has all that was written meanwhile.
fn log(ctx: &Context) -> Result<()> {
    const AT: [u64; 2] = [0x2000_0000, 0x2010_0000];
    for features in FEATURES {
        let mut device = NetDevice::start(&ctx.device, setup(features))?;
        let log = DirtyLog::new(AT[1] + 0x10_0000)?;
        accepts("SET_LOG_BASE", device.vhost.set_log_base(log.addr()))?;
        device.setup.features |= feature::LOG_ALL;
        accepts("LOG_ALL", device.vhost.set_features(device.setup.features))?;
        for (index, at) in [RX, TX].into_iter().zip(AT) {
            accepts("a logged used ring", log_used(&device, index, Some(at)))?;
        }
        let (mut tx, mut rx) = (TxFlow::new(plan(ctx)), RxFlow::new(plan(ctx)));
        rx.way.refills = false;
        for (round, index) in (0..).zip([RX, TX, RX, TX, RX, TX]) {
            let away = [Away::Closed, Away::Unmapped, Away::ReadOnly][round / 2];
            device.rx_fill()?;
            device.rx.flush()?;
            procfs::idle()?;
            let _ = log.take();
            device.rx.written = Some(Vec::new());
            // Noted from now on.
            let _ = device.queue(index).ring.taken_entries();
            let flow: &mut dyn Flow = if index == RX {
                rx.extend(100);
                &mut rx
            } else {
                tx.extend(100);
                &mut tx
            };
            without_pages(log.memory(), (0, log.memory().len()), away, || {
                flow.pump(&mut device)?;
                a_while();
                Ok(())
            })?;
            let what = || format!("queue {index}, features {features:#x}, log {away:?}");
            traffic::run(&mut device, &mut [flow]).with_context(what)?;
            // What was written last may be logged after it was published.
            device.unbind(index)?;
            device.bind(index)?;
            let mut expected = Pages::new();
            let queue = device.queue(index);
            let layout = queue.layout;
            for (addr, len) in queue.ring.taken_entries() {
                let at = layout.logged(addr, AT[index as usize]);
                cover(&mut expected, at, len.into());
            }
            for (addr, len) in device.rx.written.take().into_iter().flatten() {
                cover(&mut expected, addr, len.into());
            }
            let logged = log.take();
            // C goes on without its log: a migration would leave those pages behind.
            check(lets_c_off(ctx)? || logged.is_superset(&expected), || {
                let missing: Vec<_> = expected.difference(&logged).collect();
                format!("{}: pages {missing:?} are not in the log", what())
            })?;
        }
    }
    Ok(())
}
