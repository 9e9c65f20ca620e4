// SPDX-License-Identifier: GPL-2.0

//! What the dirty log has to name, and what it may.
//!
//! The used part of each ring is logged at a guest address that it does not have, so that it shows
//! which address is taken. Whatever a queue logs is there once its backend is taken away.

use crate::cases::common::{Context, Kind, accepts, check};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::layout::Layout;
use crate::driver::log::{DirtyLog, LOG_PAGE, Pages, cover, log_used};
use crate::driver::memory::GuestMemory;
use crate::driver::packed::Place;
use crate::driver::queue::Queue;
use crate::driver::ring::Segment;
use crate::driver::split::SplitLayout;
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};

/// Where the used rings seem to be, or the event suppression structures of packed ones.
pub(crate) const USED: [u64; 2] = [0x2000_0000, 0x2010_0000];

/// The end of the guest addresses that the log covers.
pub(crate) const END: u64 = 0x2020_0000;

/// What receive buffers hold at first: the driver puts nothing else there.
pub(crate) const PATTERN: u8 = 0xa5;

/// The length of a used ring, event index included.
pub(crate) fn used_len(layout: &SplitLayout) -> usize {
    6 + 8 * usize::from(layout.size)
}

/// A range of guest memory that only the device writes, with its earlier content and the guest
/// address at which writes to it are logged.
pub(crate) struct Watched {
    addr: u64,
    log: u64,
    before: Vec<u8>,
}

impl Watched {
    pub(crate) fn new(memory: &GuestMemory, addr: u64, len: usize, log: u64) -> Self {
        let before = memory.content(addr, len);
        Self { addr, log, before }
    }

    /// The pages, as logged, whose content is not what it was.
    pub(crate) fn changed(&self, memory: &GuestMemory) -> Pages {
        let now = memory.content(self.addr, self.before.len());
        let pairs = (self.log..).zip(self.before.iter().zip(&now));
        pairs
            .filter(|(_, (before, now))| before != now)
            .map(|(at, _)| at / LOG_PAGE)
            .collect()
    }
}

/// What the device writes of a ring.
struct RingLog {
    layout: Layout,
    /// The part that only the device writes.
    own: Watched,
    /// Where the ring was.
    start: u32,
}

impl RingLog {
    /// Of a ring whose last part is logged at `log`.
    fn new(memory: &GuestMemory, queue: &mut Queue, log: u64) -> Self {
        let [_, _, own] = queue.layout.areas();
        // Noted from now on.
        let _ = queue.ring.taken_entries();
        Self {
            layout: queue.layout,
            own: Watched::new(memory, own.addr, own.len, log),
            start: queue.ring.base(),
        }
    }

    /// Pages that the device has written, and those that it may have: elements, index, flags and,
    /// with `events`, the event index of a split ring, all descriptors in the range of a packed
    /// one.
    fn pages(&self, memory: &GuestMemory, queue: &mut Queue, events: bool) -> (Pages, Pages) {
        let mut needed = self.own.changed(memory);
        let entries = queue.ring.taken_entries();
        for (addr, len) in &entries {
            cover(
                &mut needed,
                self.layout.logged(*addr, self.own.log),
                u64::from(*len),
            );
        }
        let mut possible = needed.clone();
        let (size, end) = (self.layout.size(), queue.ring.base());
        match self.layout {
            Layout::Split(layout) => {
                cover(&mut possible, self.own.log, 4);
                if events {
                    cover(
                        &mut possible,
                        self.own.log + used_len(&layout) as u64 - 2,
                        2,
                    );
                }
                // CAST: the bases of split rings are indexes.
                let (start, end) = (self.start as u16, end as u16);
                for at in 0..end.wrapping_sub(start).min(size) {
                    let slot = u64::from(start.wrapping_add(at) % size);
                    cover(&mut possible, self.own.log + 4 + 8 * slot, 8);
                }
            }
            Layout::Packed(layout) => {
                cover(&mut possible, self.own.log, 4);
                // With longer chains nobody knows how many turns have passed.
                let count = if queue.shape.one_descriptor() && !queue.in_order {
                    entries.len()
                } else {
                    usize::from(size)
                };
                // CAST: the lower half.
                let start = Place::parse(self.start as u16);
                for at in (0..size).take(count) {
                    cover(&mut possible, layout.slot(start.after(at, size).offset), 16);
                }
            }
        }
        (needed, possible)
    }

