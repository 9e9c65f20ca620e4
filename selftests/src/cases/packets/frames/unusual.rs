// SPDX-License-Identifier: GPL-2.0

//! VLAN tags, which the kernel keeps outside the frame's data, frames longer than a buffer, and
//! headers that are wrong.

use crate::cases::common::{Case, Context, case, check, lets_c_off};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::host::procfs;
use crate::host::wire::{Kind, Wire};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

pub(crate) const CASES: &[Case] = &[
    case("frames.tagged", 120, |ctx| on_all(ctx, tagged)),
    case("frames.jumbo", 60, |ctx| on_all(ctx, jumbo)),
    case("frames.headers", 60, |ctx| on_all(ctx, headers)),
];

const MERGE: u64 = feature::VERSION_1 | feature::MRG_RXBUF;

fn on_all(ctx: &Context, run: fn(&Context, &Wire) -> Result<()>) -> Result<()> {
    for kind in [Kind::Tap, Kind::Macvtap, Kind::Ipvtap, Kind::Packet] {
        let wire = Wire::new(kind, 0)?;
        run(ctx, &wire).with_context(|| format!("{kind:?}"))?;
    }
    Ok(())
}

fn start(ctx: &Context, wire: &Wire, features: u64, rx_buffer: usize) -> Result<NetDevice> {
    let mut setup = Setup::new(features);
    setup.rx_buffers = (128, rx_buffer);
    setup.tx_buffers = (64, 10240);
    setup.tcp = true;
    NetDevice::start_on(&ctx.device, wire, setup)
}

/// Sends a frame to the guest, which gets it or not.
fn deliver(device: &mut NetDevice, sent: &[u8], expected: Option<&[u8]>) -> Result<()> {
    let pending = device.rx.ring.pending();
    let mut got = Vec::new();
    device.peer.send(NetHeader::default(), sent)?;
    let Some(expected) = expected else {
        return Ok(());
    };
    Deadline::patient().until("a frame", || Ok(device.rx_take(&mut got)?.is_some()))?;
    frame::expect("received", 0, expected, &got)?;
    let size = device.setup.rx_buffers.1;
    let buffers = (expected.len() + device.setup.header()).div_ceil(size);
    let used = pending - device.rx.ring.pending();
    check(used == buffers, || {
        format!("{used} buffers used, not {buffers}")
    })?;
    device.rx_fill()?;
    device.rx.flush()?;
    Ok(())
}

/// A VLAN tag travels beside the frame inside the kernel, and in it to and from the guest. A packet
/// socket does not hand it out: such frames are lost, and the queue goes on.
fn tagged(ctx: &Context, wire: &Wire) -> Result<()> {
    for (features, rx_buffer) in [(MERGE, 128), (MERGE, 2048), (feature::VERSION_1, 2048)] {
        let mut device = start(ctx, wire, features, rx_buffer)?;
        let plain = std::mem::replace(&mut device.peer, device.setup.peer(wire.tagged_index()?)?);
        device.rx_fill()?;
        device.rx.flush()?;
        let (mut bytes, mut got) = (Vec::new(), Vec::new());
        // The tag ends a buffer of 128 bytes, or begins the next.
        for (sequence, len) in (0..).zip([60, 111, 112, 113, 239, 240, 241, 1500, 2032]) {
            frame::build_tcp(ctx.seed, sequence, len, &mut bytes);
            let with_tag = Wire::tag(&bytes);
            let arrives = wire.kind != Kind::Packet;
            deliver(&mut device, &bytes, arrives.then_some(&with_tag))
                .with_context(|| format!("{len} bytes to buffers of {rx_buffer}"))?;
            device.tx_post(NetHeader::default(), &with_tag)?;
            device.tx.flush()?;
            Deadline::patient().until("a frame at the peer", || {
                Ok(device.peer.receive(&mut got)?.is_some())
            })?;
            frame::expect("transmitted", sequence, &bytes, &got)?;
            device.tx_reap()?;
        }
        procfs::idle()?;
        check(device.rx_take(&mut got)?.is_none(), || {
            "one frame too many".into()
        })?;
        device.peer = plain;
        while device.peer.receive(&mut got)?.is_some() {}
        let plan = Plan {
            ip: true,
            ..Plan::new(ctx.seed, 50, |_| 300)
        };
        traffic::exchange(&mut device, plan)?;
    }
    Ok(())
}

