// SPDX-License-Identifier: GPL-2.0

//! A hostile guest, whose other processor changes rings, descriptors and packets while the device
//! works on them.
//!
//! Whatever it does, the device writes nowhere but where the memory table, or the IOMMU, lets it;
//! its calls return; the dirty log names only pages of the guest; and a fresh ring works.

mod draw;
mod packet;
mod ring;
mod setup;

use super::{Counts, Fuzzer, PACKED, Stop, drain, exchange, format};
use crate::case::{Context, Kind};
use crate::driver::device::NetDevice;
use crate::driver::iommu::Iommu;
use crate::driver::iotlb::{READ, VERSION_1, VERSION_2, WRITE};
use crate::driver::log::{self, DirtyLog, LOG_PAGE, Pages};
use crate::driver::ring::Format;
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::eventfd::EventFd;
use crate::host::tap::Tap;
use crate::sys::mapping::PAGE;
use anyhow::{Context as _, Result, bail};
use draw::Guest;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use setup::{CLOSED, LIMITED, REGION};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The fuzzer.
pub const FUZZER: Fuzzer = Fuzzer {
    name: "guest",
    episode,
    reaches: &["chains taken", "frames sent", "stops", "IOMMU misses"],
};

/// What fills pages that the device may only read.
const CONTENT: u8 = 0x5a;

/// Pages that the device may only read.
fn read_only() -> impl Iterator<Item = u64> {
    (LIMITED..LIMITED + REGION as u64).step_by(2 * PAGE)
}

/// A device with all that an episode needs.
struct Episode {
    device: NetDevice,
    iommu: Option<Iommu>,
    log: DirtyLog,
    guest: Guest,
    rng: SmallRng,
    /// Where each queue was at the last look.
    bases: [u32; 2],
    moves: usize,
    scratch: Vec<u8>,
    counts: Counts,
}

fn index(queue: u32) -> usize {
    usize::from(queue != RX)
}

impl Episode {
    fn new(ctx: &Context, mut rng: SmallRng) -> Result<Self> {
        let offered = ctx.open()?.features()?;
        let setup = setup::setup(&mut rng, offered, format(ctx)?);
        let device = NetDevice::prepare(&ctx.device, setup, "tap0", false)?;
        let log = DirtyLog::new(setup::END)?;
        device
            .vhost
            .set_log_base(log.addr())
            .context("SET_LOG_BASE")?;
        let features = device.setup.features;
        let mut episode = Self {
            iommu: None,
            log,
            guest: Guest::new(&device, SmallRng::from_rng(&mut rng)),
            bases: [device.rx.ring.base(), device.tx.ring.base()],
            moves: 0,
            scratch: Vec::new(),
            counts: Counts::default(),
            device,
            rng,
        };
        if features & feature::ACCESS_PLATFORM != 0 {
            episode.start_iommu()?;
        }
        if features & feature::LOG_ALL != 0 {
            episode.log_rings()?;
        }
        episode.device.memory.fill(LIMITED, REGION, CONTENT);
        for queue in [RX, TX] {
            episode.bind(queue)?;
        }
        Ok(episode)
    }

    fn start_iommu(&mut self) -> Result<()> {
        let device = &self.device;
        let v2 = self.rng.random();
        if v2 {
            device.vhost.set_backend_features(feature::BACKEND_MSG_V2)?;
        }
        let iommu = Iommu::start(&device.vhost, &device.memory)?;
        iommu.set_version(if v2 { VERSION_2 } else { VERSION_1 });
        iommu.set_granule(PAGE as u64 * *[1, 4, 64].choose(&mut self.rng).unwrap_or(&1));
        for page in read_only() {
            iommu.set_rights(page, READ)?;
        }
        self.iommu = Some(iommu);
        Ok(())
    }

    fn bind(&self, queue: u32) -> Result<()> {
        match &self.iommu {
            Some(iommu) => iommu.bind(&self.device, queue),
            None => self.device.bind(queue),
        }
    }

