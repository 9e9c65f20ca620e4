// SPDX-License-Identifier: GPL-2.0

//! Every byte of frames of all sizes, under every combination of ring features.

use super::{Case, Context, case};
use crate::driver::device::{NetDevice, Setup, Shape};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::host::tap::{OFFLOAD_CSUM, OFFLOAD_TSO4};
use anyhow::{Context as _, Result};

pub(super) const CASES: &[Case] = &[
    case("tx.integrity", 90, tx_matrix),
    case("rx.integrity", 90, rx_matrix),
    case("tx.layout", 60, tx_layout),
    case("rx.layout", 60, rx_layout),
    case("tx.gso", 60, tx_gso),
    case("rx.gso", 60, rx_gso),
    case("net.device_header", 60, device_header),
    case("tx.send_buffer", 60, send_buffer),
];

const SIZES: [usize; 11] = [14, 60, 64, 128, 1499, 1500, 1514, 4096, 9000, 16384, 65000];

/// All sizes in turn.
pub(super) fn all_sizes(sequence: u64) -> usize {
    SIZES[(sequence % 11) as usize]
}

/// Every set of features that changes how a ring or a frame looks.
fn matrix() -> Vec<u64> {
    let mut sets = Vec::new();
    for version in [feature::VERSION_1, 0] {
        for ring in [
            0,
            feature::EVENT_IDX,
            feature::INDIRECT,
            feature::EVENT_IDX | feature::INDIRECT,
        ] {
            for merge in [0, feature::MRG_RXBUF] {
                sets.push(version | ring | merge);
            }
        }
    }
    sets
}

/// A device whose buffers hold the largest frames, or that merges smaller ones.
pub(super) fn roomy(features: u64) -> Setup {
    let mut setup = Setup::new(features);
    let indirect = features & feature::INDIRECT != 0;
    setup.tx_buffers = (32, 65536);
    setup.tx_shape = Shape {
        own_header: true,
        piece: 4096,
        indirect,
    };
    if features & feature::MRG_RXBUF == 0 {
        setup.rx_buffers = (16, 65536);
        setup.rx_shape = Shape {
            own_header: false,
            piece: 8192,
            indirect,
        };
    } else {
        setup.rx_shape = Shape {
            own_header: false,
            piece: 1024,
            indirect,
        };
    }
    setup
}

fn tx_matrix(ctx: &Context) -> Result<()> {
    for (round, features) in (0..).zip(matrix()) {
        let mut device = NetDevice::start(&ctx.device, roomy(features))?;
        traffic::transmit(&mut device, Plan::new(ctx.seed + round, 110, all_sizes))
            .with_context(|| format!("features {features:#x}"))?;
    }
    Ok(())
}

fn rx_matrix(ctx: &Context) -> Result<()> {
    for (round, features) in (0..).zip(matrix()) {
        let mut device = NetDevice::start(&ctx.device, roomy(features))?;
        traffic::receive(&mut device, Plan::new(ctx.seed + round, 110, all_sizes))
            .with_context(|| format!("features {features:#x}"))?;
    }
    Ok(())
}

/// Ways to cut a frame of at most 988 bytes and its header of 12 into descriptors.
fn shapes() -> Vec<(&'static str, Shape)> {
    let shape = |own_header, piece, indirect| Shape {
        own_header,
        piece,
        indirect,
    };
    vec![
        ("shared header", shape(false, usize::MAX, false)),
        ("own header", shape(true, usize::MAX, false)),
        ("shared header, indirect", shape(false, usize::MAX, true)),
        ("pieces that cut the header", shape(false, 7, false)),
        ("pieces of 11 bytes, indirect", shape(true, 11, true)),
        ("single bytes", shape(false, 1, false)),
        ("single bytes, indirect", shape(false, 1, true)),
    ]
}

/// Short frames, and each tenth so long that byte by byte it takes 1000 descriptors.
fn cut_sizes(sequence: u64) -> usize {
    match sequence % 10 {
        9 => 988,
        n => 14 + 17 * n as usize,
    }
}

fn layout_setup(shape: Shape, legacy: bool) -> Setup {
    let version = if legacy { 0 } else { feature::VERSION_1 };
    let mut setup = Setup::new(version | feature::INDIRECT);
    setup.table = 1000;
    setup.rx_size = 1024;
    setup.tx_size = 1024;
    setup.tx_buffers = (32, 1000);
    setup.rx_buffers = (32, 1000);
    setup.tx_shape = shape;
    setup.rx_shape = shape;
    setup
}

fn layout(ctx: &Context, go: fn(&mut NetDevice, Plan) -> Result<()>) -> Result<()> {
    for (round, (what, shape)) in (0..).zip(shapes()) {
        for legacy in [false, true] {
            let setup = layout_setup(shape, legacy);
            let mut device = NetDevice::start(&ctx.device, setup)?;
            go(&mut device, Plan::new(ctx.seed + round, 40, cut_sizes)).context(what)?;
        }
    }
    Ok(())
}

fn tx_layout(ctx: &Context) -> Result<()> {
    layout(ctx, traffic::transmit)
}

fn rx_layout(ctx: &Context) -> Result<()> {
    layout(ctx, traffic::receive)
}

/// Sizes of TCP frames, from the shortest to the longest there is.
fn tcp_sizes(sequence: u64) -> usize {
    [60, 54, 1500, 1502, 1503, 3000, 9000, 32768, 65000, 65535][(sequence % 10) as usize]
}

fn gso(ctx: &Context, go: fn(&mut NetDevice, Plan) -> Result<()>) -> Result<()> {
    for features in [
        feature::VERSION_1,
        feature::VERSION_1 | feature::MRG_RXBUF,
        0,
    ] {
        let mut setup = roomy(features);
        setup.tx_buffers.1 = 65536 + 64;
        if features & feature::MRG_RXBUF == 0 {
            setup.rx_buffers.1 = 65536 + 64;
        }
        setup.offloads = OFFLOAD_CSUM | OFFLOAD_TSO4;
        setup.tcp = true;
        let mut device = NetDevice::start(&ctx.device, setup)?;
        let plan = Plan {
            tcp: true,
            ..Plan::new(ctx.seed, 200, tcp_sizes)
        };
        go(&mut device, plan).with_context(|| format!("features {features:#x}"))?;
    }
    Ok(())
}

fn tx_gso(ctx: &Context) -> Result<()> {
    gso(ctx, traffic::transmit)
}

fn rx_gso(ctx: &Context) -> Result<()> {
    gso(ctx, traffic::receive)
}

/// The tap has no headers, the device makes and takes them.
fn device_header(ctx: &Context) -> Result<()> {
    for features in [
        feature::VERSION_1,
        0,
        feature::MRG_RXBUF,
        feature::EVENT_IDX,
    ] {
        let features = features | feature::NET_HDR;
        let mut device = NetDevice::start(&ctx.device, roomy(features))?;
        traffic::exchange(&mut device, Plan::new(ctx.seed, 220, all_sizes))
            .with_context(|| format!("features {features:#x}"))?;
    }
    Ok(())
}

/// With a limit on frames in flight each is sent by itself, and may have to wait.
fn send_buffer(ctx: &Context) -> Result<()> {
    for bytes in [1 << 20, 100_000] {
        let mut device = NetDevice::start(&ctx.device, roomy(feature::VERSION_1))?;
        device.tap.set_send_buffer(bytes)?;
        traffic::exchange(&mut device, Plan::new(ctx.seed, 330, all_sizes))
            .with_context(|| format!("a send buffer of {bytes}"))?;
    }
    Ok(())
}
