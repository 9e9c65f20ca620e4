// SPDX-License-Identifier: GPL-2.0

//! Ring contents that no driver should write, for both directions.

use crate::driver::device::{NetDevice, Setup};
use crate::driver::layout::{Described, Layout};
use crate::driver::memory::GuestMemory;
use crate::driver::packed::{PackedDescriptor, Place};
use crate::driver::ring::Format;
use crate::driver::split::{Descriptor, SplitLayout, write_table};
use crate::driver::uapi::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, feature};
use std::sync::atomic::Ordering;

/// Two regions that touch.
pub(super) const TOUCHING: [u64; 2] = [0x4000_0000, 0x4001_0000];
/// Two regions with a hole of their own size between.
const APART: [u64; 2] = [0x5000_0000, 0x5002_0000];
/// The size of each of these.
pub(super) const REGION: usize = 0x1_0000;
/// Outside of all memory.
const NOWHERE: u64 = 0x9000_0000;
/// Descriptors that the driver's half does not reach with the few chains of these cases.
const SPARE: u16 = 250;
/// Where indirect tables are written.
const TABLE: u64 = TOUCHING[0] + 0x8000;

/// A device with the regions that the patterns refer to.
pub(super) fn setup(features: u64) -> Setup {
    let mut setup = Setup::new(feature::VERSION_1 | feature::INDIRECT | features);
    setup.regions = [TOUCHING, APART]
        .concat()
        .into_iter()
        .map(|at| (at, REGION))
        .collect();
    setup.rx_buffers = (32, 2048);
    setup
}

/// Writes a pattern behind the driver's back.
pub(super) struct Writer<'a> {
    memory: &'a GuestMemory,
    layout: Layout,
    /// `DESC_WRITE` for the receive queue, so that a pattern is wrong in one way only.
    direction: u16,
    /// Where the pattern goes, as a base.
    at: u32,
    /// Descriptors that are free.
    room: u16,
    /// Where the device is.
    start: u32,
}

impl<'a> Writer<'a> {
    /// Writes to a queue behind `ahead` chains that the device has not used.
    pub(super) fn new(device: &'a NetDevice, queue: u32, ahead: u16) -> Self {
        let receive = queue == crate::driver::vhost::RX;
        let queue = if receive { &device.rx } else { &device.tx };
        let start = queue.ring.base();
        Self {
            memory: &device.memory,
            layout: queue.layout,
            direction: if receive { DESC_WRITE } else { 0 },
            at: queue.layout.base_after(start, ahead),
            room: queue.layout.size() - ahead,
            start,
        }
    }

    /// What a descriptor says, in the direction of the queue unless `flags` have the other.
    fn described(&self, (addr, len, flags): (u64, u32, u16)) -> Described {
        let direction = if flags & DESC_INDIRECT == 0 {
            self.direction
        } else {
            0
        };
        Described {
            addr,
            len,
            flags: flags ^ direction,
        }
    }

    /// The split ring that a pattern is for.
    fn split(&self) -> SplitLayout {
        match self.layout {
            Layout::Split(layout) => layout,
            Layout::Packed(_) => panic!("a pattern of a split ring"),
        }
    }

    /// Writes a descriptor of a split ring.
    fn desc(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let Described { addr, len, flags } = self.described((addr, len, flags));
        let descriptor = Descriptor {
            addr,
            len,
            flags,
            next,
        };
        self.split().write_desc(self.memory, index, descriptor);
    }

    /// Makes a chain of a split ring available.
    fn expose(&self, head: u16) {
        // CAST: an index.
        let at = self.at as u16;
        let layout = self.split();
        layout.write_avail(self.memory, at, head);
        layout.set_avail_index(self.memory, at.wrapping_add(1));
    }

