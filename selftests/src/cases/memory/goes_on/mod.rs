// SPDX-License-Identifier: GPL-2.0

//! Whatever can make a stopped queue able to go on makes it look again: calls of the owner, and
//! what the guest mends. The driver kicks only when asked; its receive ring is full, so that it has
//! no reason to.
//!
//! Translations and rights of IO addresses are in `iotlb.park` and `iotlb.permissions`.

mod stopped;

use self::stopped::{Bad, Rig, Stop};
use crate::cases::common::frames::{expect_no_errors, send_one, single, take_one};
use crate::cases::common::iommu::Behind;
use crate::cases::common::{
    Case, Context, a_while, accepts, lets_c_off, ring_case, wake_c, workers,
};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::iotlb::VERSION_2;
use crate::driver::log::log_used;
use crate::driver::ring::Format;
use crate::driver::traffic::{self, Plan, RxFlow};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::host::procfs;
use crate::host::wire::{self, Wire};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::sys::net;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::os::fd::AsFd;

pub(crate) const CASES: &[Case] = &[
    ring_case("goes_on.memory_table", 60, |ctx| {
        rows(ctx, Stop::NoMemory, |rig| {
            let table = rig.device.memory.table();
            accepts("SET_MEM_TABLE", rig.device.vhost.set_memory(&table))
        })
    }),
    ring_case("goes_on.ring_address", 60, |ctx| {
        rows(ctx, Stop::NoRing, Rig::place_ring)
    }),
    ring_case("goes_on.features", 60, |ctx| {
        rows(ctx, Stop::Features, Rig::set_features)
    }),
    ring_case("goes_on.log_base", 60, |ctx| {
        rows(ctx, Stop::NoLog, |rig| {
            let good = rig.good_log.addr();
            accepts("SET_LOG_BASE", rig.device.vhost.set_log_base(good))
        })
    }),
    ring_case("goes_on.log_descriptor", 60, |ctx| {
        rows(ctx, Stop::NoLog, |rig| {
            rig.open_log()?;
            accepts("SET_LOG_FD", rig.device.vhost.set_log_fd(rig.event()))
        })
    }),
    ring_case("goes_on.log_off", 60, |ctx| {
        rows(ctx, Stop::NoLog, |rig| {
            if rig.index == RX {
                let features = rig.device.setup.features & !feature::LOG_ALL;
                return accepts("SET_FEATURES", rig.device.vhost.set_features(features));
            }
            accepts("SET_VRING_ADDR", log_used(&rig.device, TX, None))
        })
    }),
    ring_case("goes_on.backend", 60, |ctx| {
        rows(ctx, Stop::Bad(Bad::Nowhere), |rig| {
            rig.mend();
            rig.device.unbind(rig.index)?;
            rig.device.bind(rig.index)
        })
    }),
    ring_case("goes_on.backend_again", 60, |ctx| {
        rows(ctx, Stop::Bad(Bad::Nowhere), |rig| {
            rig.mend();
            rig.device.bind(rig.index)
        })
    }),
    ring_case("goes_on.kick_descriptor", 60, |ctx| {
        rows(ctx, Stop::Bad(Bad::Nowhere), |rig| {
            rig.mend();
            rig.device.new_kick(rig.index)
        })
    }),
    ring_case("goes_on.worker", 60, |ctx| {
        if !workers::has_workers(ctx)? {
            return Ok(());
        }
        rows(ctx, Stop::Bad(Bad::Nowhere), |rig| {
            rig.mend();
            let id = accepts("NEW_WORKER", rig.device.vhost.new_worker())?;
            accepts("ATTACH", rig.device.vhost.attach_worker(rig.index, id))
        })
    }),
    ring_case("goes_on.mended", 90, mended),
    ring_case("goes_on.link", 90, link),
    ring_case("goes_on.other_unbound", 60, other_unbound),
];

/// Stops each queue, starts it with one call, and has all frames that were sent meanwhile arrive.
fn rows(ctx: &Context, stop: Stop, start: impl Fn(&mut Rig) -> Result<()>) -> Result<()> {
    for index in [RX, TX] {
        if (index, stop, ctx.device.format) == (TX, Stop::Features, Format::Packed) {
            // The features are about the header of legacy devices, whose rings are split.
            continue;
        }
        for events in [0, feature::EVENT_IDX] {
            let row = || -> Result<()> {
                let mut rig = Rig::stopped(ctx, index, events, stop)?;
                start(&mut rig)?;
                rig.wake_c(ctx)?;
                rig.finish(ctx)
            };
            row().with_context(|| format!("queue {index}, features {events:#x}, {stop:?}"))?;
        }
    }
    Ok(())
}

