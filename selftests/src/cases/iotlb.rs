// SPDX-License-Identifier: GPL-2.0

//! A device behind an IOMMU (`VIRTIO_F_ACCESS_PLATFORM`): rings and buffers at IO addresses, whose
//! mappings it asks for, and which may change at any time.

use super::live::under_traffic;
use super::{Case, Context, accepts, case, check, integrity, wake_c};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::frame;
use crate::driver::iommu::{Iommu, PAGE};
use crate::driver::iotlb::{BACKEND_MSG_V2, Message, READ, VERSION_1, VERSION_2, WRITE};
use crate::driver::memory::GuestMemory;
use crate::driver::split::SplitLayout;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::{NetHeader, feature};
use crate::driver::vhost::{RX, TX};
use crate::host::procfs;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(super) const CASES: &[Case] = &[
    case("iotlb.scattered", 120, scattered),
    case("iotlb.ranges", 60, ranges),
    case("iotlb.park", 60, park),
    case("iotlb.permissions", 60, permissions),
    case("iotlb.ring_permissions", 60, ring_permissions),
    case("iotlb.moved_pages", 90, moved_pages),
    case("iotlb.eviction", 120, eviction),
    case("iotlb.storm", 90, storm),
    case("iotlb.asked_again", 90, asked_again),
];

/// What vhost-net keeps at most, unless its module is told otherwise (`max_iotlb_entries`).
const ENTRIES: usize = 2048;

/// A device behind an IOMMU.
pub(super) struct Behind {
    pub(super) device: NetDevice,
    pub(super) iommu: Iommu,
}

impl Behind {
    /// Makes one, with nothing bound.
    pub(super) fn prepare(ctx: &Context, mut setup: Setup, version: u32) -> Result<Self> {
        setup.features |= feature::ACCESS_PLATFORM;
        let device = NetDevice::prepare(&ctx.device, setup, "tap0", false)?;
        let backend = if version == VERSION_2 {
            BACKEND_MSG_V2
        } else {
            0
        };
        accepts(
            "SET_BACKEND_FEATURES",
            device.vhost.set_backend_features(backend),
        )?;
        let iommu = Iommu::start(&device.vhost, &device.memory)?;
        iommu.set_version(version);
        Ok(Self { device, iommu })
    }

    pub(super) fn start(ctx: &Context, setup: Setup, version: u32) -> Result<Self> {
        let behind = Self::prepare(ctx, setup, version)?;
        behind.bind(RX)?;
        behind.bind(TX)?;
        Ok(behind)
    }

    /// Binds a queue.
    pub(super) fn bind(&self, index: u32) -> Result<()> {
        self.iommu.bind(&self.device, index)
    }

    pub(super) fn layout(&self, index: u32) -> SplitLayout {
        if index == RX {
            self.device.rx.layout
        } else {
            self.device.tx.layout
        }
    }

