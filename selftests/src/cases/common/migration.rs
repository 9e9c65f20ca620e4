// SPDX-License-Identifier: GPL-2.0

//! A machine that migrates: its memory is copied while the device writes to it.

use crate::cases::common::live::under_traffic;
use crate::cases::common::log::{END, USED};
use crate::cases::common::{Context, accepts, check};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::layout::Layout;
use crate::driver::log::{DirtyLog, LOG_PAGE, Pages, log_used};
use crate::driver::memory::GuestMemory;
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use anyhow::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A run of guest memory on its way to another machine.
struct Part {
    addr: u64,
    /// The address at which writes to it are logged.
    log: u64,
    copy: Vec<u8>,
}

impl Part {
    fn new(addr: u64, len: usize, log: u64) -> Self {
        let copy = vec![0; len];
        Self { addr, log, copy }
    }

    fn copy_all(&mut self, memory: &GuestMemory) {
        memory.read(self.addr, &mut self.copy);
    }

    /// Copies the part of a logged page that belongs to this range.
    fn copy_page(&mut self, memory: &GuestMemory, page: u64) {
        let from = (page * LOG_PAGE).max(self.log);
        let to = ((page + 1) * LOG_PAGE).min(self.log + self.copy.len() as u64);
        if from < to {
            // CAST: offsets in a vector.
            let range = (from - self.log) as usize..(to - self.log) as usize;
            memory.read(self.addr + from - self.log, &mut self.copy[range]);
        }
    }
}

/// The machine that memory goes to.
struct Target {
    memory: Arc<GuestMemory>,
    /// Receive buffers and what the device writes of both rings: all that it writes.
    parts: Vec<Part>,
    /// The log in use, then the earlier ones.
    logs: Vec<DirtyLog>,
    /// How many pages were copied because they were logged.
    copied: usize,
}

impl Target {
    fn new(device: &NetDevice) -> Result<Self> {
        let (addr, len) = device.rx.buffers();
        let mut parts = vec![Part::new(addr, len, addr)];
        for (queue, log) in [&device.rx, &device.tx].into_iter().zip(USED) {
            let [descriptors, _, own] = queue.layout.areas();
            parts.push(Part::new(own.addr, own.len, log));
            if descriptors.written {
                // Logged where they are.
                parts.push(Part::new(
                    descriptors.addr,
                    descriptors.len,
                    descriptors.addr,
                ));
            }
        }
        Ok(Self {
            memory: device.memory.clone(),
            parts,
            logs: vec![DirtyLog::new(END)?],
            copied: 0,
        })
    }

    fn copy_logged(&mut self, pages: &Pages) {
        for page in pages {
            for part in &mut self.parts {
                part.copy_page(&self.memory, *page);
            }
        }
        self.copied += pages.len();
    }

    /// One round: what was logged since the last.
    fn sync(&mut self) {
        let pages = self.logs[0].take();
        self.copy_logged(&pages);
    }

    /// Turns logging on, in the order in which QEMU does it, and copies everything once.
    fn begin(&mut self, device: &NetDevice) -> Result<()> {
        accepts(
            "SET_LOG_BASE",
            device.vhost.set_log_base(self.logs[0].addr()),
        )?;
        let features = device.setup.features | feature::LOG_ALL;
        accepts("LOG_ALL", device.vhost.set_features(features))?;
        for (index, at) in [RX, TX].into_iter().zip(USED) {
            accepts(
                "SET_VRING_ADDR with a log",
                log_used(device, index, Some(at)),
            )?;
        }
        for part in &mut self.parts {
            part.copy_all(&self.memory);
        }
        Ok(())
    }

    /// Moves to a larger log, as when memory is plugged in; what the old one holds is not lost.
    fn grow(&mut self, device: &NetDevice) -> Result<()> {
        let larger = DirtyLog::new(END + ((self.logs.len() as u64) << 28))?;
        accepts(
            "SET_LOG_BASE live",
            device.vhost.set_log_base(larger.addr()),
        )?;
        self.logs.insert(0, larger);
        let rest = self.logs[1].take();
        self.copy_logged(&rest);
        Ok(())
    }

    /// The last round, with the device stopped: the copy is the same as the original.
    fn end(&mut self, device: &NetDevice) -> Result<()> {
        self.sync();
        for old in &self.logs[1..] {
            let late = old.take();
            check(late.is_empty(), || {
                format!("{} pages logged where the log is no more", late.len())
            })?;
        }
        check(self.copied > 0, || "nothing was logged".into())?;
        // The driver writes the start of each buffer, which a hypervisor would log by itself.
        let stride = device.setup.rx_buffers.1.next_multiple_of(64);
        let header = device.setup.header();
        let packed = |part: &Part| {
            let layouts = [device.rx.layout, device.tx.layout];
            layouts.into_iter().find_map(|layout| match layout {
                Layout::Packed(layout) if layout.ring == part.addr => Some(layout),
                _ => None,
            })
        };
        for (number, part) in self.parts.iter().enumerate() {
            let now = self.memory.content(part.addr, part.copy.len());
            let ring = packed(part);
            let by_device = |at: usize| match ring {
                // The driver writes the rest of a descriptor, and all of one that is available.
                Some(ring) => at % 16 >= 8 && ring.looks_used(&self.memory, at / 16),
                None => number > 0 || at % stride >= header,
            };
            let pairs = now.iter().zip(&part.copy).enumerate();
            let differs = pairs
                .filter(|(at, _)| by_device(*at))
                .find(|(_, (now, copy))| now != copy);
            check(differs.is_none(), || {
                format!("part {number} was left behind, as at {differs:?}")
            })?;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Devices that migrate.
pub(crate) fn devices() -> [Setup; 4] {
    let small = |features| {
        let mut setup = Setup::new(feature::VERSION_1 | features);
        (setup.rx_size, setup.rx_buffers) = (128, (128, 1500));
        setup
    };
    let mut merge = small(feature::MRG_RXBUF | feature::EVENT_IDX);
    merge.rx_buffers.1 = 256;
    let mut large = small(feature::EVENT_IDX);
    (large.rx_size, large.tx_size) = (1024, 1024);
    [small(0), small(feature::EVENT_IDX), merge, large]
}

/// Migrates a device, and calls it off at the end.
pub(crate) fn migrate(ctx: &Context, device: &mut NetDevice) -> Result<()> {
    let target = Mutex::new(Target::new(device)?);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                lock(&target).sync();
                std::thread::yield_now();
            }
        });
        let result = under_traffic(ctx, device, 60, |device, number| match number {
            9 => lock(&target).begin(device),
            20 | 33 | 40 => lock(&target).grow(device),
            _ => Ok(()),
        });
        stop.store(true, Ordering::Relaxed);
        result
    })?;
    for index in [RX, TX] {
        device.unbind(index)?;
    }
    lock(&target).end(device)?;
    // It is called off: the same device goes on without a log.
    let features = device.setup.features;
    accepts("no LOG_ALL", device.vhost.set_features(features))?;
    for index in [RX, TX] {
        accepts("SET_VRING_ADDR", log_used(device, index, None))?;
        device.bind(index)?;
    }
    Ok(())
}
