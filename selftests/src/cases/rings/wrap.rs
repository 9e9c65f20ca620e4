// SPDX-License-Identifier: GPL-2.0

//! Indexes that wrap, and rings of every size.

use crate::cases::common::{Case, Context, check, ring_case};
use crate::driver::device::{NetDevice, Setup, Shape};
use crate::driver::ring::Format;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    ring_case("wrap.plain", 120, plain),
    ring_case("wrap.events", 120, events),
    ring_case("wrap.ring_sizes", 150, sizes),
];

/// More frames than a 16-bit index counts.
const COUNT: u64 = 66_000;

fn many(ctx: &Context, features: u64, go: fn(&mut NetDevice, Plan) -> Result<()>) -> Result<()> {
    let mut setup = Setup::new(features);
    setup.tx_buffers = (256, 128);
    setup.rx_buffers = (256, 128);
    let mut device = NetDevice::start(&ctx.device, setup)?;
    let plan = Plan {
        window: 200,
        ..Plan::new(ctx.seed, COUNT, |_| 60)
    };
    go(&mut device, plan)
}

fn plain(ctx: &Context) -> Result<()> {
    many(ctx, feature::VERSION_1, traffic::exchange)
}

fn events(ctx: &Context) -> Result<()> {
    many(
        ctx,
        feature::VERSION_1 | feature::EVENT_IDX,
        traffic::exchange,
    )
}

/// Every ring size: the ring is full at some time, and carries more frames than it has descriptors.
fn sizes(ctx: &Context) -> Result<()> {
    let mut sizes: Vec<u16> = (1..=15).map(|bits| 1 << bits).collect();
    if ctx.device.format == Format::Packed {
        // Only a split ring has to have a power of two.
        sizes.extend([3, 7, 300, 1000, 20_001]);
    }
    for (round, size) in (0..).zip(sizes) {
        let events = feature::EVENT_IDX * (round % 2);
        let features = feature::VERSION_1 | events;
        let mut setup = Setup::new(features);
        setup.tx_size = size;
        setup.rx_size = size;
        setup.tx_buffers = (usize::from(size), 128);
        setup.rx_buffers = (usize::from(size), 128);
        if size <= 64 {
            // Chains of two descriptors, if that still makes the ring wrap.
            setup.tx_shape = Shape {
                own_header: true,
                ..Shape::WHOLE
            };
        }
        let mut device = NetDevice::start(&ctx.device, setup)?;
        let plan = Plan::new(ctx.seed + round, u64::from(size) + 70, |_| 60);
        traffic::exchange(
            &mut device,
            Plan {
                window: 400,
                ..plan
            },
        )
        .with_context(|| format!("rings of {size}"))?;
        let kicks = device.tx.kicks;
        check(kicks > 0, || "the device never wanted a kick".into())?;
    }
    Ok(())
}
