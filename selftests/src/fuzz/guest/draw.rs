// SPDX-License-Identifier: GPL-2.0

//! What a hostile guest writes into its memory, drawn at random.

use super::packet;
use super::ring::Ring;
use super::setup::{CLOSED, LIMITED, OPEN, REGION};
use crate::driver::device::NetDevice;
use crate::driver::layout::Layout;
use crate::driver::memory::GuestMemory;
use crate::driver::queue::Queue;
use crate::driver::split::Descriptor;
use crate::driver::uapi::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, feature};
use crate::driver::vhost::RX;
use crate::packet::header::NetHeader;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Where indirect tables are, and how many entries fit.
const TABLES: (u64, usize) = (OPEN[0] + 0x8000, 0x800);

/// Lengths at which something changes.
const LENGTHS: [u32; 20] = [
    0,
    1,
    9,
    10,
    11,
    12,
    13,
    14,
    24,
    26,
    60,
    1514,
    2048,
    4096,
    65535,
    65536,
    65551,
    1 << 20,
    1 << 31,
    u32::MAX,
];

/// Addresses that are no memory, or at an end of all addresses.
const NOWHERE: [u64; 6] = [
    0,
    0x9000_0000,
    1 << 47,
    1 << 63,
    0xffff_8880_0000_0000,
    u64::MAX,
];

/// The guest.
#[derive(Debug)]
pub struct Guest {
    memory: Arc<GuestMemory>,
    rings: [Ring; 2],
    /// Memory that it writes to: start and length.
    own: Vec<(u64, usize)>,
    /// What it points the device at beside that.
    others: [(u64, usize); 2],
    /// All that the device has: start and length.
    regions: Vec<(u64, u64)>,
    header: usize,
    /// How likely something of a chain is wrong.
    wildness: f64,
    rng: SmallRng,
    scratch: Vec<u8>,
}

impl Guest {
    /// A guest that has the memory and rings of `device`.
    pub fn new(device: &NetDevice, mut rng: SmallRng) -> Self {
        let features = device.setup.features;
        let ring = |queue: &Queue, write| {
            let count = device.setup.base;
            let base = queue
                .layout
                .format()
                .base(queue.layout.size(), count.into());
            Ring::new(queue.layout, write, base, features & feature::IN_ORDER != 0)
        };
        let mut own = vec![device.rx.buffers(), device.tx.buffers()];
        // The first has the tables in its second half.
        own.push((OPEN[0], REGION / 2));
        own.extend(OPEN[1..].iter().map(|at| (*at, REGION)));
        Self {
            memory: device.memory.clone(),
            rings: [ring(&device.rx, DESC_WRITE), ring(&device.tx, 0)],
            own,
            others: [(CLOSED, REGION), (LIMITED, REGION)],
            regions: (device.memory.table().iter())
                .map(|region| (region.guest, region.size))
                .collect(),
            header: device.setup.header(),
            wildness: *[0.0, 0.002, 0.02, 0.2].choose(&mut rng).unwrap_or(&0.0),
            rng,
            scratch: Vec::new(),
        }
    }

    /// A ring's place in memory.
    pub fn layout(&self, queue: u32) -> Layout {
        self.ring(queue).layout
    }

    fn ring(&self, queue: u32) -> &Ring {
        &self.rings[usize::from(queue != RX)]
    }

    /// Empties a ring, at the given base.
    pub fn restart(&mut self, queue: u32, base: u32) {
        self.rings[usize::from(queue != RX)].restart(&self.memory, base);
    }

    /// Whether the device has taken so little that it would find the ring too full.
    pub fn is_full(&mut self, queue: u32) -> bool {
        self.rings[usize::from(queue != RX)].is_full(&self.memory)
    }

    fn range(&mut self) -> (u64, usize) {
        let ranges = if self.rng.random_bool(0.03) {
            &self.others[..]
        } else {
            &self.own[..]
        };
        ranges[self.rng.random_range(0..ranges.len())]
    }

    /// A buffer that lies in memory, of at least so many bytes.
    fn buffer(&mut self, least: usize) -> (u64, u32) {
        let (start, len) = self.range();
        let offset = self.rng.random_range(0..=len - least);
        let most = *[64, 256, 2048, REGION].choose(&mut self.rng).unwrap_or(&64);
        let most = most.clamp(least, len - offset);
        // CAST: no more than a region.
        let len = self.rng.random_range(least..=most) as u32;
        (start + offset as u64, len)
    }

