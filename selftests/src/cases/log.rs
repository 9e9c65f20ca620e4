// SPDX-License-Identifier: GPL-2.0

//! The dirty log names every page of guest memory that the device writes, and no other.
//!
//! Each ring's used part is logged at a guest address that it does not have, so that it shows which
//! address is taken. Whatever a queue logs is there once its backend is taken away.

use super::{Case, Context, Kind, accepts, case, check, integrity};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::frame;
use crate::driver::log::{DirtyLog, LOG_PAGE, Pages, cover, log_used};
use crate::driver::memory::GuestMemory;
use crate::driver::ring::Segment;
use crate::driver::split::SplitLayout;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::{MemoryRegion, NetHeader, feature};
use crate::driver::vhost::{RX, TX};
use crate::host::procfs;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};

pub(super) const CASES: &[Case] = &[
    case("log.exact", 120, exact),
    case("log.exact_in_order", 60, exact_in_order),
    case("log.used_ring", 60, used_ring),
    case("log.rounds", 60, rounds),
    case("log.chains", 60, chains),
    case("log.alias", 60, alias),
    case("log.half_written", 60, half_written),
];

/// Where the used rings seem to be.
pub(super) const USED: [u64; 2] = [0x2000_0000, 0x2010_0000];
/// The end of the guest addresses that the log covers.
pub(super) const END: u64 = 0x2020_0000;
/// What receive buffers hold at first: the driver puts nothing else there.
const PATTERN: u8 = 0xa5;

/// The length of a used ring, event index included.
pub(super) fn used_len(layout: &SplitLayout) -> usize {
    6 + 8 * usize::from(layout.size)
}

pub(super) fn content(memory: &GuestMemory, addr: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    memory.read(addr, &mut bytes);
    bytes
}

/// A run of guest memory that only the device changes, as it was, and where its pages are logged.
struct Watched {
    addr: u64,
    log: u64,
    before: Vec<u8>,
}

impl Watched {
    fn new(memory: &GuestMemory, addr: u64, len: usize, log: u64) -> Self {
        let before = content(memory, addr, len);
        Self { addr, log, before }
    }

    /// The pages, as logged, whose content is not what it was.
    fn changed(&self, memory: &GuestMemory) -> Pages {
        let now = content(memory, self.addr, self.before.len());
        let pairs = (self.log..).zip(self.before.iter().zip(&now));
        pairs
            .filter(|(_, (before, now))| before != now)
            .map(|(at, _)| at / LOG_PAGE)
            .collect()
    }

    /// What the device may write of a used ring from then to now: elements, index, flags and, with
    /// `events`, the event index.
    fn used(&self, memory: &GuestMemory, layout: &SplitLayout, events: bool) -> Pages {
        let mut pages = Pages::new();
        cover(&mut pages, self.log, 4);
        if events {
            cover(&mut pages, self.log + used_len(layout) as u64 - 2, 2);
        }
        let start = u16::from_le_bytes([self.before[2], self.before[3]]);
        let count = layout.used_index(memory).wrapping_sub(start);
        for at in 0..count.min(layout.size) {
            let slot = u64::from(start.wrapping_add(at) % layout.size);
            cover(&mut pages, self.log + 4 + 8 * slot, 8);
        }
        pages
    }
}

/// A device that logs, and what its memory looked like before.
pub(super) struct Logged {
    pub(super) device: NetDevice,
    pub(super) log: DirtyLog,
    rx: Watched,
    rings: [Watched; 2],
    /// Pages past a used ring that C logs in vain, for it takes a group's length for its place.
    tolerated: Pages,
}

impl Logged {
    pub(super) fn start(ctx: &Context, mut setup: Setup, used: [u64; 2]) -> Result<Self> {
        setup.features |= feature::LOG_ALL;
        let in_order = setup.features & feature::IN_ORDER != 0;
        let mut device = NetDevice::prepare(&ctx.device, setup, "tap0", false)?;
        let log = DirtyLog::new(END)?;
        accepts("SET_LOG_BASE", device.vhost.set_log_base(log.addr()))?;
        let (addr, len) = device.rx.buffers();
        for page in (0..len).step_by(4096) {
            let here = (len - page).min(4096);
            device.memory.fill(addr + page as u64, here, PATTERN);
        }
        device.rx.written = Some(Vec::new());
        let memory = device.memory.clone();
        let ring =
            |layout: SplitLayout, log| Watched::new(&memory, layout.used, used_len(&layout), log);
        let mut tolerated = Pages::new();
        if in_order && ctx.kind == Kind::C {
            for (layout, at) in [(device.rx.layout, used[0]), (device.tx.layout, used[1])] {
                cover(&mut tolerated, at, 2 * used_len(&layout) as u64);
            }
        }
        let logged = Self {
            log,
            rx: Watched::new(&memory, addr, len, addr),
            rings: [
                ring(device.rx.layout, used[0]),
                ring(device.tx.layout, used[1]),
            ],
            tolerated,
            device,
        };
        for (index, at) in [RX, TX].into_iter().zip(used) {
            accepts("SET_VRING_ADDR", log_used(&logged.device, index, Some(at)))?;
            logged.device.bind(index)?;
        }
        Ok(logged)
    }

