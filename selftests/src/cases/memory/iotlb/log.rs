// SPDX-License-Identifier: GPL-2.0

//! The dirty log of a device behind an IOMMU: it names physical pages, which the memory table leads
//! to from the addresses of the process.

use crate::cases::common::frames::expect_no_errors;
use crate::cases::common::iommu::Behind;
use crate::cases::common::log::{END, USED};
use crate::cases::common::{Case, Context, accepts, case, check, lets_c_off, ring_case};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::iommu::PAGE;
use crate::driver::iotlb::{Message, VERSION_2};
use crate::driver::log::{DirtyLog, Pages, cover, log_used};
use crate::driver::memory::GuestMemory;
use crate::driver::queue::Queue;
use crate::driver::ring::Format;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::{MemoryRegion, feature};
use crate::driver::vhost::{RX, TX};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    ring_case("iotlb.log", 60, log),
    ring_case("iotlb.log_alias", 60, log_alias),
    ring_case("iotlb.log_moved_pages", 60, log_moved_pages),
    case("iotlb.log_pieces", 60, log_pieces),
];

/// Added to a physical address, the other one of the same memory.
const ALIAS: u64 = 0x1000_0000;

/// The physical pages behind the pages that hold a range of IO addresses.
fn physical(memory: &GuestMemory, addr: u64, len: u64) -> Pages {
    let mut pages = Pages::new();
    cover(&mut pages, addr, len);
    pages
        .iter()
        .map(|page| memory.physical(page * PAGE) / PAGE)
        .collect()
}

/// Runs of memory that only the device changes: IO address, and content at the start.
struct Before(Vec<(u64, Vec<u8>)>);

impl Before {
    fn new(device: &NetDevice) -> Self {
        let own = |queue: &Queue| {
            let [_, _, own] = queue.layout.areas();
            (own.addr, own.len)
        };
        let runs = [device.rx.buffers(), own(&device.rx), own(&device.tx)];
        let read = |(addr, len)| (addr, device.memory.content(addr, len));
        Self(runs.map(read).to_vec())
    }

    /// The physical pages that are not what they were.
    fn changed(&self, memory: &GuestMemory) -> Pages {
        let mut pages = Pages::new();
        for (addr, before) in &self.0 {
            let now = memory.content(*addr, before.len());
            let pairs = (*addr..).zip(before.iter().zip(&now));
            let io: Pages = pairs
                .filter(|(_, (before, now))| before != now)
                .map(|(at, _)| at / PAGE)
                .collect();
            pages.extend(io.iter().map(|page| memory.physical(page * PAGE) / PAGE));
        }
        pages
    }
}

fn setup(features: u64) -> Setup {
    let mut setup = Setup::new(feature::VERSION_1 | feature::LOG_ALL | features);
    setup.scattered = true;
    (setup.rx_size, setup.tx_size) = (1024, 1024);
    setup.rx_buffers = (200, 1900);
    setup
}

/// A logging device, with receive buffers full of what the driver writes to them.
fn start(ctx: &Context, setup: Setup) -> Result<(Behind, DirtyLog)> {
    let mut behind = Behind::prepare(ctx, setup, VERSION_2)?;
    let log = DirtyLog::new(END)?;
    let device = &mut behind.device;
    accepts("SET_LOG_BASE", device.vhost.set_log_base(log.addr()))?;
    let (addr, len) = device.rx.buffers();
    device.memory.fill(addr, len, 0xa5);
    device.rx.written = Some(Vec::new());
    // The address for logging is not used: it would be an IO address, too.
    for (index, at) in [RX, TX].into_iter().zip(USED) {
        accepts("SET_VRING_ADDR", log_used(device, index, Some(at)))?;
    }
    Ok((behind, log))
}

/// Moves frames, and fails unless the log has all that was written and nothing far from it.
fn compare(ctx: &Context, mut behind: Behind, log: &DirtyLog, alias: bool) -> Result<()> {
    for queue in [&mut behind.device.rx, &mut behind.device.tx] {
        // Noted from now on.
        let _ = queue.ring.taken_entries();
    }
    let before = Before::new(&behind.device);
    behind.bind(RX)?;
    behind.bind(TX)?;
    behind.run(|device, _| {
        traffic::exchange(device, Plan::new(ctx.seed, 60, |n| 60 + 20 * n as usize))?;
        device.unbind(RX)?;
        device.unbind(TX)?;
        let logged = log.take();
        let memory = &device.memory.clone();
        let mut needed = before.changed(memory);
        let mut possible = Pages::new();
        for (addr, len) in device.rx.written.take().context("nothing is collected")? {
            needed.append(&mut physical(memory, addr, u64::from(len)));
            // A device may log the rest of a buffer that it has been given.
            possible.append(&mut physical(
                memory,
                addr,
                device.setup.rx_buffers.1 as u64,
            ));
        }
        for queue in [&mut device.rx, &mut device.tx] {
            for (addr, len) in queue.ring.taken_entries() {
                needed.append(&mut physical(memory, addr, len.into()));
            }
            for area in queue.layout.areas().iter().filter(|area| area.written) {
                possible.append(&mut physical(memory, area.addr, area.len as u64));
            }
        }
        if alias {
            let second = |pages: &Pages| pages.iter().map(|page| page + ALIAS / PAGE).collect();
            needed.append(&mut second(&needed));
            possible.append(&mut second(&possible));
        }
        check(needed.is_subset(&logged), || {
            format!("written but not logged: {:x?}", &needed - &logged)
        })?;
        check(logged.is_subset(&possible), || {
            format!("logged but not written: {:x?}", &logged - &possible)
        })?;
        expect_no_errors(device)
    })
}