    /// Any address.
    fn address(&mut self) -> u64 {
        let near = self.rng.random_range(0..=64);
        match self.rng.random_range(0..10) {
            0..3 => self.buffer(1).0,
            3..6 => {
                let (start, len) = self.range();
                let edge = if self.rng.random() {
                    start
                } else {
                    start + len as u64
                };
                if self.rng.random() {
                    edge + near
                } else {
                    edge - near
                }
            }
            6 => {
                let layout = self.rings[self.rng.random_range(0..2)].layout;
                let [first, second, third] = layout.areas().map(|area| area.addr);
                let parts = [first, second, third, TABLES.0];
                parts.choose(&mut self.rng).copied().unwrap_or(0) + near
            }
            7 | 8 => {
                let nowhere = NOWHERE.choose(&mut self.rng).copied().unwrap_or(0);
                if self.rng.random() {
                    nowhere.wrapping_add(near)
                } else {
                    nowhere.wrapping_sub(near)
                }
            }
            _ => self.rng.random::<u64>() >> self.rng.random_range(0..64),
        }
    }

    /// A small buffer that lies over the start or the end of a region.
    fn overrun(&mut self) -> (u64, u32) {
        // Devices remember where they found the last buffer, which is mostly in the first.
        let at = match self.rng.random() {
            true => 0,
            false => self.rng.random_range(0..self.regions.len()),
        };
        let (start, size) = self.regions[at];
        let len = self.rng.random_range(2..=64);
        let outside = self.rng.random_range(1..len);
        let addr = if self.rng.random_bool(0.7) {
            start + size - u64::from(len - outside)
        } else {
            start - u64::from(outside)
        };
        (addr, len)
    }

    /// A descriptor of which nothing has to be right.
    fn wild(&mut self, size: u16) -> Descriptor {
        let rare = self.rng.random_bool(0.1);
        Descriptor {
            addr: self.address(),
            len: LENGTHS.choose(&mut self.rng).copied().unwrap_or(0),
            flags: self.rng.random::<u16>() & if rare { 0xffff } else { 7 },
            next: if rare {
                self.rng.random()
            } else {
                self.rng.random_range(0..size)
            },
        }
    }

    /// A chain of `count` descriptors that is right, but for what `wildness` changes; `next` says which
    /// index the one of a number has.
    fn chain(
        &mut self,
        queue: u32,
        count: usize,
        wildness: f64,
        next: impl Fn(&Ring, usize) -> u16,
    ) -> Vec<Descriptor> {
        let (size, write) = (self.layout(queue).size(), self.ring(queue).write);
        let mut chain = Vec::new();
        for at in 0..count {
            // The least that can be sent.
            let first = write == 0 && at == 0;
            let least = if first { self.header + 14 } else { 1 };
            let (addr, len) = self.buffer(least);
            let last = at + 1 == count;
            let mut descriptor = Descriptor {
                addr,
                len,
                flags: write | if last { 0 } else { DESC_NEXT },
                next: next(self.ring(queue), at + 1),
            };
            if first {
                self.packet(addr, len);
            }
            if self.rng.random_bool(wildness) {
                let wild = self.wild(size);
                match self.rng.random_range(0..8) {
                    0..3 => {
                        (descriptor.addr, descriptor.len) = self.overrun();
                        // So that nothing after it makes the chain a bad one.
                        if self.rng.random() {
                            descriptor.flags = write;
                        }
                    }
                    3 => descriptor = wild,
                    4 => descriptor.addr = wild.addr,
                    5 => descriptor.len = wild.len,
                    6 => descriptor.flags = wild.flags,
                    _ => descriptor.next = wild.next,
                }
            }
            chain.push(descriptor);
        }
        chain
    }

    /// Writes a packet where the guest may, of up to `len` bytes.
    fn packet(&mut self, addr: u64, len: u32) {
        let inside = |&(start, size): &(u64, usize)| (start..start + size as u64).contains(&addr);
        let len = len as usize;
        if !self.own.iter().any(inside) || len < self.header + 14 {
            return;
        }
        let mut out = std::mem::take(&mut self.scratch);
        packet::frame(&mut self.rng, len - self.header, &mut out);
        let head = if self.rng.random_bool(0.6) {
            NetHeader::default()
        } else {
            packet::header(&mut self.rng)
        };
        self.memory.write(addr, &head.bytes()[..self.header]);
        self.memory.write(addr + self.header as u64, &out);
        self.scratch = out;
    }

