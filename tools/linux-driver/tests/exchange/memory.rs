// SPDX-License-Identifier: GPL-2.0

//! The guest memory of the exchange.
//!
//! The driver's own memory has the addresses of this process. Buffers are elsewhere, where nothing
//! is: both sides only pass their addresses on.

use linux_driver::Buf;
use vring::{GuestAddr, MemTable, Region, Segment, UserAddr};

use crate::between::Random;

/// Where processes have memory.
const PROCESS: (u64, u64) = (0x1000, 1 << 47);

/// The start of each region for buffers, which touch.
const LOW: u64 = 1 << 48;
const HIGH: u64 = LOW + LEN;

/// The length of each of them.
const LEN: u64 = 1 << 20;

/// The user addresses of both regions, which are apart.
const LOW_USER: u64 = 1 << 49;
const HIGH_USER: u64 = 1 << 50;

/// The table of all memory.
pub fn table() -> MemTable<Vec<Region>> {
    let region = |guest, size, user| Region {
        guest: GuestAddr(guest),
        size,
        user: UserAddr(user),
    };
    let (start, end) = PROCESS;
    MemTable::new(vec![
        region(start, end - start, start),
        region(LOW, LEN, LOW_USER),
        region(HIGH, LEN, HIGH_USER),
    ])
    .expect("sound regions")
}

/// An address for a buffer of `len` bytes, often one at which the buffer crosses into the other region.
pub fn address(random: &Random, len: u32) -> u64 {
    let first = if random.one_in(8) {
        HIGH - u64::from(len)
    } else {
        LOW
    };
    let last = HIGH + LEN - u64::from(len);
    let room = if first == LOW {
        last - first
    } else {
        u64::from(len)
    };
    first + u64::from(random.below(room as u32))
}

/// The segments of a buffer.
pub fn segments(buf: &Buf) -> Vec<Segment> {
    let (start, end) = (buf.addr, buf.addr + u64::from(buf.len));
    let part = |region: u64, user: u64| {
        let (start, end) = (start.max(region), end.min(region + LEN));
        (start < end).then(|| Segment {
            addr: UserAddr(user + (start - region)),
            len: end - start,
        })
    };
    let parts = [part(LOW, LOW_USER), part(HIGH, HIGH_USER)];
    parts.into_iter().flatten().collect()
}