/// Frames of 9000 bytes for buffers of an ordinary frame: merged, or else dropped at no cost.
fn jumbo(ctx: &Context, wire: &Wire) -> Result<()> {
    for features in [
        feature::VERSION_1,
        MERGE,
        feature::VERSION_1 | feature::NET_HDR,
    ] {
        let mut device = start(ctx, wire, features, 1526)?;
        device.rx_fill()?;
        device.rx.flush()?;
        let mut bytes = Vec::new();
        for sequence in 0..60 {
            let len = [9000, 1514, 1515, 60][(sequence % 4) as usize];
            frame::build_tcp(ctx.seed, sequence, len, &mut bytes);
            let arrives = len <= 1514 || features & feature::MRG_RXBUF != 0;
            deliver(&mut device, &bytes, arrives.then_some(&bytes))
                .with_context(|| format!("frame {sequence}, features {features:#x}"))?;
        }
    }
    Ok(())
}

/// Packet headers with arbitrary content: the packet may be dropped, but its buffer is always
/// returned.
fn headers(ctx: &Context, wire: &Wire) -> Result<()> {
    let mut device = start(ctx, wire, feature::VERSION_1, 2048)?;
    lying_headers(ctx, &mut device)?;
    let errors = device.tx.err.take()?;
    check(errors == 0, || format!("{errors} errors"))?;
    let plan = Plan {
        ip: true,
        ..Plan::new(ctx.seed, 50, |_| 300)
    };
    traffic::exchange(&mut device, plan)
}

fn lying_headers(ctx: &Context, device: &mut NetDevice) -> Result<()> {
    let mut rng = SmallRng::seed_from_u64(ctx.seed);
    let (mut bytes, mut got) = (Vec::new(), Vec::new());
    for _ in 0..30 {
        let mut sent = 0;
        loop {
            frame::build_tcp(ctx.seed, sent, rng.random_range(60..3000), &mut bytes);
            let mut word = || match rng.random_range(0..4) {
                0 => rng.random(),
                1 => rng.random_range(0..64),
                2 => 0,
                _ => u16::MAX - rng.random_range(0..4),
            };
            let mut header = NetHeader {
                hdr_len: word(),
                gso_size: word(),
                csum_start: word(),
                csum_offset: word(),
                num_buffers: word(),
                ..NetHeader::default()
            };
            header.flags = rng.random();
            if lets_c_off(ctx)? {
                // C retries a packet whose checksum lies beyond its end for ever.
                header.flags &= !1;
            }
            header.gso_type = rng.random();
            if !device.tx_post(header, &bytes)? {
                break;
            }
            sent += 1;
        }
        device.tx.flush()?;
        let mut back = 0;
        Deadline::patient().until("packets to come back", || {
            back += device.tx_reap()? as u64;
            while device.peer.receive(&mut got)?.is_some() {}
            Ok(back == sent)
        })?;
        check(sent > 0, || "nothing was sent".into())?;
    }
    // A good frame follows the last of them.
    frame::build_tcp(ctx.seed + 1, 0, 60, &mut bytes);
    device.tx_post(NetHeader::default(), &bytes)?;
    device.tx.flush()?;
    Deadline::patient().until("a good packet", || {
        let came = device.peer.receive(&mut got)?.is_some();
        Ok(came && got == bytes)
    })?;
    device.tx_reap()?;
    Ok(())
}
