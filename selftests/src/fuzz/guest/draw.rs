// SPDX-License-Identifier: GPL-2.0

//! What a hostile guest writes into its memory, drawn at random.

use super::packet;
use super::setup::{CLOSED, LIMITED, OPEN, REGION};
use crate::driver::device::NetDevice;
use crate::driver::memory::GuestMemory;
use crate::driver::split::{Descriptor, SplitLayout, write_table};
use crate::driver::uapi::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE};
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

/// One of the device's queues as the hostile guest has it.
#[derive(Clone, Copy, Debug)]
struct Ring {
    layout: SplitLayout,
    /// Which direction its descriptors should have.
    write: u16,
    /// The available index.
    at: u16,
    /// Where the next chain begins in the table.
    head: u16,
}

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
        let ring = |layout: SplitLayout, write| Ring {
            layout,
            write,
            at: device.setup.base,
            // Where the in-tree driver looks for it if used in order.
            head: device.setup.base % layout.size,
        };
        let mut own = vec![device.rx.buffers(), device.tx.buffers()];
        // The first has the tables in its second half.
        own.push((OPEN[0], REGION / 2));
        own.extend(OPEN[1..].iter().map(|at| (*at, REGION)));
        Self {
            memory: device.memory.clone(),
            rings: [
                ring(device.rx.split(), DESC_WRITE),
                ring(device.tx.split(), 0),
            ],
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
    pub fn layout(&self, queue: u32) -> SplitLayout {
        self.ring(queue).layout
    }

    fn ring(&self, queue: u32) -> Ring {
        self.rings[usize::from(queue != RX)]
    }

    /// Empties a ring, at the given index.
    pub fn restart(&mut self, queue: u32, base: u16) {
        let layout = self.layout(queue);
        layout.set_avail_index(&self.memory, base);
        self.memory
            .store_u16(layout.used + 2, base, Ordering::Release);
        let ring = &mut self.rings[usize::from(queue != RX)];
        (ring.at, ring.head) = (base, base % layout.size);
    }

    /// Whether the device has taken so little that it would find the ring too full.
    pub fn is_full(&self, queue: u32) -> bool {
        let Ring { layout, at, .. } = self.ring(queue);
        at.wrapping_sub(layout.used_index(&self.memory)) >= layout.size
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
                let parts = [layout.desc, layout.avail, layout.used, TABLES.0];
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

    /// A chain of `count` descriptors that is right, but for what `wildness` changes; `put` writes
    /// the one of a number, whose index is what `next` says.
    fn chain(
        &mut self,
        queue: u32,
        count: usize,
        wildness: f64,
        mut put: impl FnMut(&GuestMemory, usize, Descriptor),
        next: impl Fn(usize) -> u16,
    ) {
        let Ring { layout, write, .. } = self.ring(queue);
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
                next: next(at + 1),
            };
            if first {
                self.packet(addr, len);
            }
            if self.rng.random_bool(wildness) {
                let wild = self.wild(layout.size);
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
            put(&self.memory, at, descriptor);
        }
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
        let Ring {
            layout, at, head, ..
        } = self.ring(queue);
        let size = layout.size;
        let wildness = self.wildness;
        let place = move |n: usize| {
            // CAST: the remainder is below the size of a ring.
            ((usize::from(head) + n) % usize::from(size)) as u16
        };
        let mut used = 1;
        if self.rng.random_bool(0.3) {
            let most = *[3, 3, 3, 40, 1200].choose(&mut self.rng).unwrap_or(&3);
            let count = self.rng.random_range(1..=most);
            let first = self.rng.random_range(0..TABLES.1 - count);
            let table = TABLES.0 + 16 * first as u64;
            // CAST: no more entries than fit.
            self.chain(
                queue,
                count,
                wildness / 4.0,
                |memory, at, descriptor| {
                    write_table(memory, table, at, descriptor);
                },
                |n| n as u16,
            );
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
            layout.write_desc(&self.memory, head, whole);
        } else {
            let count = self.rng.random_range(1..=6.min(usize::from(size / 2)));
            self.chain(
                queue,
                count,
                wildness,
                |memory, at, descriptor| {
                    layout.write_desc(memory, place(at), descriptor);
                },
                place,
            );
            used = count;
        }
        let head = if self.rng.random_bool(wildness / 10.0) {
            self.rng.random()
        } else {
            head
        };
        layout.write_avail(&self.memory, at, head);
        let next = at.wrapping_add(1);
        layout.set_avail_index(&self.memory, next);
        let ring = &mut self.rings[usize::from(queue != RX)];
        (ring.at, ring.head) = (next, place(used));
    }

    /// Moves the available index to anywhere.
    pub fn jump(&mut self, queue: u32) {
        let by = *[1, 2, 255, 1025, 0x7fff, 0x8000, 0xffff]
            .choose(&mut self.rng)
            .unwrap_or(&1);
        let Ring { layout, at, .. } = self.ring(queue);
        layout.set_avail_index(&self.memory, at.wrapping_add(by));
    }

    /// Changes something, whatever the device is doing with it.
    pub fn scribble(&mut self) {
        let queue = self.rng.random_range(0..2);
        let Ring { layout, .. } = self.ring(queue);
        let size = u64::from(layout.size);
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
        let slot = self.rng.random_range(0..size);
        let store = |addr| self.memory.store_u16(addr, word, Ordering::Relaxed);
        match self.rng.random_range(0..100) {
            0..25 => store(layout.desc + 2 * self.rng.random_range(0..8 * size)),
            25..40 => {
                let descriptor = self.wild(layout.size);
                // CAST: below the size of a ring.
                layout.write_desc(&self.memory, slot as u16, descriptor);
            }
            40..50 => {
                let descriptor = self.wild(layout.size);
                let entry = self.rng.random_range(0..TABLES.1);
                write_table(&self.memory, TABLES.0, entry, descriptor);
            }
            50..55 => store(layout.avail + 4 + 2 * slot),
            55..60 => self.memory.store_u16(
                layout.avail + 4 + 2 * slot,
                // CAST: below the size of a ring.
                self.rng.random_range(0..size) as u16,
                Ordering::Relaxed,
            ),
            // Flags, and the index at which to call.
            60..64 => store(layout.avail),
            64..68 => store(layout.avail + 4 + 2 * size),
            // Flags, index, entries, and the index at which to kick.
            68..72 => store(layout.used),
            72..74 => store(layout.used + 2),
            74..78 => store(layout.used + 4 + 2 * self.rng.random_range(0..4 * size)),
            78..82 => store(layout.used + 4 + 8 * size),
            82 => store(layout.avail + 2),
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
