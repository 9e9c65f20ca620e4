// SPDX-License-Identifier: GPL-2.0

//! A queue that always has work: its driver makes all of its ring available again and again, behind
//! the back of the queue's other half.

use crate::driver::device::NetDevice;
use crate::driver::layout::{Described, Layout};
use crate::driver::memory::GuestMemory;
use crate::driver::packed::{PackedDescriptor, PackedLayout, Place};
use crate::driver::queue::{Kick, Queue};
use crate::driver::split::SplitLayout;
use crate::driver::uapi::DESC_WRITE;
use crate::driver::vhost::RX;
use crate::packet::frame;
use anyhow::{Context as _, Result};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Such a queue. All of its chains take one descriptor, and are alike but for their buffers. One
/// thread pours, any may look.
pub(crate) struct Flood {
    memory: Arc<GuestMemory>,
    ring: Ring,
    kick: Kick,
    /// The count of [`Self::progress`] when the ring was filled last.
    counted: AtomicU16,
    /// Chains used until then.
    used: AtomicU64,
}

/// The ring of such a queue.
enum Ring {
    /// It is made available by moving the available index.
    Split(SplitLayout),
    /// Each descriptor has to be made available again.
    Packed(Box<Mutex<Packed>>),
}

/// A packed ring, and where its two sides are.
struct Packed {
    layout: PackedLayout,
    /// What all descriptors say.
    described: Described,
    /// Whether they have the same buffer; else each keeps its own.
    shared: bool,
    /// Where the next descriptor is made available.
    avail: Place,
    /// Behind the last descriptor that was seen to be used, and how many that were.
    seen: Place,
    count: u16,
}

impl Packed {
    /// Looks at what was used since the last look.
    fn look(&mut self, memory: &GuestMemory) {
        let size = self.layout.size;
        while self.seen != self.avail && self.layout.is_used(memory, self.seen) {
            self.seen = self.seen.after(1, size);
            self.count = self.count.wrapping_add(1);
        }
    }

    /// Descriptors that the device has.
    fn left(&self) -> u16 {
        // CAST: no more than a ring has.
        self.avail.since(self.seen, self.layout.size) as u16
    }

    /// Makes a descriptor available; its flags are for later.
    fn prepare(&self, memory: &GuestMemory, at: Place) -> u16 {
        let Described { addr, len, flags } = self.described;
        let addr = if self.shared {
            addr
        } else {
            self.layout.read(memory, at.offset).addr
        };
        let descriptor = PackedDescriptor {
            addr,
            len,
            id: at.offset,
            flags,
        };
        self.layout.prepare(memory, at.offset, descriptor);
        flags | at.available()
    }

    /// Makes all that was used available again; true if the device wants a kick.
    fn fill(&mut self, memory: &GuestMemory) -> bool {
        self.look(memory);
        let (size, old) = (self.layout.size, self.avail);
        let free = size - self.left();
        if free == 0 {
            return false;
        }
        let first = self.prepare(memory, old);
        for ahead in 1..free {
            let at = old.after(ahead, size);
            let flags = self.prepare(memory, at);
            self.layout
                .set_flags(memory, at.offset, flags, Ordering::Relaxed);
        }
        self.layout
            .set_flags(memory, old.offset, first, Ordering::Release);
        self.avail = old.after(free, size);
        self.layout.wants_kick(memory, false, old, self.avail)
    }
}

impl Flood {
    /// Takes a queue from `device` whose ring is full of chains of one descriptor.
    pub(crate) fn of(device: &mut NetDevice, index: u32) -> Result<Self> {
        let memory = device.memory.clone();
        let queue = device.queue(index);
        // The device may be at work: a count and a base of the same moment.
        let (ready, base) = loop {
            let ready = queue.ring.ready();
            let base = queue.ring.base();
            if queue.ring.ready() == ready {
                break (u16::try_from(ready)?, base);
            }
        };
        let head = queue.layout.head(&memory, base, 0);
        let described = queue.layout.described(&memory, head);
        let mut flood = Self::new(memory, queue, base, (described, false))?;
        if let Ring::Packed(ring) = &mut flood.ring {
            let ring = ring.get_mut().unwrap_or_else(PoisonError::into_inner);
            let size = ring.layout.size;
            ring.avail = ring.seen.after(size - ready, size);
        }
        Ok(flood)
    }

