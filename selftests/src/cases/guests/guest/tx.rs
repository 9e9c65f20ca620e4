// SPDX-License-Identifier: GPL-2.0

//! A transmitting guest that breaks the rules: its queue stops, nothing else does.

use super::evil::{self, TOUCHING, Writer};
use crate::cases::common::{Case, Context, check, lets_c_off, ring_case};
use crate::driver::device::NetDevice;
use crate::driver::layout::Layout;
use crate::driver::ring::Format;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::TX;
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    ring_case("guest.tx_bad_ring", 90, bad_ring),
    ring_case("guest.tx_short_frame", 60, short_frame),
    ring_case("guest.tx_short_header", 60, short_header),
    ring_case("guest.tx_touching_regions", 60, touching),
    ring_case("guest.tx_closed_page", 60, closed_page),
    ring_case("guest.tx_closed_ring", 60, closed_ring),
];

/// Good frames before the bad chain; they must arrive.
const GOOD: u64 = 3;

/// Adds good frames, then the pattern, and lets the device see them together.
fn submit(ctx: &Context, device: &mut NetDevice, write: impl Fn(&Writer<'_>)) -> Result<()> {
    let mut bytes = Vec::new();
    for sequence in 0..GOOD {
        frame::build(ctx.seed, sequence, 100, &mut bytes);
        check(device.tx_post(NetHeader::default(), &bytes)?, || {
            "no room".into()
        })?;
    }
    // CAST: the lower half.
    let start = device.tx.ring.base() as u16;
    write(&Writer::new(device, TX, GOOD as u16));
    if device.tx.layout.format() == Format::Packed {
        // Of a split ring the pattern has published all.
        let _ = device.tx.ring.publish();
    }
    device.tx.flush_from(start)?;
    Ok(())
}

fn expect_good(ctx: &Context, device: &mut NetDevice) -> Result<()> {
    let (mut expected, mut got) = (Vec::new(), Vec::new());
    for sequence in 0..GOOD {
        let came = Deadline::patient().readable(&[&device.peer])?;
        check(came, || format!("good frame {sequence} did not arrive"))?;
        device.peer.receive(&mut got)?;
        frame::build(ctx.seed, sequence, 100, &mut expected);
        frame::expect("good", sequence, &expected, &got)?;
    }
    Ok(())
}

/// The other queue goes on, and after a reset this one does too.
fn recover(ctx: &Context, device: &mut NetDevice, round: u64) -> Result<()> {
    traffic::receive(device, Plan::new(ctx.seed + round, 10, |_| 100))
        .context("the receive queue after the transmit queue's trouble")?;
    // Starts at a new index each time, so that a left-over index would show.
    device.reset_queue(TX, (round * 1000) as u16)?;
    traffic::exchange(device, Plan::new(ctx.seed + round, 10, |_| 100)).context("after a reset")
}

fn expect_stop(device: &NetDevice) -> Result<()> {
    let told = Deadline::patient().readable(&[&device.tx.err])?;
    check(told, || "the error descriptor was not signalled".into())
}

/// How many chains the device has used since `start`, once its worker is done.
fn used_since(device: &NetDevice, start: u32) -> Result<u32> {
    device.unbind(TX)?;
    let used = device.tx.layout.used_since(&device.memory, start);
    Ok(used.into())
}

/// Fails unless the device has used the good chains and no other since `start`.
fn only_good_used(device: &NetDevice, start: u32) -> Result<()> {
    let used = used_since(device, start)?;
    check(used == GOOD as u32, || {
        format!("{used} chains used, not {GOOD}")
    })
}

fn bad_ring(ctx: &Context) -> Result<()> {
    for events in [0, feature::EVENT_IDX] {
        let mut device = NetDevice::start(&ctx.device, evil::setup(events))?;
        for (round, (what, write)) in (0..).zip(evil::stopping(ctx.device.format)) {
            bad_pattern(ctx, &mut device, round, write).context(what)?;
        }
    }
    Ok(())
}

fn bad_pattern(
    ctx: &Context,
    device: &mut NetDevice,
    round: u64,
    write: fn(&Writer<'_>),
) -> Result<()> {
    let start = device.tx.ring.base();
    submit(ctx, device, write)?;
    expect_stop(device)?;
    let possible = match device.tx.layout {
        // An index that cannot be is refused before any frame behind it is looked at.
        Layout::Split(layout) => {
            let index = layout.avail_index(&device.memory);
            u32::from(index).wrapping_sub(start) & 0xffff <= 256
        }
        Layout::Packed(_) => true,
    };
    if possible {
        expect_good(ctx, device)?;
    }
    let used = used_since(device, start)?;
    let expected = if possible { GOOD as u32 } else { 0 };
    check(used == expected, || {
        format!("{used} chains used, not {expected}")
    })?;
    // C has stepped over a chain that it finds fault with after translating it.
    if !lets_c_off(ctx)? {
        let base = device.vhost.base(TX)?;
        // CAST: a few.
        let stopped = device.tx.layout.base_after(start, expected as u16);
        check(base == stopped, || {
            format!("stopped at {base:#x}, not at {stopped:#x}")
        })?;
    }
    device.bind(TX)?;
    recover(ctx, device, round)
}

/// Less than an Ethernet header: dropped, the ring goes on.
fn short_frame(ctx: &Context) -> Result<()> {
    for features in [0, feature::EVENT_IDX] {
        let mut device = NetDevice::start(&ctx.device, evil::setup(features))?;
        for round in 0..20 {
            for len in 0..14 {
                let mut bytes = Vec::new();
                frame::build(ctx.seed, round, len, &mut bytes);
                device.tx_post(NetHeader::default(), &bytes)?;
            }
            device.tx.flush()?;
            let mut back = 0;
            Deadline::patient().until("short frames to come back", || {
                back += device.tx_reap()?;
                Ok(back == 14)
            })?;
            traffic::transmit(&mut device, Plan::new(ctx.seed + round, 20, |_| 14))?;
        }
        let errors = device.tx.err.take()?;
        check(errors == 0, || {
            format!("{errors} errors for frames that are just short")
        })?;
    }
    Ok(())
}

fn short_header(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, evil::setup(0))?;
    for len in 1..12 {
        let start = device.tx.ring.base();
        submit(ctx, &mut device, |w| w.one(TOUCHING[0], len, 0))?;
        expect_good(ctx, &mut device)?;
        // C says nothing and tries such a chain again for ever.
        if !lets_c_off(ctx)? {
            expect_stop(&device)?;
        }
        only_good_used(&device, start)?;
        device.bind(TX)?;
        recover(ctx, &mut device, u64::from(len)).with_context(|| format!("{len} bytes"))?;
    }
    Ok(())
}

/// A buffer over the seam of two regions is one buffer.
fn touching(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, evil::setup(0))?;
    let seam = TOUCHING[1];
    for before in [1, 11, 12, 13, 26, 27, 60, 111] {
        let mut bytes = vec![0; 12];
        let mut content = Vec::new();
        frame::build(ctx.seed, before, 100, &mut content);
        bytes.extend_from_slice(&content);
        device.memory.write(seam - before, &bytes);
        submit(ctx, &mut device, |w| w.one(seam - before, 112, 0))?;
        expect_good(ctx, &mut device)?;
        let came = Deadline::patient().readable(&[&device.peer])?;
        check(came, || {
            format!("nothing came, {before} bytes before the seam")
        })?;
        let mut got = Vec::new();
        device.peer.receive(&mut got)?;
        frame::expect("seam", before, &content, &got)?;
        recover(ctx, &mut device, before)?;
    }
    let errors = device.tx.err.take()?;
    check(errors == 0, || {
        format!("{errors} errors for a buffer over two regions")
    })
}

