// SPDX-License-Identifier: GPL-2.0

//! Rings, chains and headers that earlier kernels handled wrongly.

use crate::cases::common::frames::expect_no_errors;
use crate::cases::common::iommu::Behind;
use crate::cases::common::live::move_ring;
use crate::cases::common::log::{TOUCHING, bare, compare, receive_into, segment, settled};
use crate::cases::common::{Case, Context, ring_case};
use crate::driver::device::Setup;
use crate::driver::iotlb::VERSION_2;
use crate::driver::ring::Segment;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    ring_case("history.empty_buffers", 60, empty_buffers),
    ring_case("history.moved_ring", 60, moved_ring),
];

/// More empty buffers than a chain may have pieces, in front of one that is not, and all logged.
fn empty_buffers(ctx: &Context) -> Result<()> {
    let mut setup = Setup::new(feature::VERSION_1 | feature::INDIRECT);
    setup.rx_size = 2048;
    let (mut device, log) = bare(ctx, setup)?;
    let [first, second] = TOUCHING;
    let mut chain: Vec<Segment> = (0..1500).map(|n| segment(first + 16 * n, 0)).collect();
    chain.push(segment(second + 0xf80, 300));
    chain.extend((0..200).map(|n| segment(first + 16 * n, 0)));
    for round in 0..3 {
        // A table of its own needs memory that the buffers do not.
        for table in [None, Some(second + 0x4000)] {
            let what = || format!("round {round}, table at {table:x?}");
            let pages = receive_into(ctx, &mut device, &chain, table).with_context(what)?;
            let logged = settled(&device, &log)?;
            compare(&logged, &pages, &pages).with_context(what)?;
        }
    }
    expect_no_errors(&device)
}

/// After a ring has moved to other IO addresses, the device does not access the old ones.
fn moved_ring(ctx: &Context) -> Result<()> {
    for features in [0, feature::EVENT_IDX] {
        let mut setup = Setup::new(feature::VERSION_1 | features);
        setup.scattered = true;
        setup.regions = vec![(0x4000_0000, 1 << 20)];
        Behind::start(ctx, setup, VERSION_2)?.run(|device, _| {
            traffic::exchange(device, Plan::new(ctx.seed, 300, |_| 100))?;
            for (round, index) in [RX, TX, RX, TX].into_iter().enumerate() {
                move_ring(ctx, device, index, false)
                    .with_context(|| format!("move {round}, features {features:#x}"))?;
            }
            expect_no_errors(device)
        })?;
    }
    Ok(())
}
