// SPDX-License-Identifier: GPL-2.0

//! A device behind an IOMMU (`VIRTIO_F_ACCESS_PLATFORM`): rings and buffers at IO addresses, whose
//! mappings it asks for, and which may change at any time.

pub(crate) mod calls;
pub(crate) mod log;
pub(crate) mod misses;

use crate::cases::common::frames::expect_no_errors;
use crate::cases::common::iommu::Behind;
use crate::cases::common::live::under_traffic;
use crate::cases::common::{Case, Context, check, frames, ring_case};
use crate::driver::device::Setup;
use crate::driver::iommu::PAGE;
use crate::driver::iotlb::{VERSION_1, VERSION_2};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use anyhow::{Context as _, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ring_case("iotlb.scattered", 120, scattered),
    ring_case("iotlb.ranges", 60, ranges),
    ring_case("iotlb.moved_pages", 90, moved_pages),
    ring_case("iotlb.eviction", 120, eviction),
    ring_case("iotlb.storm", 90, storm),
];

/// What vhost-net keeps at most, unless its module is told otherwise (`max_iotlb_entries`).
const ENTRIES: usize = 2048;

/// Rings of several pages, and all kinds of buffers, each page of them somewhere else.
fn scattered(ctx: &Context) -> Result<()> {
    for (round, extra) in (0..).zip([
        0,
        feature::EVENT_IDX,
        feature::INDIRECT,
        feature::MRG_RXBUF,
        feature::MRG_RXBUF | feature::EVENT_IDX | feature::INDIRECT,
        feature::IN_ORDER,
        feature::IN_ORDER | feature::EVENT_IDX | feature::MRG_RXBUF,
        feature::NET_HDR,
    ]) {
        let version = if round % 2 == 0 { VERSION_1 } else { VERSION_2 };
        let mut setup = frames::roomy(feature::VERSION_1 | extra);
        setup.scattered = true;
        (setup.rx_size, setup.tx_size) = (1024, 1024);
        Behind::start(ctx, setup, version)?
            .run(|device, iommu| {
                let plan = Plan::new(ctx.seed + round, 220, frames::all_sizes);
                traffic::exchange(device, plan)?;
                // More frames than a ring has places, so that all its pages are used.
                traffic::exchange(device, Plan::new(ctx.seed, 1100, |_| 60))?;
                let misses = iommu.take_misses().len();
                check(misses > 0, || "it never asked".into())?;
                expect_no_errors(device)
            })
            .with_context(|| format!("features {extra:#x}, version {version}"))?;
    }
    Ok(())
}

/// Large mappings, with buffers that lie over their ends.
fn ranges(ctx: &Context) -> Result<()> {
    for bits in [12, 13, 16, 21, 40] {
        let setup = frames::roomy(feature::VERSION_1);
        Behind::start(ctx, setup, VERSION_2)?
            .run(|device, iommu| {
                iommu.set_granule(1 << bits);
                traffic::exchange(device, Plan::new(ctx.seed, 220, frames::all_sizes))?;
                expect_no_errors(device)
            })
            .with_context(|| format!("granules of {bits} bits"))?;
    }
    Ok(())
}

/// Pages of rings and buffers move under traffic; the device follows, and leaves the old ones be.
fn moved_pages(ctx: &Context) -> Result<()> {
    for features in [
        0,
        feature::EVENT_IDX | feature::MRG_RXBUF,
        feature::INDIRECT,
    ] {
        let mut setup = Setup::new(feature::VERSION_1 | features);
        setup.scattered = true;
        (setup.rx_size, setup.tx_size) = (1024, 1024);
        if features & feature::INDIRECT != 0 {
            setup.tx_shape.indirect = true;
            setup.tx_shape.piece = 100;
        }
        Behind::start(ctx, setup, VERSION_2)?
            .run(|device, iommu| {
                let first = crate::driver::device::GUEST_BASE;
                let (last, len) = device.tx.buffers();
                let pages = (last + len as u64 - first) / PAGE;
                let [_, _, end] = device.tx.layout.areas();
                let rings = (end.addr - first) / PAGE + 3;
                under_traffic(ctx, device, 80, |_, number| {
                    // Rings, which are always in use, by turns with all there is.
                    for page in [number % rings, number * 31 % pages] {
                        iommu.move_page(first + page * PAGE)?;
                    }
                    Ok(())
                })?;
                for index in [RX, TX] {
                    device.unbind(index)?;
                }
                device.memory.spoiled_untouched()?;
                expect_no_errors(device)
            })
            .with_context(|| format!("features {features:#x}"))?;
    }
    Ok(())
}

/// More pages in use than the device keeps mappings.
fn eviction(ctx: &Context) -> Result<()> {
    let mut setup = Setup::new(feature::VERSION_1);
    setup.scattered = true;
    setup.rx_size = 4096;
    setup.rx_buffers = (4096, 3072);
    Behind::start(ctx, setup, VERSION_2)?.run(|device, iommu| {
        let plan = Plan {
            window: 200,
            ..Plan::new(ctx.seed, 3500, |_| 60)
        };
        traffic::receive(device, plan)?;
        let pages: BTreeSet<_> = iommu.take_misses().iter().map(|m| m.iova / PAGE).collect();
        check(pages.len() > ENTRIES, || {
            format!("only {} pages were asked for", pages.len())
        })?;
        expect_no_errors(device)
    })
}

/// Mappings come and go from several threads at once.
fn storm(ctx: &Context) -> Result<()> {
    for version in [VERSION_1, VERSION_2] {
        let mut setup = Setup::new(feature::VERSION_1 | feature::EVENT_IDX);
        setup.scattered = true;
        Behind::start(ctx, setup, version)?.run(|device, iommu| {
            let first = crate::driver::device::GUEST_BASE;
            let (last, len) = device.tx.buffers();
            let pages = (last + len as u64 - first) / PAGE;
            let stop = AtomicBool::new(false);
            let disturb = |seed: u64| -> Result<u64> {
                let mut rng = SmallRng::seed_from_u64(seed);
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let at = first + rng.random_range(0..pages) * PAGE;
                    match rng.random_range(0..4) {
                        0 => iommu.map(at, 4096)?,
                        1 => iommu.unmap(at, 16 * PAGE)?,
                        _ => iommu.unmap(at, PAGE)?,
                    }
                    count += 1;
                    // Else nothing would be mapped for long enough to be used.
                    std::thread::sleep(Duration::from_micros(200));
                }
                Ok(count)
            };
            std::thread::scope(|scope| {
                let seeds = [ctx.seed, ctx.seed + 1, ctx.seed + 2];
                let threads = seeds.map(|seed| {
                    scope.spawn({
                        let disturb = &disturb;
                        move || disturb(seed)
                    })
                });
                let result = traffic::exchange(device, Plan::new(ctx.seed, 2000, |_| 700));
                stop.store(true, Ordering::Relaxed);
                for thread in threads {
                    let count = thread.join().expect("a disturber does not panic")?;
                    check(count > 0, || "nothing was disturbed".into())?;
                }
                result
            })?;
            expect_no_errors(device)
        })?;
    }
    Ok(())
}