    /// Makes a chain available; some are wild.
    pub fn submit(&mut self, queue: u32) {
        let size = self.layout(queue).size();
        let wildness = self.wildness;
        let chain = if self.rng.random_bool(0.3) {
            let most = *[3, 3, 3, 40, 1200].choose(&mut self.rng).unwrap_or(&3);
            let count = self.rng.random_range(1..=most);
            let first = self.rng.random_range(0..TABLES.1 - count);
            let table = TABLES.0 + 16 * first as u64;
            // CAST: no more entries than fit.
            let entries = self.chain(queue, count, wildness / 4.0, |_, number| number as u16);
            for (at, entry) in (0..).zip(entries) {
                self.ring(queue).write_entry(&self.memory, table, at, entry);
            }
            let mut whole = Descriptor {
                addr: table,
                len: 16 * count as u32,
                flags: DESC_INDIRECT,
                next: 0,
            };
            if self.rng.random_bool(wildness) {
                whole.len = whole
                    .len
                    .wrapping_add(self.rng.random_range(0..40))
                    .wrapping_sub(20);
            }
            vec![whole]
        } else {
            let most = 6.min(usize::from(size / 2)).max(1);
            let count = self.rng.random_range(1..=most);
            self.chain(queue, count, wildness, Ring::index)
        };
        let wrong = self.rng.random_bool(wildness / 10.0);
        let wrong = wrong.then(|| self.rng.random());
        self.rings[usize::from(queue != RX)].add(&self.memory, &chain, wrong);
    }

    /// Makes available what was not written for that.
    pub fn jump(&mut self, queue: u32) {
        let by = *[1, 2, 255, 1025, 0x7fff, 0x8000, 0xffff]
            .choose(&mut self.rng)
            .unwrap_or(&1);
        self.ring(queue).jump(&self.memory, by);
    }

    /// Changes something, whatever the device is doing with it.
    pub fn scribble(&mut self) {
        let queue = self.rng.random_range(0..2);
        let layout = self.layout(queue);
        let size = layout.size();
        let word: u16 = *[
            0,
            1,
            2,
            0x7fff,
            0xffff,
            self.rng.random(),
            self.rng.random(),
        ]
        .choose(&mut self.rng)
        .unwrap_or(&0);
        match self.rng.random_range(0..100) {
            0..25 => {
                let [descriptors, ..] = layout.areas();
                let at = 2 * self.rng.random_range(0..8 * u64::from(size));
                self.memory
                    .store_u16(descriptors.addr + at, word, Ordering::Relaxed);
            }
            25..40 => {
                let descriptor = self.wild(size);
                let index = self.rng.random_range(0..size);
                self.ring(queue).overwrite(&self.memory, index, descriptor);
            }
            40..50 => {
                let descriptor = self.wild(size);
                // CAST: no more entries than fit.
                let entry = self.rng.random_range(0..TABLES.1) as u16;
                self.ring(queue)
                    .write_entry(&self.memory, TABLES.0, entry, descriptor);
            }
            50..55 => {
                if let Layout::Split(split) = layout {
                    let (at, head) = (self.rng.random(), self.rng.random_range(0..size));
                    split.write_avail(&self.memory, at, head);
                }
            }
            55..83 => {
                let ring = &self.rings[usize::from(queue != RX)];
                let addr = ring.word(&mut self.rng);
                self.memory.store_u16(addr, word, Ordering::Relaxed);
            }
            _ => {
                let (start, len) = *self.own.choose(&mut self.rng).unwrap_or(&self.own[0]);
                let at = self.rng.random_range(0..len - 32) as u64;
                if self.rng.random() {
                    let bytes = packet::header(&mut self.rng).bytes();
                    self.memory.write(start + at, &bytes[..self.header]);
                } else {
                    let bytes: [u8; 32] = self.rng.random();
                    self.memory.write(start + at, &bytes);
                }
            }
        }
    }
}