/// A guest that breaks a rule and mends it goes on with the next chain, with a kick if the device
/// asks for one.
fn mended(ctx: &Context) -> Result<()> {
    for (index, bad) in [
        (RX, Bad::Nowhere),
        (RX, Bad::Direction),
        (TX, Bad::Nowhere),
        (TX, Bad::Direction),
        (TX, Bad::Short),
    ] {
        if bad == Bad::Direction && lets_c_off(ctx)? {
            // C has stepped over a chain that it finds fault with after translating it.
            continue;
        }
        for events in [0, feature::EVENT_IDX] {
            let row = || -> Result<()> {
                let mut rig = Rig::stopped(ctx, index, events, Stop::Bad(bad))?;
                rig.mend();
                rig.publish_more()?;
                rig.wake_c(ctx)?;
                rig.finish(ctx)
            };
            row().with_context(|| format!("queue {index}, features {events:#x}, {bad:?}"))?;
        }
    }
    Ok(())
}

/// The backend's interface is down for a while, with frames of the guest and buffers for it in the
/// rings: what is sent then may be lost, but nothing stays behind, and what is sent later arrives.
fn link(ctx: &Context) -> Result<()> {
    for kind in [wire::Kind::Tap, wire::Kind::Macvtap, wire::Kind::Packet] {
        for events in [0, feature::EVENT_IDX] {
            let wire = Wire::new(kind, 0)?;
            let setup = Setup::new(feature::VERSION_1 | events);
            let mut device = NetDevice::start_on(&ctx.device, &wire, setup)?;
            for round in 0..3 {
                link_down(ctx, &wire, &mut device, round)
                    .with_context(|| format!("{kind:?}, features {events:#x}, round {round}"))?;
            }
        }
    }
    Ok(())
}

fn link_down(ctx: &Context, wire: &Wire, device: &mut NetDevice, round: u64) -> Result<()> {
    let plan = Plan::new(ctx.seed + round, 20, |_| 300);
    traffic::exchange(device, plan)?;
    device.rx_fill()?;
    device.rx.flush()?;
    procfs::idle()?;
    wire.set_up(false)?;
    for _ in 0..3 {
        device.tx_post(NetHeader::default(), &frame::unseen(ctx.seed, 300))?;
    }
    device.tx.flush()?;
    a_while();
    wire.set_up(true)?;
    // The peer of a tap is on the same interface.
    net::take_error(device.peer.as_fd())?;
    Deadline::patient().until("all chains to come back", || {
        device.tx_reap()?;
        Ok(device.tx.ring.pending() == 0)
    })?;
    let mut rx = RxFlow::new(plan);
    rx.way.refills = false;
    traffic::run(device, &mut [&mut rx]).context("into a ring that was full")?;
    traffic::exchange(device, plan)
}

/// A queue is unbound while the other waits for a translation that was asked for: that still comes.
fn other_unbound(ctx: &Context) -> Result<()> {
    for events in [0, feature::EVENT_IDX] {
        for (index, other) in [(TX, RX), (RX, TX)] {
            Behind::start(ctx, single(events), VERSION_2)?.run(|device, iommu| {
                traffic::exchange(device, Plan::new(ctx.seed, 20, |_| 100))?;
                device.rx_fill()?;
                device.rx.flush()?;
                for round in 0..3 {
                    procfs::idle()?;
                    iommu.hold();
                    let (start, len) = device.queue(index).buffers();
                    iommu.unmap(start, len as u64)?;
                    send_one(ctx, device, index, round)?;
                    Deadline::patient().until("a miss", || Ok(!iommu.waiting().is_empty()))?;
                    device.unbind(other)?;
                    iommu.release()?;
                    // C forgets what either queue waits for.
                    wake_c(ctx, device.queue(index))?;
                    take_one(ctx, device, index, round)
                        .with_context(|| format!("queue {index}, round {round}"))?;
                    iommu.bind(device, other)?;
                    device.rx_fill()?;
                    device.rx.flush()?;
                }
                traffic::exchange(device, Plan::new(ctx.seed + 1, 20, |_| 100))?;
                expect_no_errors(device)
            })?;
        }
    }
    Ok(())
}
