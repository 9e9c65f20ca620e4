// SPDX-License-Identifier: GPL-2.0

//! A queue that always has work: its driver makes all of its ring available again and again, behind
//! the back of the queue's other half.

use crate::driver::device::NetDevice;
use crate::driver::memory::GuestMemory;
use crate::driver::queue::Kick;
use crate::driver::split::{Descriptor, SplitLayout};
use crate::driver::uapi::DESC_WRITE;
use crate::driver::vhost::RX;
use crate::packet::frame;
use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

/// Such a queue. One thread pours, any may look.
pub(crate) struct Flood {
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) layout: SplitLayout,
    kick: Kick,
    /// The used index when it was last counted.
    counted: AtomicU16,
    /// Chains used until then.
    used: AtomicU64,
}

impl Flood {
    /// Takes a queue, with what its ring holds, from `device`.
    pub(crate) fn of(device: &mut NetDevice, index: u32) -> Result<Self> {
        let memory = device.memory.clone();
        let queue = device.queue(index);
        Ok(Self {
            layout: queue.split(),
            kick: std::mem::replace(&mut queue.kick, Kick::new()?),
            counted: AtomicU16::new(queue.split().used_index(&memory)),
            used: AtomicU64::new(0),
            memory,
        })
    }

    /// Takes a queue from `device` that no chain was added to: all of its available ring names the
    /// first descriptor, a frame that no peer looks at or the room for one.
    pub(crate) fn of_one_chain(device: &mut NetDevice, index: u32) -> Result<Self> {
        let (addr, _) = device.queue(index).buffers();
        let flood = Self::of(device, index)?;
        let bytes = frame::unseen(1, 60);
        flood.memory.fill(addr, 12, 0);
        flood.memory.write(addr + 12, &bytes);
        let descriptor = Descriptor {
            addr,
            len: 12 + u32::try_from(bytes.len())?,
            flags: if index == RX { DESC_WRITE } else { 0 },
            next: 0,
        };
        flood.layout.write_desc(&flood.memory, 0, descriptor);
        Ok(flood)
    }

    /// The used index.
    pub(crate) fn used_index(&self) -> u16 {
        self.layout.used_index(&self.memory)
    }

    /// Chains used until the last time that the ring was filled.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Chains that the device has not used.
    pub(crate) fn left(&self) -> u16 {
        let given = self.layout.avail_index(&self.memory);
        given.wrapping_sub(self.used_index())
    }

    /// Counts what was used, and makes all of the ring available; true if the device wants a kick.
    fn fill(&self) -> bool {
        let used = self.used_index();
        let new = used.wrapping_sub(self.counted.swap(used, Ordering::Relaxed));
        self.used.fetch_add(new.into(), Ordering::Relaxed);
        let before = self.layout.avail_index(&self.memory);
        let index = used.wrapping_add(self.layout.size);
        self.layout.set_avail_index(&self.memory, index);
        self.layout.wants_kick(&self.memory, false, before)
    }

    /// Makes all of the ring available, with a kick if the device wants one.
    pub(crate) fn pour(&self) -> Result<()> {
        self.kick.kick_if(self.fill())
    }

    /// Makes all of the ring available until `stop`, and kicks all the time.
    pub(crate) fn run(&self, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let _ = self.fill();
            self.kick.force()?;
        }
        Ok(())
    }

    /// Whether more chains were used than the ring has, so that the device goes on.
    pub(crate) fn goes_on(&self) -> bool {
        self.used() > 2 * u64::from(self.layout.size)
    }
}
