// SPDX-License-Identifier: GPL-2.0

//! Ring contents that no driver should write, for both directions.

use crate::driver::device::{NetDevice, Setup};
use crate::driver::memory::GuestMemory;
use crate::driver::split::{Descriptor, SplitLayout, write_table};
use crate::driver::uapi::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, feature};

/// Two regions that touch.
pub(super) const TOUCHING: [u64; 2] = [0x4000_0000, 0x4001_0000];
/// Two regions with a hole of their own size between.
const APART: [u64; 2] = [0x5000_0000, 0x5002_0000];
/// The size of each of these.
pub(super) const REGION: usize = 0x1_0000;
/// Outside of all memory.
const NOWHERE: u64 = 0x9000_0000;
/// Descriptors that the driver's half does not reach with the few chains of these cases.
pub(super) const SPARE: u16 = 250;
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
    pub(super) memory: &'a GuestMemory,
    pub(super) layout: SplitLayout,
    /// `DESC_WRITE` for the receive queue, so that a pattern is wrong in one way only.
    pub(super) direction: u16,
    /// The available index at which the pattern goes.
    pub(super) at: u16,
    /// The available index that the device has seen last.
    start: u16,
}

impl<'a> Writer<'a> {
    pub(super) fn new(device: &'a NetDevice, queue: u32, at: u16) -> Self {
        let receive = queue == crate::driver::vhost::RX;
        let layout = if receive {
            device.rx.split()
        } else {
            device.tx.split()
        };
        let start = layout.used_index(&device.memory);
        let direction = if receive { DESC_WRITE } else { 0 };
        Self {
            memory: &device.memory,
            layout,
            direction,
            at,
            start,
        }
    }

    pub(super) fn desc(&self, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let flags = flags
            ^ if flags & DESC_INDIRECT == 0 {
                self.direction
            } else {
                0
            };
        self.layout.write_desc(
            self.memory,
            index,
            Descriptor {
                addr,
                len,
                flags,
                next,
            },
        );
    }

    pub(super) fn expose(&self, head: u16) {
        self.layout.write_avail(self.memory, self.at, head);
        self.layout
            .set_avail_index(self.memory, self.at.wrapping_add(1));
    }

    pub(super) fn one(&self, addr: u64, len: u32, flags: u16) {
        self.desc(SPARE, addr, len, flags, 0);
        self.expose(SPARE);
    }

    fn entry(&self, index: usize, addr: u64, len: u32, flags: u16, next: u16) {
        let flags = flags ^ self.direction;
        write_table(
            self.memory,
            TABLE,
            index,
            Descriptor {
                addr,
                len,
                flags,
                next,
            },
        );
    }

    fn indirect(&self, len: u32) {
        self.one(TABLE, len, DESC_INDIRECT);
    }

    fn jump(&self, by: u16) {
        self.one(TOUCHING[0], 100, 0);
        self.layout
            .set_avail_index(self.memory, self.start.wrapping_add(by));
    }
}

/// A named pattern.
pub(super) type Pattern = (&'static str, fn(&Writer<'_>));

/// Patterns after which a queue must stop and say so, in either direction.
pub(super) const STOPPING: &[Pattern] = &[
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
        w.desc(SPARE, TOUCHING[0], 40, DESC_NEXT ^ w.direction, SPARE + 1);
        w.desc(SPARE + 1, TOUCHING[0], 40, DESC_WRITE ^ w.direction, 0);
        w.expose(SPARE);
    }),
    ("readable after writable", |w| {
        w.desc(
            SPARE,
            TOUCHING[0],
            40,
            (DESC_NEXT | DESC_WRITE) ^ w.direction,
            SPARE + 1,
        );
        w.desc(SPARE + 1, TOUCHING[0], 40, w.direction, 0);
        w.expose(SPARE);
    }),
    ("an index 257 ahead", |w| w.jump(257)),
    ("an index 32768 ahead", |w| w.jump(32768)),
    ("an index one back", |w| w.jump(65535)),
];
