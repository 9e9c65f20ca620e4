// SPDX-License-Identifier: GPL-2.0

//! The dirty log names every page of guest memory that the device writes, and no other.

pub(crate) mod control;
pub(crate) mod live;

use crate::cases::common::log::{
    ALIAS, Logged, PATTERN, TOUCHING, USED, Watched, bare, compare, receive_into, segment, settled,
};
use crate::cases::common::{Case, Context, accepts, check, frames, lets_c_off, ring_case};
use crate::driver::device::Setup;
use crate::driver::log::{LOG_PAGE, Pages, cover};
use crate::driver::ring::Segment;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::{MemoryRegion, feature};
use crate::driver::vhost::RX;
use crate::host::procfs;
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    ring_case("log.exact", 120, exact),
    ring_case("log.exact_in_order", 60, exact_in_order),
    ring_case("log.used_ring", 60, used_ring),
    ring_case("log.rounds", 60, rounds),
    ring_case("log.chains", 60, chains),
    ring_case("log.alias", 60, alias),
    ring_case("log.half_written", 60, half_written),
];

/// Rings and buffers in all their forms, with frames enough for several turns of either ring.
fn exact(ctx: &Context) -> Result<()> {
    for version in ctx.device.versions() {
        for extra in [
            0,
            feature::EVENT_IDX,
            feature::INDIRECT,
            feature::MRG_RXBUF,
            feature::MRG_RXBUF | feature::EVENT_IDX | feature::INDIRECT,
            feature::NET_HDR,
        ] {
            let mut setup = frames::roomy(version | extra);
            setup.tx_size = 64;
            setup.rx_size = if extra & feature::MRG_RXBUF == 0 {
                64
            } else {
                256
            };
            form(ctx, setup).with_context(|| format!("features {:#x}", version | extra))?;
        }
    }
    Ok(())
}

fn exact_in_order(ctx: &Context) -> Result<()> {
    for extra in [
        0,
        feature::EVENT_IDX,
        feature::MRG_RXBUF | feature::INDIRECT,
    ] {
        let features = feature::VERSION_1 | feature::IN_ORDER | extra;
        form(ctx, frames::roomy(features)).with_context(|| format!("features {features:#x}"))?;
    }
    Ok(())
}

fn form(ctx: &Context, setup: Setup) -> Result<()> {
    let mut logged = Logged::start(ctx, setup, USED)?;
    // One frame alone leaves most pages alone.
    traffic::exchange(&mut logged.device, Plan::new(ctx.seed, 1, |_| 5000))?;
    logged.verify().context("one frame")?;
    logged.again()?;
    let plan = Plan::new(ctx.seed + 1, 220, frames::all_sizes);
    traffic::exchange(&mut logged.device, plan)?;
    logged.verify().context("frames of all sizes")?;
    logged.again()?;
    traffic::transmit(&mut logged.device, Plan::new(ctx.seed + 2, 100, |_| 1000))?;
    logged.verify().context("transmitted frames")
}

/// Used rings of several pages: each element, the flags and the event index on the page it is on.
fn used_ring(ctx: &Context) -> Result<()> {
    for (features, shift) in [
        (feature::VERSION_1, 0),
        (feature::VERSION_1 | feature::EVENT_IDX, 0),
        // Index and first element are on different pages, or an element is on two.
        (feature::VERSION_1 | feature::EVENT_IDX, 0xffc),
        (feature::VERSION_1, 0xff8),
    ] {
        let mut setup = Setup::new(features);
        (setup.rx_size, setup.tx_size) = (1024, 1024);
        (setup.rx_buffers, setup.tx_buffers) = ((300, 256), (300, 256));
        let used = USED.map(|at| at + shift);
        let mut logged = Logged::start(ctx, setup, used)?;
        for (round, count) in [(0, 1), (1, 30), (2, 500), (3, 500), (4, 2000)] {
            let plan = Plan {
                window: 200,
                ..Plan::new(ctx.seed + round, count, |_| 100)
            };
            traffic::exchange(&mut logged.device, plan)?;
            logged.verify().with_context(|| {
                format!("{count} frames, features {features:#x}, used rings at {used:#x?}")
            })?;
            logged.again()?;
        }
    }
    Ok(())
}

/// A bit that was taken is set again by the next write.
fn rounds(ctx: &Context) -> Result<()> {
    let setup = Setup::new(feature::VERSION_1 | feature::MRG_RXBUF);
    let mut logged = Logged::start(ctx, setup, USED)?;
    for round in 0..30 {
        let plan = Plan::new(ctx.seed + round, 1 + round * 3, |n| {
            60 + 200 * (n % 9) as usize
        });
        traffic::exchange(&mut logged.device, plan)?;
        logged.verify().with_context(|| format!("round {round}"))?;
        logged.again()?;
    }
    Ok(())
}

