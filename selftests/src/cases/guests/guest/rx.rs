// SPDX-License-Identifier: GPL-2.0

//! A receiving guest that breaks the rules.

use super::evil::{self, Pattern, TOUCHING, Writer};
use crate::cases::common::{Case, Context, check, lets_c_off, ring_case};
use crate::driver::device::NetDevice;
use crate::driver::layout::Layout;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::RX;
use crate::host::procfs;
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    ring_case("guest.rx_bad_ring", 90, bad_ring),
    ring_case("guest.rx_bad_second_buffer", 90, bad_second),
    ring_case("guest.rx_touching_regions", 60, touching),
    ring_case("guest.rx_closed_page", 60, closed_page),
    ring_case("guest.rx_closed_ring", 60, closed_ring),
];

fn send(ctx: &Context, device: &mut NetDevice, sequence: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    frame::build(ctx.seed, sequence, len, &mut bytes);
    device.peer.send(NetHeader::default(), &bytes)?;
    Ok(bytes)
}

fn take(device: &mut NetDevice) -> Result<Vec<u8>> {
    let mut got = Vec::new();
    Deadline::patient().until("a frame", || Ok(device.rx_take(&mut got)?.is_some()))?;
    Ok(got)
}

fn expect_stop(ctx: &Context, device: &NetDevice, base: u32) -> Result<()> {
    let told = Deadline::patient().readable(&[&device.rx.err])?;
    check(told, || "the error descriptor was not signalled".into())?;
    device.unbind(RX)?;
    let used = device.rx.layout.used_since(&device.memory, base);
    check(used == 0, || format!("{used} chains used"))?;
    // C has stepped over a chain that it finds fault with after translating it.
    if !lets_c_off(ctx)? {
        let stopped = device.vhost.base(RX)?;
        check(stopped == base, || {
            format!("stopped at {stopped:#x}, not at {base:#x}")
        })?;
    }
    device.bind(RX)
}

/// The frame that met the bad buffer is not lost, and both queues work.
fn recover(ctx: &Context, device: &mut NetDevice, round: u64, waiting: &[u8]) -> Result<()> {
    traffic::transmit(device, Plan::new(ctx.seed + round, 10, |_| 100))
        .context("the transmit queue after the receive queue's trouble")?;
    device.reset_queue(RX, (round * 1000) as u16)?;
    device.rx_fill()?;
    device.rx.flush()?;
    let got = take(device).context("the frame that waited")?;
    frame::expect("waiting", round, waiting, &got)?;
    traffic::exchange(device, Plan::new(ctx.seed + round, 10, |_| 100)).context("after a reset")?;
    // An empty ring for the next pattern.
    device.reset_queue(RX, (round * 1000 + 7) as u16)
}

fn bad_ring(ctx: &Context) -> Result<()> {
    for features in [0, feature::MRG_RXBUF | feature::EVENT_IDX] {
        let mut device = NetDevice::start(&ctx.device, evil::setup(features))?;
        for (round, (what, write)) in (0..).zip(evil::stopping(ctx.device.format)) {
            let base = device.rx.ring.base();
            write(&Writer::new(&device, RX, 0));
            // CAST: the lower half.
            device.rx.flush_from(base as u16)?;
            let bytes = send(ctx, &mut device, round, 200)?;
            let result = expect_stop(ctx, &device, base)
                .and_then(|()| recover(ctx, &mut device, round, &bytes));
            result.context(what)?;
        }
    }
    Ok(())
}

/// A good buffer first, so that part of the frame has a place already.
fn bad_second(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, evil::setup(feature::MRG_RXBUF))?;
    let jumps = |pattern: &Pattern| pattern.0.starts_with("an index");
    let patterns = evil::stopping(ctx.device.format).filter(|pattern| !jumps(pattern));
    for (round, (what, write)) in (0..).zip(patterns) {
        let base = device.rx.ring.base();
        Writer::new(&device, RX, 0).one_at(100, (TOUCHING[0] + 0x1000, 64, 0));
        write(&Writer::new(&device, RX, 1));
        // CAST: the lower half.
        device.rx.flush_from(base as u16)?;
        let bytes = send(ctx, &mut device, round, 200)?;
        let result =
            expect_stop(ctx, &device, base).and_then(|()| recover(ctx, &mut device, round, &bytes));
        result.context(what)?;
    }
    Ok(())
}

