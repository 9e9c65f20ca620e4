// SPDX-License-Identifier: GPL-2.0

//! Changes under traffic: no frame is lost or duplicated, and memory that was replaced is not
//! accessed.

use crate::cases::common::live::{self, move_ring, stop_and_start, under_traffic};
use crate::cases::common::{Case, Context, accepts, case, check, ring_case, wake_c};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::{MemoryRegion, feature};
use crate::driver::vhost::{RX, TX};
use crate::eventfd::EventFd;
use crate::sys::process::{RawSlot, redirect};
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) const CASES: &[Case] = &[
    ring_case("live.rebind", 60, rebind),
    ring_case("live.memory", 60, memory),
    ring_case("live.event_descriptors", 60, event_descriptors),
    ring_case("live.features", 60, features),
    ring_case("live.event_index", 60, event_index),
    ring_case("live.ring_move", 60, ring_move),
    ring_case("live.ring_move_to_flags", 60, ring_move_to_flags),
    ring_case("live.reset_owner", 60, reset_owner),
    case("live.backend_race", 60, backend_race),
];

/// Single queues are stopped and started, as in a migration that is cancelled.
fn rebind(ctx: &Context) -> Result<()> {
    for features in [
        0,
        feature::EVENT_IDX,
        feature::EVENT_IDX | feature::MRG_RXBUF,
    ] {
        let setup = Setup::new(feature::VERSION_1 | features);
        let mut device = NetDevice::start(&ctx.device, setup)?;
        under_traffic(ctx, &mut device, 60, |device, number| {
            let queue = if number % 3 == 0 { RX } else { TX };
            stop_and_start(device, queue, number % 2 == 0)
        })?;
    }
    Ok(())
}

/// Memory comes and goes elsewhere, as with hotplug.
fn memory(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    let spare = crate::sys::mapping::Mapping::new(1 << 20)?;
    under_traffic(ctx, &mut device, 100, |device, number| {
        let mut table = device.memory.table();
        for extra in 0..number % 20 {
            table.insert(
                0,
                MemoryRegion {
                    guest: (2 + extra) << 32,
                    size: 4096,
                    user: spare.addr() as u64 + 4096 * extra,
                    padding: 0,
                },
            );
        }
        accepts("SET_MEM_TABLE", device.vhost.set_memory(&table))
    })
}

fn event_descriptors(ctx: &Context) -> Result<()> {
    let setup = Setup::new(feature::VERSION_1 | feature::EVENT_IDX);
    let mut device = NetDevice::start(&ctx.device, setup)?;
    under_traffic(ctx, &mut device, 150, |device, number| {
        let index = if number % 2 == 0 { TX } else { RX };
        if matches!(number % 5, 2 | 3) {
            return device.new_kick(index);
        }
        let fresh = EventFd::new()?;
        let fd = fresh.as_fd().as_raw_fd();
        match number % 5 {
            0 | 1 => {
                accepts("SET_VRING_CALL", device.vhost.set_call(index, fd))?;
                // What was signalled on the old one is still to be looked at.
                fresh.signal()?;
                device.queue(index).call = fresh;
            }
            _ => {
                accepts("SET_VRING_ERR", device.vhost.set_err(index, fd))?;
                device.queue(index).err = fresh;
            }
        }
        Ok(())
    })
}

/// SET_FEATURES with the same features; a migration starts so, with LOG_ALL added.
fn features(ctx: &Context) -> Result<()> {
    let features = feature::VERSION_1 | feature::EVENT_IDX;
    let mut device = NetDevice::start(&ctx.device, Setup::new(features))?;
    under_traffic(ctx, &mut device, 150, |device, _| {
        let features = device.setup.features;
        accepts("SET_FEATURES", device.vhost.set_features(features))
    })
}