    /// Stops both queues, and compares the log with what happened since it was taken last.
    pub(super) fn verify(&mut self) -> Result<()> {
        self.device.unbind(RX)?;
        self.device.unbind(TX)?;
        let logged = self.log.take();
        let memory = self.device.memory.clone();
        let mut data = Pages::new();
        let written = self
            .device
            .rx
            .written
            .as_mut()
            .context("nothing is collected")?;
        for (addr, len) in written.drain(..) {
            cover(&mut data, addr, u64::from(len));
        }
        let mut possible = &data | &self.tolerated;
        let mut needed = &data | &self.rx.changed(&memory);
        let events = self.device.setup.features & feature::EVENT_IDX != 0;
        let layouts = [self.device.rx.layout, self.device.tx.layout];
        for (ring, layout) in self.rings.iter().zip(&layouts) {
            needed.append(&mut ring.changed(&memory));
            possible.append(&mut ring.used(&memory, layout, events));
        }
        compare(&logged, &needed, &possible)
    }

    /// Starts both queues again, with a new picture of memory.
    pub(super) fn again(&mut self) -> Result<()> {
        // The driver writes to the buffers that it posts.
        self.device.rx_fill()?;
        let memory = self.device.memory.clone();
        for watched in [&mut self.rx].into_iter().chain(&mut self.rings) {
            watched.before = content(&memory, watched.addr, watched.before.len());
        }
        self.device.bind(RX)?;
        self.device.bind(TX)
    }
}

/// Fails unless all `needed` pages are logged, and only `possible` ones.
pub(super) fn compare(logged: &Pages, needed: &Pages, possible: &Pages) -> Result<()> {
    let some = |pages: Pages| {
        let all: Vec<_> = pages.iter().map(|page| page * LOG_PAGE).collect();
        format!(
            "{} pages, as at {:#x?}",
            all.len(),
            &all[..all.len().min(4)]
        )
    };
    check(needed.is_subset(logged), || {
        format!("written but not logged: {}", some(needed - logged))
    })?;
    check(logged.is_subset(possible), || {
        format!("logged but not written: {}", some(logged - possible))
    })
}

/// Rings and buffers in all their forms, with frames enough for several turns of either ring.
fn exact(ctx: &Context) -> Result<()> {
    for version in [feature::VERSION_1, 0] {
        for extra in [
            0,
            feature::EVENT_IDX,
            feature::INDIRECT,
            feature::MRG_RXBUF,
            feature::MRG_RXBUF | feature::EVENT_IDX | feature::INDIRECT,
            feature::NET_HDR,
        ] {
            let mut setup = integrity::roomy(version | extra);
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
        form(ctx, integrity::roomy(features)).with_context(|| format!("features {features:#x}"))?;
    }
    Ok(())
}

fn form(ctx: &Context, setup: Setup) -> Result<()> {
    let mut logged = Logged::start(ctx, setup, USED)?;
    // One frame alone leaves most pages alone.
    traffic::exchange(&mut logged.device, Plan::new(ctx.seed, 1, |_| 5000))?;
    logged.verify().context("one frame")?;
    logged.again()?;
    let plan = Plan::new(ctx.seed + 1, 220, integrity::all_sizes);
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

/// Sends one frame into `chain`, in an indirect `table` if there is one, and answers the pages that
/// it must touch.
pub(super) fn receive_into(
    ctx: &Context,
    device: &mut NetDevice,
    chain: &[Segment],
    table: Option<u64>,
) -> Result<Pages> {
    let room: u32 = chain.iter().map(|segment| segment.len).sum();
    let total = room.min(3000);
    let size = device.setup.header();
    let mut bytes = Vec::new();
    frame::build(ctx.seed, u64::from(room), total as usize - size, &mut bytes);
    device.rx.ring.add(chain, table, 0)?;
    device.rx.flush()?;
    device.peer.send(NetHeader::default(), &bytes)?;
    let mut used = None;
    Deadline::patient().until("a frame in a chain of its own", || {
        used = device.rx.ring.poll()?;
        Ok(used.is_some())
    })?;
    check(used.is_some_and(|used| used.len == total), || {
        format!("{used:?}, not {total} bytes")
    })?;
    let (mut pages, mut left, mut got) = (Pages::new(), total, Vec::new());
    for segment in chain {
        let here = segment.len.min(left);
        cover(&mut pages, segment.addr, u64::from(here));
        got.extend(content(&device.memory, segment.addr % ALIAS, here as usize));
        left -= here;
    }
    frame::expect("received", u64::from(room), &bytes, &got[size..])?;
    Ok(pages)
}

/// Two regions that touch, each of 16 pages.
pub(super) const TOUCHING: [u64; 2] = [0x0800_0000, 0x0801_0000];
/// Added to the address of a byte, its second address.
const ALIAS: u64 = 0x1000_0000;

pub(super) fn segment(addr: u64, len: u32) -> Segment {
    Segment {
        addr,
        len,
        writable: true,
    }
}

/// A device with two touching regions, everything logged but the used rings.
pub(super) fn bare(ctx: &Context, mut setup: Setup) -> Result<(NetDevice, DirtyLog)> {
    setup.features |= feature::LOG_ALL;
    setup.regions = TOUCHING.map(|at| (at, 0x1_0000)).to_vec();
    let device = NetDevice::start(&ctx.device, setup)?;
    let log = DirtyLog::new(END)?;
    accepts("SET_LOG_BASE", device.vhost.set_log_base(log.addr()))?;
    Ok((device, log))
}

/// What was logged, once the receive queue is done.
pub(super) fn settled(device: &NetDevice, log: &DirtyLog) -> Result<Pages> {
    device.unbind(RX)?;
    let logged = log.take();
    device.bind(RX)?;
    Ok(logged)
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
        let shown = match ctx.kind {
            Kind::C => pages,
            Kind::Rnet => &seen_from(TOUCHING[0]) | &seen_from(TOUCHING[0] + ALIAS),
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
        if ctx.kind == Kind::Rnet {
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