/// Buffers over the seam of two regions, alone or as the second of a chain.
fn touching(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, evil::setup(0))?;
    let seam = TOUCHING[1];
    for before in [1u64, 9, 10, 11, 12, 13, 100, 211] {
        for split in [false, true] {
            device.reset_queue(RX, before as u16)?;
            let base = device.rx.ring.base();
            let writer = Writer::new(&device, RX, 0);
            let start = if split {
                writer.chain(&[(seam + 0x2000, 5, 0), (seam - before, 400, 0)]);
                5
            } else {
                writer.one(seam - before, 400, 0);
                0
            };
            // CAST: the lower half.
            device.rx.flush_from(base as u16)?;
            let bytes = send(ctx, &mut device, before, 200)?;
            Deadline::patient().until("the frame over the seam", || {
                Ok(device.rx.layout.used_since(&device.memory, base) == 1)
            })?;
            let mut got = vec![0; 212];
            let (first, rest) = got.split_at_mut(start);
            device.memory.read(seam + 0x2000, first);
            device.memory.read(seam - before, rest);
            frame::expect("seam", before, &bytes, &got[12..])?;
            let errors = device.rx.err.take()?;
            check(errors == 0, || {
                format!("{errors} errors for a buffer over two regions")
            })?;
        }
    }
    Ok(())
}

/// After a reset another frame comes; whether that before it survives is not told anywhere.
fn receive_next(ctx: &Context, device: &mut NetDevice, round: u64, first: &[u8]) -> Result<()> {
    device.reset_queue(RX, round as u16)?;
    device.rx_fill()?;
    device.rx.flush()?;
    let second = send(ctx, device, round + 1000, 300)?;
    let mut got = take(device)?;
    if got == first {
        got = take(device)?;
    }
    frame::expect("second", round, &second, &got)
}

/// A buffer in a page that the process took away.
fn closed_page(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, evil::setup(0))?;
    for round in 0..4 {
        device.reset_queue(RX, round as u16)?;
        let page = TOUCHING[0] + 0x4000;
        let (map, offset) = device.memory.mapping(page);
        map.protect(offset, 0x1000, false)?;
        // The header fits before the page in every other round.
        let addr = if round % 2 == 0 { page } else { page - 50 };
        let base = device.rx.ring.base();
        Writer::new(&device, RX, 0).one(addr, 1000, 0);
        // CAST: the lower half.
        device.rx.flush_from(base as u16)?;
        let first = send(ctx, &mut device, round, 200)?;
        // C says nothing: it loses the frame where the header could not be written, and claims to
        // have written it where only the rest could not.
        if !lets_c_off(ctx)? {
            let told = Deadline::patient().readable(&[&device.rx.err])?;
            check(told, || {
                format!("round {round}: the error descriptor was not signalled")
            })?;
        } else {
            // The worker has met the page once the peer's frame is in the tap and it is idle.
            procfs::idle()?;
        }
        device.unbind(RX)?;
        let (map, offset) = device.memory.mapping(page);
        map.protect(offset, 0x1000, true)?;
        device.bind(RX)?;
        traffic::transmit(&mut device, Plan::new(ctx.seed + round, 10, |_| 100))?;
        receive_next(ctx, &mut device, round, &first)?;
    }
    Ok(())
}

/// A part of the ring in a page that the process took away.
fn closed_ring(ctx: &Context) -> Result<()> {
    let mut setup = evil::setup(0);
    // No page of a ring has anything else.
    setup.removable = true;
    let mut device = NetDevice::start(&ctx.device, setup)?;
    let [descriptors, available, used] = device.rx.layout.areas().map(|area| area.addr);
    let parts = match device.rx.layout {
        Layout::Split(_) => [("available", available), ("used", used)],
        Layout::Packed(_) => [("packed", descriptors); 2],
    };
    for (round, (what, part)) in (0..6).zip(parts.into_iter().cycle()) {
        // Starts at a new index each time, so that a left-over index would show.
        let start = round * 1000;
        device.reset_queue(RX, start)?;
        // Far from the ring, whose pages have other buffers.
        let base = device.rx.ring.base();
        Writer::new(&device, RX, 0).one(TOUCHING[0] + 0x4000, 1000, 0);
        // CAST: the lower half.
        device.rx.flush_from(base as u16)?;
        procfs::idle()?;
        let (map, offset) = device.memory.mapping(part);
        map.protect(offset, 4096, false)?;
        let first = send(ctx, &mut device, round.into(), 200)?;
        let told = Deadline::patient().readable(&[&device.rx.err])?;
        check(told, || format!("{what} ring closed: no error"))?;
        device.unbind(RX)?;
        let (map, offset) = device.memory.mapping(part);
        map.protect(offset, 4096, true)?;
        traffic::transmit(&mut device, Plan::new(ctx.seed, 10, |_| 100))?;
        receive_next(ctx, &mut device, round.into(), &first)
            .with_context(|| format!("{what} ring closed"))?;
        device.rx.err.take()?;
    }
    Ok(())
}
