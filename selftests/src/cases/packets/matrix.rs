// SPDX-License-Identifier: GPL-2.0

//! Every byte of frames of all sizes, under every combination of ring features and buffer layouts,
//! in either direction.

use crate::cases::common::Context;
use crate::cases::common::frames::{all_sizes, roomy};
use crate::driver::device::{NetDevice, Setup, Shape};
use crate::driver::traffic::Plan;
use crate::driver::uapi::feature;
use crate::host::tap::{OFFLOAD_CSUM, OFFLOAD_TSO4};
use anyhow::{Context as _, Result};

/// Every set of features that changes how a ring or a frame looks.
fn matrix(ctx: &Context) -> Vec<u64> {
    let mut sets = Vec::new();
    for version in ctx.device.versions() {
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

/// Frames of all sizes, under every such set of features.
pub(super) fn integrity(ctx: &Context, go: fn(&mut NetDevice, Plan) -> Result<()>) -> Result<()> {
    for (round, features) in (0..).zip(matrix(ctx)) {
        let mut device = NetDevice::start(&ctx.device, roomy(features))?;
        go(&mut device, Plan::new(ctx.seed + round, 110, all_sizes))
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

fn layout_setup(shape: Shape, version: u64) -> Setup {
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

pub(super) fn layout(ctx: &Context, go: fn(&mut NetDevice, Plan) -> Result<()>) -> Result<()> {
    for (round, (what, shape)) in (0..).zip(shapes()) {
        for version in ctx.device.versions() {
            let setup = layout_setup(shape, *version);
            let mut device = NetDevice::start(&ctx.device, setup)?;
            go(&mut device, Plan::new(ctx.seed + round, 40, cut_sizes)).context(what)?;
        }
    }
    Ok(())
}

/// Sizes of TCP frames, from the shortest to the longest there is.
fn tcp_sizes(sequence: u64) -> usize {
    [60, 54, 1500, 1502, 1503, 3000, 9000, 32768, 65000, 65535][(sequence % 10) as usize]
}

pub(super) fn gso(ctx: &Context, go: fn(&mut NetDevice, Plan) -> Result<()>) -> Result<()> {
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