    /// Takes a queue from `device` that no chain was added to: all chains will be the same, a frame
    /// that no peer looks at or the room for one.
    pub(crate) fn of_one_chain(device: &mut NetDevice, index: u32) -> Result<Self> {
        let memory = device.memory.clone();
        let (addr, _) = device.queue(index).buffers();
        let bytes = frame::unseen(1, 60);
        memory.fill(addr, 12, 0);
        memory.write(addr + 12, &bytes);
        let described = Described {
            addr,
            len: 12 + u32::try_from(bytes.len())?,
            flags: if index == RX { DESC_WRITE } else { 0 },
        };
        Self::of_chain(device, index, described)
    }

    /// Takes a queue from `device` that no chain was added to: all chains will be this one.
    pub(crate) fn of_chain(
        device: &mut NetDevice,
        index: u32,
        described: Described,
    ) -> Result<Self> {
        let memory = device.memory.clone();
        let queue = device.queue(index);
        if let Layout::Split(_) = queue.layout {
            // All entries of the available ring name it.
            queue.layout.describe(&memory, 0, described);
        }
        let base = queue.ring.base();
        Self::new(memory, queue, base, (described, true))
    }

    fn new(
        memory: Arc<GuestMemory>,
        queue: &mut Queue,
        base: u32,
        (described, shared): (Described, bool),
    ) -> Result<Self> {
        // CAST: the lower half.
        let base = base as u16;
        let (ring, counted) = match queue.layout {
            Layout::Split(layout) => (Ring::Split(layout), base),
            Layout::Packed(layout) => {
                let start = Place::parse(base);
                let ring = Packed {
                    layout,
                    described,
                    shared,
                    avail: start,
                    seen: start,
                    count: 0,
                };
                (Ring::Packed(Box::new(Mutex::new(ring))), 0)
            }
        };
        Ok(Self {
            ring,
            kick: std::mem::replace(&mut queue.kick, Kick::new()?),
            counted: AtomicU16::new(counted),
            used: AtomicU64::new(0),
            memory,
        })
    }

    /// The number of descriptors.
    pub(crate) fn size(&self) -> u16 {
        match &self.ring {
            Ring::Split(layout) => layout.size,
            Ring::Packed(ring) => lock(ring).layout.size,
        }
    }

    /// Counts used chains, from anywhere.
    pub(crate) fn progress(&self) -> u16 {
        match &self.ring {
            Ring::Split(layout) => layout.used_index(&self.memory),
            Ring::Packed(ring) => {
                let mut ring = lock(ring);
                ring.look(&self.memory);
                ring.count
            }
        }
    }

    /// Chains used until the last time that the ring was filled.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Chains that the device has not used.
    pub(crate) fn left(&self) -> u16 {
        match &self.ring {
            Ring::Split(layout) => {
                let given = layout.avail_index(&self.memory);
                given.wrapping_sub(layout.used_index(&self.memory))
            }
            Ring::Packed(ring) => {
                let mut ring = lock(ring);
                ring.look(&self.memory);
                ring.left()
            }
        }
    }

    /// Counts what was used, and makes all of the ring available; true if the device wants a kick.
    fn fill(&self) -> bool {
        let count = self.progress();
        let new = count.wrapping_sub(self.counted.swap(count, Ordering::Relaxed));
        self.used.fetch_add(new.into(), Ordering::Relaxed);
        match &self.ring {
            Ring::Split(layout) => {
                let before = layout.avail_index(&self.memory);
                let index = count.wrapping_add(layout.size);
                layout.set_avail_index(&self.memory, index);
                layout.wants_kick(&self.memory, false, before)
            }
            Ring::Packed(ring) => lock(ring).fill(&self.memory),
        }
    }

    /// Makes all of the ring available, with a kick if the device wants one.
    pub(crate) fn pour(&self) -> Result<()> {
        self.kick.kick_if(self.fill())
    }

    /// Makes all of the ring available until `stop`, and kicks all the time.
    pub(crate) fn run(&self, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let _ = self.fill();
            self.kick.force().context("kick")?;
        }
        Ok(())
    }

    /// Whether more chains were used than the ring has, so that the device goes on.
    pub(crate) fn goes_on(&self) -> bool {
        self.used() > 2 * u64::from(self.size())
    }
}

fn lock(ring: &Mutex<Packed>) -> MutexGuard<'_, Packed> {
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}