    /// Has the device log what it writes to the used rings.
    fn log_rings(&self) -> Result<()> {
        for queue in [RX, TX] {
            let [_, _, used] = self.guest.layout(queue).areas();
            log::log_used(&self.device, queue, Some(used.addr)).context("SET_VRING_ADDR")?;
        }
        Ok(())
    }

    /// What the guest's processor does with the device, and the world around it, in so many steps.
    fn run(&mut self, steps: u32) -> Result<()> {
        for step in 0..steps {
            self.step().with_context(|| format!("step {step}"))?;
            if step % 16 == 0 {
                self.look()?;
            }
        }
        self.counts.add("operations", steps.into());
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        let queue = self.rng.random_range(RX..=TX);
        match self.rng.random_range(0..100) {
            0..45 => {
                if self.guest.is_full(queue) && !self.rng.random_bool(0.02) {
                    self.device.queue(queue).kick.force()?;
                    // One that is full for long is stuck, as when its index was changed.
                    if self.rng.random_bool(0.1) {
                        self.restart(queue)?;
                    }
                    return Ok(());
                }
                for _ in 0..self.rng.random_range(1..4) {
                    self.guest.submit(queue);
                }
                self.device.queue(queue).kick.force()
            }
            45..65 => self.device.queue(queue).kick.force(),
            65..85 => {
                self.receive();
                Ok(())
            }
            85 => {
                self.guest.jump(queue);
                self.device.queue(queue).kick.force()
            }
            86 => self.restart(queue),
            87..90 => self.close_page(),
            90 => self.swap_call(queue),
            91 => self.change_memory(),
            92 => self.change_log(),
            93 => {
                let micros = *[0, 0, 50, 1000].choose(&mut self.rng).unwrap_or(&0);
                self.device
                    .vhost
                    .set_busy_timeout(queue, micros)
                    .context("SET_VRING_BUSYLOOP_TIMEOUT")
            }
            94 => {
                // A guest that waits, so that everything comes to rest.
                std::thread::sleep(Duration::from_millis(2));
                Ok(())
            }
            _ => self.iommu_step(),
        }
    }

    /// A frame for the guest.
    fn receive(&mut self) {
        let longest = *[200, 1514, 9000, 65000]
            .choose(&mut self.rng)
            .unwrap_or(&200);
        packet::frame(&mut self.rng, longest, &mut self.scratch);
        let header = if self.rng.random_bool(0.8) {
            Default::default()
        } else {
            packet::header(&mut self.rng)
        };
        // The tap may be full, and the socket need not take such a header.
        if self.device.peer.send(header, &self.scratch).is_ok() {
            self.counts.add("frames offered", 1);
        }
    }

    /// Takes what has come out of the device.
    fn look(&mut self) -> Result<()> {
        self.counts.add("frames sent", drain(&mut self.device.peer));
        for queue in [RX, TX] {
            let own = self.device.queue(queue);
            own.call.take()?;
            if own.err.take()? > 0 {
                self.counts.add("stops", 1);
                if self.rng.random_bool(0.8) {
                    self.restart(queue)?;
                }
            }
        }
        Ok(())
    }

    /// Counts how far the device has come with a queue, which is not bound.
    fn progress(&mut self, queue: u32) -> Result<u32> {
        let base = self.device.vhost.base(queue)?;
        let before = self.bases[index(queue)];
        let layout = self.guest.layout(queue);
        let count = layout.distance(before, base).into();
        self.counts.add("chains taken", count);
        if layout.format() == Format::Packed {
            self.counts.add(PACKED, count);
        }
        Ok(base)
    }

    /// Unbinds a queue, empties it and binds it again.
    fn restart(&mut self, queue: u32) -> Result<()> {
        self.device.unbind(queue)?;
        let mut base = self.progress(queue)?;
        let layout = self.guest.layout(queue);
        if self.rng.random() {
            let count: u16 = self.rng.random();
            base = layout.format().base(layout.size(), count.into());
        }
        // Nothing is left in the ring.
        let base = layout.base_after(base, 0);
        self.guest.restart(queue, base);
        self.bases[index(queue)] = base;
        self.device
            .vhost
            .set_base(queue, base)
            .context("SET_VRING_BASE")?;
        self.bind(queue)
    }