    /// Looks at the ring anew.
    fn again(&mut self, memory: &GuestMemory, queue: &mut Queue) {
        *self = Self::new(memory, queue, self.own.log);
    }
}

/// A device that logs, and what its memory looked like before.
pub(crate) struct Logged {
    pub(crate) device: NetDevice,
    pub(crate) log: DirtyLog,
    rx: Watched,
    rings: [RingLog; 2],
    /// Pages behind a used ring that C logs although it does not write them: it takes the length of
    /// a batch of used elements for their position.
    tolerated: Pages,
}

impl Logged {
    pub(crate) fn start(ctx: &Context, mut setup: Setup, used: [u64; 2]) -> Result<Self> {
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
        let mut tolerated = Pages::new();
        if in_order && ctx.kind == Kind::C {
            for (queue, at) in [(&device.rx, used[0]), (&device.tx, used[1])] {
                cover(&mut tolerated, at, 2 * used_len(&queue.split()) as u64);
            }
        }
        let logged = Self {
            log,
            rx: Watched::new(&memory, addr, len, addr),
            rings: [
                RingLog::new(&memory, &mut device.rx, used[0]),
                RingLog::new(&memory, &mut device.tx, used[1]),
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
    pub(crate) fn verify(&mut self) -> Result<()> {
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
        let queues = [&mut self.device.rx, &mut self.device.tx];
        for (ring, queue) in self.rings.iter().zip(queues) {
            let (mut written, mut allowed) = ring.pages(&memory, queue, events);
            needed.append(&mut written);
            possible.append(&mut allowed);
        }
        compare(&logged, &needed, &possible)
    }

    /// Records the content of memory, and starts both queues again.
    pub(crate) fn again(&mut self) -> Result<()> {
        // The driver writes to the buffers that it posts.
        self.device.rx_fill()?;
        let memory = self.device.memory.clone();
        self.rx = Watched::new(&memory, self.rx.addr, self.rx.before.len(), self.rx.log);
        let queues = [&mut self.device.rx, &mut self.device.tx];
        for (ring, queue) in self.rings.iter_mut().zip(queues) {
            ring.again(&memory, queue);
        }
        self.device.bind(RX)?;
        self.device.bind(TX)
    }
}

/// Fails unless all `needed` pages are logged, and only `possible` ones.
pub(crate) fn compare(logged: &Pages, needed: &Pages, possible: &Pages) -> Result<()> {
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

/// Guest addresses of two adjacent regions of 16 pages each.
pub(crate) const TOUCHING: [u64; 2] = [0x0800_0000, 0x0801_0000];

/// The distance from a byte's guest address to its second guest address.
pub(crate) const ALIAS: u64 = 0x1000_0000;

pub(crate) fn segment(addr: u64, len: u32) -> Segment {
    Segment {
        addr,
        len,
        writable: true,
    }
}

/// A device with two touching regions, everything logged but the used rings.
pub(crate) fn bare(ctx: &Context, mut setup: Setup) -> Result<(NetDevice, DirtyLog)> {
    setup.features |= feature::LOG_ALL;
    setup.regions = TOUCHING.map(|at| (at, 0x1_0000)).to_vec();
    let device = NetDevice::start(&ctx.device, setup)?;
    let log = DirtyLog::new(END)?;
    accepts("SET_LOG_BASE", device.vhost.set_log_base(log.addr()))?;
    Ok((device, log))
}

/// What was logged, once the receive queue is done.
pub(crate) fn settled(device: &NetDevice, log: &DirtyLog) -> Result<Pages> {
    device.unbind(RX)?;
    let logged = log.take();
    device.bind(RX)?;
    Ok(logged)
}

/// Sends one frame into `chain`, in an indirect `table` if there is one, and answers the pages that
/// it must touch.
pub(crate) fn receive_into(
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
        got.extend(device.memory.content(segment.addr % ALIAS, here as usize));
        left -= here;
    }
    frame::expect("received", u64::from(room), &bytes, &got[size..])?;
    Ok(pages)
}