fn log(ctx: &Context) -> Result<()> {
    for extra in [
        0,
        feature::EVENT_IDX,
        feature::MRG_RXBUF,
        feature::MRG_RXBUF | feature::EVENT_IDX | feature::INDIRECT,
    ] {
        let mut setup = setup(extra);
        setup.rx_shape.indirect = extra & feature::INDIRECT != 0;
        setup.rx_shape.piece = 700;
        let (behind, log) = start(ctx, setup)?;
        compare(ctx, behind, &log, false).with_context(|| format!("features {extra:#x}"))?;
    }
    Ok(())
}

/// Which of two physical addresses was meant cannot be told any more, so both are logged.
fn log_alias(ctx: &Context) -> Result<()> {
    let (behind, log) = start(ctx, setup(0))?;
    let mut table = behind.device.memory.table();
    let second = MemoryRegion {
        guest: table[0].guest + ALIAS,
        ..table[0]
    };
    table.push(second);
    accepts("SET_MEM_TABLE", behind.device.vhost.set_memory(&table))?;
    compare(ctx, behind, &log, true)
}

/// With pages that move under traffic, what was written while a page was here is logged here.
fn log_moved_pages(ctx: &Context) -> Result<()> {
    let mut setup = setup(feature::EVENT_IDX);
    if ctx.device.format == Format::Packed {
        // A ring of one page: the device writes all of it.
        setup.rx_size = 128;
    }
    let (behind, log) = start(ctx, setup)?;
    behind.bind(RX)?;
    behind.bind(TX)?;
    let used = behind.queue(RX).layout.entries().addr;
    behind.run(|device, iommu| {
        let mut logged = Pages::new();
        let mut homes = Pages::new();
        for round in 0..12 {
            homes.insert(device.memory.physical(used) / PAGE);
            let plan = Plan::new(ctx.seed + round, 30, |_| 300);
            traffic::exchange(device, plan)?;
            // Stopped, the queue has logged all it wrote.
            device.unbind(RX)?;
            device.unbind(TX)?;
            let new = log.take();
            let home = device.memory.physical(used) / PAGE;
            check(new.contains(&home), || {
                format!("round {round}: the used ring at page {home:#x} is not logged")
            })?;
            let stale: Vec<_> = homes
                .iter()
                .filter(|old| **old != home && new.contains(old))
                .collect();
            check(stale.is_empty(), || {
                format!("round {round}: logged at {stale:x?}, where the ring was before")
            })?;
            logged.extend(new);
            iommu.move_page(used)?;
            for index in [RX, TX] {
                iommu.bind(device, index)?;
            }
        }
        check(logged.len() > 12, || "too little was logged".into())?;
        expect_no_errors(device)
    })
}

/// Used entries are written over many small mappings at once: their page is logged all the same,
/// and nothing else holds it that would be.
fn log_pieces(ctx: &Context) -> Result<()> {
    /// Chains that are used together.
    const BATCH: usize = 64;
    /// The first of these entries, in a page that has neither index nor event index.
    const BASE: u16 = 600;
    // C has room for 64 pieces, and loses chains with more.
    let piece = if lets_c_off(ctx)? { 32 } else { 4 };
    for index in [RX, TX] {
        let mut setup = setup(feature::EVENT_IDX);
        setup.base = BASE;
        let (behind, log) = start(ctx, setup)?;
        let page = behind.queue(index).split().used + PAGE;
        let memory = behind.device.memory.clone();
        for at in (page..page + PAGE).step_by(piece) {
            let entry = Message::update(at, piece as u64, memory.user(at));
            accepts("UPDATE", behind.device.vhost.send(VERSION_2, entry))?;
        }
        // The other pages of the ring, without those again.
        for at in [page - PAGE, page + PAGE] {
            behind.iommu.map(at, 1)?;
        }
        behind.run(|device, _| {
            let mut bytes = Vec::new();
            device.rx_fill()?;
            for sequence in 0..BATCH as u64 {
                frame::build(ctx.seed, sequence, 60, &mut bytes);
                if index == RX {
                    device.peer.send(NetHeader::default(), &bytes)?;
                } else {
                    check(device.tx_post(NetHeader::default(), &bytes)?, || {
                        "no room".into()
                    })?;
                }
            }
            device.queue(index).flush()?;
            device.bind(index)?;
            let layout = device.queue(index).split();
            let end = BASE + BATCH as u16;
            Deadline::patient().until("all chains to be used", || {
                Ok(layout.used_index(&memory) == end)
            })?;
            device.unbind(index)?;
            let logged = log.take();
            let needed = physical(&memory, page, 1);
            check(needed.is_subset(&logged), || {
                format!("queue {index}: written but not logged: {needed:x?}")
            })?;
            expect_no_errors(device)
        })?;
    }
    Ok(())
}