    /// Takes a page away from the device, makes it read-only, or gives it back.
    fn close_page(&mut self) -> Result<()> {
        let (map, start) = self.device.memory.mapping(CLOSED);
        let page = if self.iommu.is_some() {
            // Anywhere in the mapping, but at its ends.
            self.rng.random_range(1..map.len() / PAGE - 1) * PAGE
        } else {
            start + self.rng.random_range(0..REGION / PAGE) * PAGE
        };
        match self.rng.random_range(0..4) {
            0 => map.protect(page, PAGE, false)?,
            1 => map.protect_writes(page, PAGE)?,
            _ => map.protect(page, PAGE, true)?,
        }
        Ok(())
    }

    fn open_pages(&self) -> Result<()> {
        let (map, _) = self.device.memory.mapping(CLOSED);
        Ok(map.protect(0, map.len(), true)?)
    }

    fn swap_call(&mut self, queue: u32) -> Result<()> {
        let call = EventFd::new()?;
        let none = self.rng.random_bool(0.2);
        let fd = if none { -1 } else { call.as_fd().as_raw_fd() };
        self.device
            .vhost
            .set_call(queue, fd)
            .context("SET_VRING_CALL")?;
        self.device.queue(queue).call = call;
        Ok(())
    }

    /// Replaces the memory table by one that lacks a region, or by the whole one.
    fn change_memory(&mut self) -> Result<()> {
        let mut table = self.device.memory.table();
        if self.rng.random_bool(0.3) {
            // The first has the rings.
            table.remove(self.rng.random_range(1..table.len()));
        }
        self.device
            .vhost
            .set_memory(&table)
            .context("SET_MEM_TABLE")
    }

    /// Begins or ends logging, or takes the log.
    fn change_log(&mut self) -> Result<()> {
        if self.device.setup.features & feature::LOG_ALL == 0 {
            return Ok(());
        }
        if self.rng.random() {
            let toggled = self.device.setup.features ^ feature::LOG_ALL;
            let features = if self.rng.random() {
                toggled
            } else {
                self.device.setup.features
            };
            self.device
                .vhost
                .set_features(features)
                .context("SET_FEATURES")?;
        }
        Ok(())
    }

    fn iommu_step(&mut self) -> Result<()> {
        let Some(iommu) = &self.iommu else {
            return Ok(());
        };
        let (start, len) = if self.rng.random() {
            (LIMITED, REGION)
        } else {
            (crate::driver::device::GUEST_BASE, 1 << 18)
        };
        let page = start + (self.rng.random_range(0..len / PAGE) * PAGE) as u64;
        // Small rings have less memory than that.
        if !self.device.memory.contains(page) {
            return Ok(());
        }
        match self.rng.random_range(0..6) {
            0 => iommu.unmap(page, PAGE as u64 * self.rng.random_range(1..8)),
            1 => iommu.map(page, PAGE),
            2 => iommu.unmap(0, u64::MAX),
            3 => {
                iommu.hold();
                iommu.unmap(page, PAGE as u64)
            }
            4 => iommu.release(),
            _ => {
                // Nobody but the device reaches these pages.
                self.moves += 1;
                let offset = self.rng.random_range(0..REGION / PAGE) * PAGE;
                iommu.move_page(LIMITED + offset as u64)
            }
        }
    }

    /// Ends all that is going on, and checks what was written.
    fn finish(&mut self, ctx: &Context) -> Result<()> {
        self.look()?;
        for queue in [RX, TX] {
            self.device.unbind(queue)?;
            self.progress(queue)?;
        }
        if let Some(iommu) = &self.iommu {
            iommu.release()?;
            self.counts
                .add("IOMMU misses", iommu.take_misses().len() as u64);
            self.counts.add("page moves", self.moves as u64);
        }
        self.open_pages()?;
        self.check_memory()?;
        self.check_log(ctx)
    }