    /// Makes descriptors available one behind the other, just as they are.
    fn raw(&self, descriptors: &[(u64, u32, u16)]) {
        match self.layout {
            Layout::Split(_) => {
                for (index, one) in (SPARE..).zip(descriptors) {
                    self.desc(index, one.0, one.1, one.2, index + 1);
                }
                self.expose(SPARE);
            }
            Layout::Packed(layout) => {
                // CAST: a place.
                let start = Place::parse(self.at as u16);
                // The first one last.
                for (ahead, one) in (0..layout.size).zip(descriptors).rev() {
                    let at = start.after(ahead, layout.size);
                    let Described { addr, len, flags } = self.described(*one);
                    let descriptor = PackedDescriptor {
                        addr,
                        len,
                        id: SPARE,
                        flags,
                    };
                    layout.prepare(self.memory, at.offset, descriptor);
                    let flags = flags | at.available();
                    layout.set_flags(self.memory, at.offset, flags, Ordering::Release);
                }
            }
        }
    }

    /// Makes a chain available, given as address, length and flags of each descriptor.
    pub(super) fn chain(&self, parts: &[(u64, u32, u16)]) {
        let mut parts = parts.to_vec();
        let last = parts.len() - 1;
        for part in &mut parts[..last] {
            part.2 ^= DESC_NEXT;
        }
        self.raw(&parts);
    }

    /// Makes a chain of one descriptor available.
    pub(super) fn one(&self, addr: u64, len: u32, flags: u16) {
        self.chain(&[(addr, len, flags)]);
    }

    /// As [`Self::one`], in the descriptor `index` of a split ring.
    pub(super) fn one_at(&self, index: u16, (addr, len, flags): (u64, u32, u16)) {
        match self.layout {
            Layout::Split(_) => {
                self.desc(index, addr, len, flags, 0);
                self.expose(index);
            }
            Layout::Packed(_) => self.one(addr, len, flags),
        }
    }

    fn entry(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let flags = flags ^ self.direction;
        match self.layout {
            Layout::Split(_) => {
                let entry = Descriptor {
                    addr,
                    len,
                    flags,
                    next,
                };
                write_table(self.memory, TABLE, index.into(), entry);
            }
            Layout::Packed(_) => {
                let entry = Described { addr, len, flags };
                self.layout.write_entry(self.memory, TABLE, index, entry);
            }
        }
    }

    fn indirect(&self, len: u32) {
        self.one(TABLE, len, DESC_INDIRECT);
    }

    fn jump(&self, by: u16) {
        self.one(TOUCHING[0], 100, 0);
        // CAST: an index.
        let index = (self.start as u16).wrapping_add(by);
        self.split().set_avail_index(self.memory, index);
    }
}

/// A named pattern.
pub(super) type Pattern = (&'static str, fn(&Writer<'_>));

/// Patterns after which a queue must stop and say so, in either direction, on rings of any format.
const STOPPING: &[Pattern] = &[
    ("an indirect table of 17 bytes", |w| w.indirect(17)),
    ("an indirect table of 8 bytes", |w| w.indirect(8)),
    ("an empty indirect table", |w| w.indirect(0)),
    ("an indirect table of 4 GiB", |w| w.indirect(0xffff_fff0)),
    ("an indirect table nowhere", |w| {
        w.one(NOWHERE, 32, DESC_INDIRECT)
    }),
    ("an indirect table at a wrap", |w| {
        w.one(u64::MAX - 15, 32, DESC_INDIRECT)
    }),
    ("an indirect table into a hole", |w| {
        w.one(APART[0] + REGION as u64 - 16, 32, DESC_INDIRECT);
    }),
    ("an indirect buffer nowhere", |w| {
        w.entry(0, NOWHERE, 100, 0, 0);
        w.indirect(16);
    }),
    ("a buffer nowhere", |w| w.one(NOWHERE, 100, 0)),
    ("a buffer at zero", |w| w.one(0, 100, 0)),
    ("a buffer below memory", |w| {
        w.one(crate::driver::device::GUEST_BASE - 50, 100, 0)
    }),
    ("a buffer that wraps", |w| w.one(u64::MAX - 10, 100, 0)),
    ("a buffer that ends at the wrap", |w| {
        w.one(u64::MAX - 99, 100, 0)
    }),
    ("a buffer of 4 GiB", |w| w.one(TOUCHING[0], u32::MAX, 0)),
    ("a buffer into a hole", |w| {
        w.one(APART[0] + REGION as u64 - 50, 100, 0)
    }),
    ("a buffer over a hole", |w| {
        w.one(APART[0] + REGION as u64 - 50, 100 + REGION as u32, 0);
    }),
    ("a buffer that ends past the last region", |w| {
        w.one(APART[1] + REGION as u64 - 99, 100, 0);
    }),
    ("an empty chain", |w| w.one(TOUCHING[0], 0, 0)),
    ("a buffer of the other direction", |w| {
        w.one(TOUCHING[0], 100, DESC_WRITE)
    }),
    ("buffers of both directions", |w| {
        // Readable first, as the order must be; neither queue may have both.
        let readable = (TOUCHING[0], 40, w.direction);
        let writable = (TOUCHING[0], 40, DESC_WRITE ^ w.direction);
        w.chain(&[readable, writable]);
    }),
    ("readable after writable", |w| {
        let readable = (TOUCHING[0], 40, w.direction);
        let writable = (TOUCHING[0], 40, DESC_WRITE ^ w.direction);
        w.chain(&[writable, readable]);
    }),
];