    /// Runs `body`, and fails if the IOMMU had trouble, or was asked for what nobody may use.
    pub(super) fn run(
        mut self,
        body: impl FnOnce(&mut NetDevice, &Iommu) -> Result<()>,
    ) -> Result<()> {
        let result = body(&mut self.device, &self.iommu);
        let refused = self.iommu.take_refused();
        self.iommu.stop().context("the IOMMU")?;
        result?;
        check(refused.is_empty(), || {
            format!("asked for what is not there: {refused:x?}")
        })
    }
}

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
        let mut setup = integrity::roomy(feature::VERSION_1 | extra);
        setup.scattered = true;
        (setup.rx_size, setup.tx_size) = (1024, 1024);
        Behind::start(ctx, setup, version)?
            .run(|device, iommu| {
                let plan = Plan::new(ctx.seed + round, 220, integrity::all_sizes);
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

pub(super) fn expect_no_errors(device: &NetDevice) -> Result<()> {
    let errors = [device.rx.err.take()?, device.tx.err.take()?];
    check(errors == [0, 0], || format!("{errors:?} errors"))
}

/// Large mappings, with buffers that lie over their ends.
fn ranges(ctx: &Context) -> Result<()> {
    for bits in [12, 13, 16, 21, 40] {
        let setup = integrity::roomy(feature::VERSION_1);
        Behind::start(ctx, setup, VERSION_2)?
            .run(|device, iommu| {
                iommu.set_granule(1 << bits);
                traffic::exchange(device, Plan::new(ctx.seed, 220, integrity::all_sizes))?;
                expect_no_errors(device)
            })
            .with_context(|| format!("granules of {bits} bits"))?;
    }
    Ok(())
}

/// The length of a frame that is sent alone: wherever its buffer starts, it has a page for itself.
const SINGLE: usize = 5000;

/// A device with buffers for such frames.
pub(super) fn single(features: u64) -> Setup {
    let mut setup = Setup::new(feature::VERSION_1 | features);
    (setup.rx_size, setup.tx_size) = (64, 64);
    (setup.rx_buffers, setup.tx_buffers) = ((64, 8192), (64, 8192));
    setup
}

/// The pages of a range that have nothing else on them.
fn inner((start, len): (u64, usize)) -> (u64, usize) {
    let (first, end) = (start.next_multiple_of(PAGE), start + len as u64);
    // CAST: less than a length.
    (first, (end / PAGE * PAGE - first) as usize)
}

/// Sends one frame towards `index`'s end of the wire, with a kick if it is the guest that sends and the device asks for
/// one.
pub(super) fn send_one(
    ctx: &Context,
    device: &mut NetDevice,
    index: u32,
    sequence: u64,
) -> Result<()> {
    let mut bytes = Vec::new();
    frame::build(ctx.seed, sequence, SINGLE, &mut bytes);
    if index == RX {
        return device.peer.send(NetHeader::default(), &bytes);
    }
    check(device.tx_post(NetHeader::default(), &bytes)?, || {
        "no room".into()
    })?;
    device.tx.flush()?;
    Ok(())
}

/// Waits for that frame at the other end.
pub(super) fn take_one(
    ctx: &Context,
    device: &mut NetDevice,
    index: u32,
    sequence: u64,
) -> Result<()> {
    let (mut expected, mut got) = (Vec::new(), Vec::new());
    frame::build(ctx.seed, sequence, SINGLE, &mut expected);
    Deadline::patient().until("the frame", || {
        Ok(if index == RX {
            device.rx_take(&mut got)?.is_some()
        } else {
            device.peer.receive(&mut got)?.is_some()
        })
    })?;
    frame::expect("single", sequence, &expected, &got)?;
    if index == TX {
        Deadline::patient().until("its buffer", || {
            device.tx_reap()?;
            Ok(device.tx.ring.pending() == 0)
        })?;
    }
    Ok(())
}

/// Waits for a miss that nobody answers, and fails if it is not in the range.
fn expect_miss(iommu: &Iommu, (start, len): (u64, usize), perm: u8) -> Result<()> {
    Deadline::patient().until("a miss", || Ok(!iommu.waiting().is_empty()))?;
    procfs::idle()?;
    let waiting = iommu.waiting();
    let inside = |miss: &Message| {
        let range = start / PAGE * PAGE..start + len as u64;
        range.contains(&miss.iova) && miss.perm == perm
    };
    check(waiting.len() == 1 && inside(&waiting[0]), || {
        format!("{waiting:x?}, not one in {len} bytes at {start:#x}")
    })
}

/// A queue waits for a mapping, alone, and goes on with it without a kick.
fn park(ctx: &Context) -> Result<()> {
    for events in [0, feature::EVENT_IDX] {
        Behind::start(ctx, single(events), VERSION_2)?.run(|device, iommu| {
            let parts = |layout: SplitLayout| {
                let size = usize::from(layout.size);
                [
                    (layout.desc, 16 * size, READ),
                    (layout.avail, 6 + 2 * size, READ),
                    (layout.used, 6 + 8 * size, WRITE),
                ]
            };
            let ((rx, rx_len), (tx, tx_len)) =
                (inner(device.rx.buffers()), inner(device.tx.buffers()));
            let mut places = vec![(RX, (rx, rx_len, WRITE)), (TX, (tx, tx_len, READ))];
            places.extend(parts(device.rx.layout).map(|part| (RX, part)));
            places.extend(parts(device.tx.layout).map(|part| (TX, part)));
            traffic::exchange(device, Plan::new(ctx.seed, 20, |_| 100))?;
            device.rx_fill()?;
            device.rx.flush()?;
            for (round, (index, (start, len, perm))) in (0..).zip(places) {
                // Both queues are at rest, with all there is mapped, before some of it goes.
                procfs::idle()?;
                let first = crate::driver::device::GUEST_BASE;
                iommu.map(first, usize::try_from(tx + tx_len as u64 - first)?)?;
                iommu.hold();
                iommu.unmap(start, len as u64)?;
                send_one(ctx, device, index, round)?;
                expect_miss(iommu, (start, len), perm)?;
                let moved = if index == RX {
                    device.rx.ring.poll()?.is_some()
                } else {
                    device.tx_reap()? > 0
                };
                check(!moved, || "the device went on without a mapping".into())?;
                iommu.release()?;
                take_one(ctx, device, index, round)
                    .with_context(|| format!("queue {index}, {len} bytes at {start:#x}"))?;
            }
            expect_no_errors(device)
        })?;
    }
    Ok(())
}

fn set_all_rights(iommu: &Iommu, (start, len): (u64, usize), rights: u8) -> Result<()> {
    for page in start / PAGE..=(start + len as u64 - 1) / PAGE {
        iommu.set_rights(page * PAGE, rights)?;
    }
    Ok(())
}

fn content(memory: &GuestMemory, (start, len): (u64, usize)) -> Vec<u8> {
    let mut bytes = vec![0; len];
    memory.read(start, &mut bytes);
    bytes
}

/// Buffers that may only be read are not written, and the other way around.
fn permissions(ctx: &Context) -> Result<()> {
    [0, feature::EVENT_IDX]
        .into_iter()
        .try_for_each(|events| permissions_with(ctx, events))
}

fn permissions_with(ctx: &Context, events: u64) -> Result<()> {
    Behind::start(ctx, single(events), VERSION_2)?.run(|device, iommu| {
        traffic::exchange(device, Plan::new(ctx.seed, 20, |_| 100))?;
        device.rx_fill()?;
        device.rx.flush()?;
        // The device knows what it may not do, or has to ask for a mapping first.
        for (round, (index, wrong, known)) in (0..).zip([
            (RX, READ, true),
            (TX, WRITE, true),
            (RX, READ, false),
            (TX, WRITE, false),
            (RX, 0, true),
            (TX, 0, true),
        ]) {
            let range = inner(device.queue(index).buffers());
            set_all_rights(iommu, range, wrong)?;
            if known {
                iommu.map(range.0, range.1)?;
            }
            let mut before = content(&device.memory, range);
            send_one(ctx, device, index, round)?;
            if index == TX {
                before = content(&device.memory, range);
            }
            // Told by a miss that asks for more, or by the error descriptor.
            let err = device.queue(index).err.as_fd().try_clone_to_owned()?;
            Deadline::patient().until("a sign that rights are missing", || {
                let told = Deadline::after(Duration::ZERO).readable(&[&err])?;
                Ok(told || !iommu.take_refused().is_empty())
            })?;
            procfs::idle()?;
            check(content(&device.memory, range) == before, || {
                format!("queue {index}: buffers were written")
            })?;
            let nothing = device.peer.receive(&mut Vec::new())?.is_none();
            check(
                nothing && device.queue(index).ring.poll()?.is_none(),
                || format!("queue {index}: a frame went through"),
            )?;
            let _ = iommu.take_refused();
            set_all_rights(iommu, range, READ | WRITE)?;
            iommu.map(range.0, range.1)?;
            // C takes a denied buffer for a broken ring.
            wake_c(ctx, device.queue(index))?;
            take_one(ctx, device, index, round).with_context(|| format!("queue {index}"))?;
            device.rx_fill()?;
            device.rx.flush()?;
        }
        traffic::exchange(device, Plan::new(ctx.seed + 1, 50, |_| 100))
    })
}

/// A used ring that may only be read is not written.
fn ring_permissions(ctx: &Context) -> Result<()> {
    Behind::start(ctx, single(0), VERSION_1)?.run(|device, iommu| {
        traffic::exchange(device, Plan::new(ctx.seed, 20, |_| 100))?;
        let used = (device.tx.layout.used, 6 + 8 * 64);
        for round in 0..3 {
            procfs::idle()?;
            set_all_rights(iommu, used, READ)?;
            iommu.map(used.0, used.1)?;
            let before = content(&device.memory, used);
            send_one(ctx, device, TX, round)?;
            procfs::idle()?;
            check(content(&device.memory, used) == before, || {
                "the used ring was written".into()
            })?;
            let _ = iommu.take_refused();
            set_all_rights(iommu, used, READ | WRITE)?;
            iommu.map(used.0, used.1)?;
            // Of a ring that is denied C asks for no translation, so that none wakes it.
            wake_c(ctx, &device.tx)?;
            take_one(ctx, device, TX, round).with_context(|| format!("transmitted {round}"))?;
        }
        // Buffers for all frames that come: the last ones of the exchange may have taken some.
        device.rx_fill()?;
        device.rx.flush()?;
        let used = (device.rx.layout.used, used.1);
        procfs::idle()?;
        set_all_rights(iommu, used, READ)?;
        iommu.map(used.0, used.1)?;
        send_one(ctx, device, RX, 0)?;
        procfs::idle()?;
        // Packets from outside do not run into the fault again and again.
        device.rx.err.take()?;
        for round in 1..50 {
            send_one(ctx, device, RX, round)?;
        }
        procfs::idle()?;
        let errors = device.rx.err.take()?;
        check(errors == 0, || format!("{errors} errors by packets"))?;
        let _ = iommu.take_refused();
        set_all_rights(iommu, used, READ | WRITE)?;
        iommu.map(used.0, used.1)?;
        wake_c(ctx, &device.rx)?;
        for round in 0..50 {
            take_one(ctx, device, RX, round).with_context(|| format!("received {round}"))?;
        }
        traffic::exchange(device, Plan::new(ctx.seed + 1, 50, |_| 100))
    })
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
                let rings = (device.tx.layout.used - first) / PAGE + 3;
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

/// A miss without an answer is not the end: a queue that is set up anew asks again.
fn asked_again(ctx: &Context) -> Result<()> {
    Behind::start(ctx, single(0), VERSION_2)?.run(|device, iommu| {
        let plan = Plan::new(ctx.seed, 10, |_| 100);
        traffic::exchange(device, plan)?;
        let (first, len) = inner(device.tx.buffers());
        let pages = || (first..first + len as u64).step_by(PAGE as usize);
        for page in pages() {
            iommu.set_rights(page, 0)?;
        }
        send_one(ctx, device, TX, 0)?;
        Deadline::patient().until("a miss that is refused", || {
            Ok(!iommu.take_refused().is_empty())
        })?;
        for page in pages() {
            iommu.set_rights(page, READ | WRITE)?;
        }
        device.reset_queue(TX, 0)?;
        traffic::exchange(device, plan)?;
        expect_no_errors(device)
    })
}