    fn check_memory(&self) -> Result<()> {
        let memory = &self.device.memory;
        memory.margins_untouched()?;
        memory.spoiled_untouched()?;
        if self.iommu.is_none() {
            return Ok(());
        }
        for page in read_only() {
            let mut content = [0; PAGE];
            memory.read(page, &mut content);
            if content != [CONTENT; PAGE] {
                bail!("IO address {page:#x} was written, which may only be read");
            }
        }
        Ok(())
    }

    fn check_log(&self, ctx: &Context) -> Result<()> {
        let logged = self.log.take();
        let mut pages = Pages::new();
        for region in self.device.memory.table() {
            log::cover(&mut pages, region.guest, region.size);
        }
        let Some(page) = logged.difference(&pages).next() else {
            return Ok(());
        };
        // In order, the in-tree driver computes what it wrote to the used ring in another way than
        // it writes there.
        let in_order = self.device.setup.features & feature::IN_ORDER != 0;
        if ctx.kind == Kind::C && in_order {
            return Ok(());
        }
        bail!("logged address {:#x}, which is no memory", page * LOG_PAGE)
    }

    /// Sets the same device up with fresh rings, on a tap of its own, and moves frames.
    fn recover(&mut self) -> Result<()> {
        let device = &mut self.device;
        device.tap = Tap::new("tap1", device.setup.tap())?;
        device.peer = device.setup.peer(device.tap.if_index())?;
        let base = self.rng.random();
        for queue in [RX, TX] {
            device.vhost.set_busy_timeout(queue, 0)?;
            let queue = device.queue(queue);
            queue.ring.reset(base);
            queue.forget_buffers()?;
            queue.err.take()?;
        }
        if let Some(iommu) = &self.iommu {
            for page in read_only() {
                iommu.set_rights(page, READ | WRITE)?;
            }
            iommu.unmap(0, u64::MAX)?;
        }
        device.configure()?;
        for queue in [RX, TX] {
            self.bind(queue)?;
        }
        exchange(&mut self.device, self.rng.random())?;
        if let Some(mut iommu) = self.iommu.take() {
            iommu.stop()?;
        }
        Ok(())
    }
}

fn episode(ctx: &Context) -> Result<Counts> {
    let mut rng = SmallRng::seed_from_u64(ctx.seed);
    let steps = rng.random_range(100..1500);
    // Microseconds between two changes by the other processor; none for one that does nothing.
    let pause = *[None, Some(0), Some(50), Some(1000), Some(10_000)]
        .choose(&mut rng)
        .unwrap_or(&None);
    let reopen = rng.random_bool(0.15);
    let mut episode = Episode::new(ctx, SmallRng::from_rng(&mut rng))?;
    let setup = episode.device.setup.clone();
    let told = || format!("{setup:x?}");
    let mut other = Guest::new(&episode.device, SmallRng::from_rng(&mut rng));
    let stop = AtomicBool::new(false);
    let mut episode = std::thread::scope(|scope| {
        let guard = Stop(&stop);
        scope.spawn(|| {
            let Some(pause) = pause else { return };
            while !stop.load(Ordering::Relaxed) {
                other.scribble();
                if pause > 0 {
                    std::thread::sleep(Duration::from_micros(pause));
                }
            }
        });
        episode.run(steps).with_context(told)?;
        if reopen {
            // With rings that still change.
            let counts = std::mem::take(&mut episode.counts);
            drop(episode);
            let mut fresh = Episode::new(ctx, rng)?;
            fresh.counts = counts;
            return Ok(fresh);
        }
        drop(guard);
        anyhow::Ok(episode)
    })?;
    episode.finish(ctx).with_context(told)?;
    episode.recover().context("recovery").with_context(told)?;
    Ok(episode.counts)
}