/// Such patterns of split rings.
const STOPPING_SPLIT: &[Pattern] = &[
    ("head 256 of 256", |w| w.expose(256)),
    ("head 65535", |w| w.expose(65535)),
    ("next out of range", |w| {
        w.desc(SPARE, TOUCHING[0], 40, DESC_NEXT, 256);
        w.expose(SPARE);
    }),
    ("next far out of range", |w| {
        w.desc(SPARE, TOUCHING[0], 40, DESC_NEXT, 65535);
        w.expose(SPARE);
    }),
    ("a chain to itself", |w| {
        w.desc(SPARE, TOUCHING[0], 40, DESC_NEXT, SPARE);
        w.expose(SPARE);
    }),
    ("a loop of two", |w| {
        w.desc(SPARE, TOUCHING[0], 40, DESC_NEXT, SPARE + 1);
        w.desc(SPARE + 1, TOUCHING[0], 40, DESC_NEXT, SPARE);
        w.expose(SPARE);
    }),
    ("a loop of empty buffers", |w| {
        w.desc(SPARE, TOUCHING[0], 0, DESC_NEXT, SPARE);
        w.expose(SPARE);
    }),
    ("nested indirect tables", |w| {
        w.entry(0, TABLE + 64, 32, DESC_INDIRECT ^ w.direction, 0);
        w.indirect(16);
    }),
    ("an indirect loop", |w| {
        w.entry(0, TOUCHING[0], 40, DESC_NEXT, 1);
        w.entry(1, TOUCHING[0], 40, DESC_NEXT, 0);
        w.indirect(32);
    }),
    ("an indirect chain beyond its table", |w| {
        w.entry(0, TOUCHING[0], 40, DESC_NEXT, 1);
        w.indirect(16);
    }),
    ("an index 257 ahead", |w| w.jump(257)),
    ("an index 32768 ahead", |w| w.jump(32768)),
    ("an index one back", |w| w.jump(65535)),
];

/// Such patterns of packed rings, where an entry of an indirect table has no link, and no flag that
/// counts but `DESC_WRITE`.
const STOPPING_PACKED: &[Pattern] = &[
    ("an indirect table with more behind it", |w| {
        w.entry(0, TOUCHING[0], 100, 0, 0);
        let table = (TABLE, 16, DESC_INDIRECT | DESC_NEXT);
        w.raw(&[table, (TOUCHING[0], 40, 0)]);
    }),
    ("a chain that goes on in what is not available", |w| {
        w.raw(&[(TOUCHING[0], 40, DESC_NEXT)]);
    }),
    ("a long chain that goes on in what is not available", |w| {
        w.raw(&[(TOUCHING[0], 1, DESC_NEXT); 200]);
    }),
    ("a chain longer than the ring", |w| {
        w.raw(&vec![(TOUCHING[0], 1, DESC_NEXT); w.room.into()]);
    }),
];

/// All patterns of a format after which a queue must stop.
pub(super) fn stopping(format: Format) -> impl Iterator<Item = Pattern> {
    let more = match format {
        Format::Split => STOPPING_SPLIT,
        Format::Packed => STOPPING_PACKED,
    };
    STOPPING.iter().chain(more).copied()
}
