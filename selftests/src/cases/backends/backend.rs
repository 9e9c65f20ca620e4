// SPDX-License-Identifier: GPL-2.0

//! Traffic on every kind of backend, under every set of features that changes what it sees.

use crate::cases::common::frames::{all_sizes, roomy};
use crate::cases::common::{Case, Context, case, ring_case};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::host::tap::{OFFLOAD_CSUM, OFFLOAD_TSO4};
use crate::host::wire::{Kind, Wire};
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    ring_case("backend.tap", 180, |ctx| traffic_on(ctx, Kind::Tap)),
    case("backend.napi", 180, |ctx| traffic_on(ctx, Kind::Napi)),
    case("backend.macvtap", 180, |ctx| traffic_on(ctx, Kind::Macvtap)),
    case("backend.ipvtap", 180, |ctx| traffic_on(ctx, Kind::Ipvtap)),
    case("backend.packet", 180, |ctx| traffic_on(ctx, Kind::Packet)),
];

/// What the guest accepts.
const FEATURES: [u64; 7] = [
    0,
    feature::MRG_RXBUF,
    feature::VERSION_1,
    feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT,
    feature::VERSION_1 | feature::MRG_RXBUF,
    feature::VERSION_1 | feature::MRG_RXBUF | feature::EVENT_IDX | feature::INDIRECT,
    feature::VERSION_1 | feature::MRG_RXBUF | feature::EVENT_IDX | feature::IN_ORDER,
];

/// Short frames, for long runs.
fn short_sizes(sequence: u64) -> usize {
    60 + (sequence % 700) as usize
}

/// All sizes in turn, but none that is too short for IP.
fn ip_sizes(sequence: u64) -> usize {
    all_sizes(sequence).max(60)
}

/// Sizes of TCP frames to be segmented, and some that need not be.
fn segmented_sizes(sequence: u64) -> usize {
    [60, 1502, 1503, 9000, 32768, 65000, 65535][(sequence % 7) as usize]
}

/// Frames that the backend passes, of the sizes `size` answers.
fn plan(ctx: &Context, kind: Kind, count: u64, size: fn(u64) -> usize) -> Plan {
    Plan {
        ip: kind.only_ip(),
        ..Plan::new(ctx.seed, count, size)
    }
}

fn traffic_on(ctx: &Context, kind: Kind) -> Result<()> {
    let wire = Wire::new(kind, 0)?;
    for features in FEATURES {
        for header in [0, feature::NET_HDR] {
            let what = || format!("features {features:#x}, headers {header:#x}");
            let features = features | header;
            sizes(ctx, &wire, features).with_context(what)?;
            wrap(ctx, &wire, features).with_context(what)?;
        }
        if kind.orders_tcp() {
            segmented(ctx, &wire, features).with_context(|| format!("features {features:#x}"))?;
        }
    }
    if kind.is_tap() {
        limited(ctx, &wire)?;
    }
    Ok(())
}

fn start(ctx: &Context, wire: &Wire, mut setup: Setup) -> Result<NetDevice> {
    setup.tcp |= wire.kind.only_ip();
    NetDevice::start_on(&ctx.device, wire, setup)
}

/// Frames from the shortest to the longest.
fn sizes(ctx: &Context, wire: &Wire, features: u64) -> Result<()> {
    let mut device = start(ctx, wire, roomy(features))?;
    let size = if wire.kind.only_ip() {
        ip_sizes
    } else {
        all_sizes
    };
    traffic::exchange(&mut device, plan(ctx, wire.kind, 66, size))
}

/// A small ring, often around, and its indexes over their end.
fn wrap(ctx: &Context, wire: &Wire, features: u64) -> Result<()> {
    let mut setup = Setup::new(features);
    setup.rx_size = 64;
    setup.tx_size = 64;
    setup.rx_buffers.0 = 64;
    setup.tx_buffers.0 = 64;
    // A multiple of the size: in order a ring starts at its first entry.
    setup.base = 65536u32.wrapping_sub(512) as u16;
    let mut device = start(ctx, wire, setup)?;
    traffic::exchange(&mut device, plan(ctx, wire.kind, 700, short_sizes))
}

/// TCP frames of up to 64 KiB that nobody segments on the way.
fn segmented(ctx: &Context, wire: &Wire, features: u64) -> Result<()> {
    let mut setup = roomy(features);
    setup.tx_buffers.1 += 64;
    if features & feature::MRG_RXBUF == 0 {
        setup.rx_buffers.1 += 64;
    }
    setup.offloads = OFFLOAD_CSUM | OFFLOAD_TSO4;
    setup.tcp = true;
    let mut device = NetDevice::start_on(&ctx.device, wire, setup)?;
    let plan = Plan {
        tcp: true,
        ..Plan::new(ctx.seed, 70, segmented_sizes)
    };
    traffic::exchange(&mut device, plan).context("TCP frames")
}

/// With a limit on frames in flight each is sent by itself, and may have to wait.
fn limited(ctx: &Context, wire: &Wire) -> Result<()> {
    for bytes in [1 << 20, 100_000] {
        let mut device = start(ctx, wire, roomy(feature::VERSION_1))?;
        device.tap.set_send_buffer(bytes)?;
        traffic::exchange(&mut device, plan(ctx, wire.kind, 330, ip_sizes))
            .with_context(|| format!("a send buffer of {bytes}"))?;
    }
    Ok(())
}