/// VIRTIO_F_EVENT_IDX is turned on and off under traffic, with stale values left in the fields that
/// were not in use.
fn event_index(ctx: &Context) -> Result<()> {
    let mut setup = Setup::new(feature::VERSION_1);
    (setup.rx_buffers.0, setup.tx_buffers.0) = (200, 200);
    let mut device = NetDevice::start(&ctx.device, setup)?;
    for round in 0..40 {
        // From one frame, which leaves the flags as they are, to enough to change them.
        let plan = Plan::new(ctx.seed + round, 1 + 23 * (round % 4), |_| 100);
        traffic::exchange(&mut device, plan).with_context(|| format!("round {round}"))?;
        device.setup.features ^= feature::EVENT_IDX;
        let features = device.setup.features;
        accepts("SET_FEATURES", device.vhost.set_features(features))?;
        for index in [RX, TX] {
            let ring = &mut device.queue(index).ring;
            ring.set_event_index(features & feature::EVENT_IDX != 0);
            // C has asked for kicks only in the way that is no longer in use.
            wake_c(ctx, device.queue(index))?;
        }
    }
    Ok(())
}

/// A ring moves while it is bound; the device does not access the old place afterwards.
fn ring_move(ctx: &Context) -> Result<()> {
    let mut setup = Setup::new(feature::VERSION_1);
    setup.regions = vec![(0x4000_0000, 1 << 20)];
    let mut device = NetDevice::start(&ctx.device, setup)?;
    traffic::exchange(&mut device, Plan::new(ctx.seed, 300, |_| 100))?;
    for index in [RX, TX] {
        move_ring(ctx, &mut device, index, false)?;
    }
    Ok(())
}

/// A ring moves to where no kick is asked for, by flags or event index: the device asks there.
fn ring_move_to_flags(ctx: &Context) -> Result<()> {
    for events in [0, feature::EVENT_IDX] {
        let mut setup = Setup::new(feature::VERSION_1 | events);
        setup.regions = vec![(0x4000_0000, 1 << 20)];
        let mut device = NetDevice::start(&ctx.device, setup)?;
        for (round, index) in [RX, TX, TX, RX].into_iter().enumerate() {
            traffic::exchange(
                &mut device,
                Plan::new(ctx.seed, 1 + 30 * round as u64, |_| 100),
            )?;
            move_ring(ctx, &mut device, index, true)
                .with_context(|| format!("queue {index}, features {events:#x}"))?;
        }
    }
    Ok(())
}

/// Ownership is given up with frames under way, and taken again.
fn reset_owner(ctx: &Context) -> Result<()> {
    live::reset_owner(ctx, |_| Ok(()), || Ok(()))
}

/// The backend's descriptor number alternates between the tap, a pipe and closed while it is bound.
fn backend_race(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    device.unbind(TX)?;
    device.unbind(RX)?;
    let slot = RawSlot::new(device.tap_duplicate()?);
    let tap = device.tap.number();
    let (pipe, _keep) = rustix::pipe::pipe()?;
    let pipe: OwnedFd = pipe;
    let stop = AtomicBool::new(false);
    let (mut bound, mut refused) = (0, 0);
    std::thread::scope(|scope| -> Result<()> {
        let racer = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                redirect(pipe.as_raw_fd(), &slot)?;
                slot.close();
                redirect(tap, &slot)?;
            }
            Ok(())
        });
        let mut race = || -> Result<()> {
            let deadline = Deadline::patient();
            for round in 0.. {
                // The other thread may not run for a while.
                if round >= 3000 && (bound > 0 && refused > 0 || deadline.passed()) {
                    break;
                }
                let queue = round % 2;
                match device.vhost.set_backend(queue, slot.number()) {
                    Ok(()) => bound += 1,
                    Err(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => refused += 1,
                    Err(error) => return Err(error).context("a race for the backend"),
                }
                device.unbind(queue)?;
            }
            Ok(())
        };
        let result = race();
        stop.store(true, Ordering::Relaxed);
        racer.join().expect("the racer does not panic")?;
        result
    })?;
    check(bound > 0 && refused > 0, || {
        format!("no race: {bound} bound, {refused} refused")
    })?;
    device.bind(RX)?;
    device.bind(TX)?;
    traffic::exchange(&mut device, Plan::new(ctx.seed, 200, |_| 100))
}