/// A page that the process took away from under the guest.
fn closed_page(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, evil::setup(0))?;
    // The page holds all of the frame, or its end only.
    for (round, addr, len) in [(0, 0x4000, 100), (1, 0x3fc0, 200), (2, 0x3000, 4200)] {
        let close = |device: &NetDevice, open| {
            let (map, offset) = device.memory.mapping(TOUCHING[0] + 0x4000);
            map.protect(offset, 0x2000, open)
        };
        let start = device.tx.ring.base();
        close(&device, false)?;
        submit(ctx, &mut device, |w| w.one(TOUCHING[0] + addr, len, 0))?;
        expect_good(ctx, &mut device)?;
        // C says nothing: frames that fit a page it tries again for ever, longer ones it drops.
        if !lets_c_off(ctx)? {
            expect_stop(&device)?;
            only_good_used(&device, start)?;
            device.bind(TX)?;
        }
        device.unbind(TX)?;
        close(&device, true)?;
        device.bind(TX)?;
        recover(ctx, &mut device, round)?;
    }
    Ok(())
}

/// Ring memory that the process took away.
fn closed_ring(ctx: &Context) -> Result<()> {
    let mut setup = evil::setup(0);
    // No page of a ring has anything else.
    setup.removable = true;
    let mut device = NetDevice::start(&ctx.device, setup)?;
    let [descriptors, available, used] = device.tx.layout.areas().map(|area| area.addr);
    let (first, second) = match device.tx.layout {
        Layout::Split(_) => (("available", available), ("used", used)),
        Layout::Packed(_) => (("packed", descriptors), ("packed", descriptors)),
    };
    for (round, (what, part)) in [first, second].into_iter().cycle().take(6).enumerate() {
        let mut bytes = Vec::new();
        frame::build(ctx.seed, 0, 100, &mut bytes);
        device.tx_post(NetHeader::default(), &bytes)?;
        // Published, but not kicked before the page is closed.
        let wanted = device.tx.ring.publish();
        let (map, offset) = device.memory.mapping(part);
        map.protect(offset, 4096, false)?;
        device.tx.kick.kick_if(wanted)?;
        expect_stop(&device).with_context(|| format!("{what} ring closed"))?;
        device.unbind(TX)?;
        let (map, offset) = device.memory.mapping(part);
        map.protect(offset, 4096, true)?;
        if part != used {
            // Nothing was taken, so the frame goes out as soon as the ring can be read again.
            device.bind(TX)?;
            let came = Deadline::patient().readable(&[&device.peer])?;
            check(came, || "the frame did not go out afterwards".into())?;
        }
        // With the used ring closed it is not told whether the frame went out; with the queue
        // reset nothing more does.
        device.reset_queue(TX, 0)?;
        while device.peer.receive(&mut bytes)?.is_some() {}
        recover(ctx, &mut device, round as u64).with_context(|| format!("{what} ring closed"))?;
    }
    Ok(())
}