/// Chains that end and begin anywhere, with buffers that are empty, and with more than is needed.
fn chains(ctx: &Context) -> Result<()> {
    let (mut device, log) = bare(ctx, Setup::new(feature::VERSION_1))?;
    let [first, second] = TOUCHING;
    let empty = |addr| segment(addr, 0);
    let many: Vec<_> = (0..200)
        .map(|n| segment(first + 300 * n, if n % 3 == 1 { 0 } else { 20 }))
        .collect();
    let chains: &[(&str, Vec<Segment>)] = &[
        ("one page", vec![segment(first, 200)]),
        ("over a page's end", vec![segment(first + 0xfff, 200)]),
        (
            "its last byte on a page",
            vec![segment(first + 0x1000 - 199, 200)],
        ),
        ("to a page's end", vec![segment(first + 0x1000 - 200, 200)]),
        ("more than is needed", vec![segment(first + 0x1800, 0x8000)]),
        ("over a seam", vec![segment(second - 70, 200)]),
        (
            "a header for itself",
            vec![segment(first + 0x4ff4, 12), segment(second, 100)],
        ),
        (
            "a header on two pages",
            vec![segment(first + 0x4ffb, 12), segment(second, 100)],
        ),
        (
            "empty buffers",
            vec![
                empty(first + 0x3000),
                segment(first, 100),
                empty(first + 0x5000),
                segment(first + 0x6000, 100),
                empty(first + 0x7000),
            ],
        ),
        (
            "the same page twice",
            vec![
                segment(first + 8, 100),
                segment(second, 5),
                segment(first + 500, 100),
            ],
        ),
        ("many", many),
    ];
    for round in 0..3 {
        for (what, chain) in chains {
            let pages = receive_into(ctx, &mut device, chain, None).context(*what)?;
            let logged = settled(&device, &log)?;
            compare(&logged, &pages, &pages).with_context(|| format!("{what}, round {round}"))?;
        }
    }
    let errors = device.rx.err.take()?;
    check(errors == 0, || format!("{errors} errors"))
}

/// Memory with two guest addresses is logged at the one that the guest used. By rnet also at the
/// other: what the guest sees there has been written as much.
fn alias(ctx: &Context) -> Result<()> {
    let (mut device, log) = bare(ctx, Setup::new(feature::VERSION_1))?;
    let mut table = device.memory.table();
    let second = table.iter().filter(|region| region.guest == TOUCHING[0]);
    let second: Vec<_> = second
        .map(|region| MemoryRegion {
            guest: region.guest + ALIAS,
            ..*region
        })
        .collect();
    table.extend(second);
    accepts("SET_MEM_TABLE", device.vhost.set_memory(&table))?;
    for at in [TOUCHING[0], TOUCHING[0] + ALIAS] {
        let chain = [segment(at + 0xff0, 100), segment(at + 0x8000, 100)];
        let pages = receive_into(ctx, &mut device, &chain, None)?;
        let logged = settled(&device, &log)?;
        let seen_from = |base: u64| {
            let there = move |page: &u64| page - at / LOG_PAGE + base / LOG_PAGE;
            pages.iter().map(there).collect::<Pages>()
        };
        // C logs one of the addresses.
        let shown = match lets_c_off(ctx)? {
            true => pages,
            false => &seen_from(TOUCHING[0]) | &seen_from(TOUCHING[0] + ALIAS),
        };
        compare(&logged, &shown, &shown).with_context(|| format!("a chain at {at:#x}"))?;
    }
    Ok(())
}

/// What was written of a packet before it met a page that is not there is logged.
fn half_written(ctx: &Context) -> Result<()> {
    let (mut device, log) = bare(ctx, Setup::new(feature::VERSION_1))?;
    let memory = device.memory.clone();
    let (first, closed) = (TOUCHING[0] + 0x3000, TOUCHING[0] + 0x4000);
    let (map, offset) = memory.mapping(closed);
    for round in 0..4 {
        memory.fill(first, 4096, PATTERN);
        let watched = Watched::new(&memory, first, 4096, first);
        map.protect(offset, 4096, false)?;
        let chain = [segment(closed - 50, 1000)];
        device.rx.ring.add(&chain, None, 0)?;
        device.rx.flush()?;
        let mut bytes = Vec::new();
        frame::build(ctx.seed, round, 500, &mut bytes);
        device.peer.send(NetHeader::default(), &bytes)?;
        // C says nothing.
        if !lets_c_off(ctx)? {
            let told = Deadline::patient().readable(&[&device.rx.err])?;
            check(told, || "the error descriptor was not signalled".into())?;
        } else {
            procfs::idle()?;
        }
        let logged = settled(&device, &log)?;
        map.protect(offset, 4096, true)?;
        let written = watched.changed(&memory);
        check(!written.is_empty(), || "nothing was written".into())?;
        let mut possible = written.clone();
        cover(&mut possible, closed, 4096);
        compare(&logged, &written, &possible).with_context(|| format!("round {round}"))?;
        // CAST: small numbers.
        device.reset_queue(RX, 7 * round as u16)?;
    }
    Ok(())
}
