// SPDX-License-Identifier: GPL-2.0

//! What only packed rings have: positions with wrap counters, ids in the last descriptor, used
//! descriptors that skip others, event suppression.

mod base;
mod chains;
mod events;
mod used;

use vring::{CompleteWork, Position};

use crate::mock::{Buf, Packed, Rig, Setup, PLACE};

type Bench = Rig<Packed>;

const BUF: Buf = Buf::read(0x1000, 64);

fn at(size: u16, index: u16) -> Bench {
    Bench::with(Setup {
        size,
        index,
        ..Setup::default()
    })
}

fn with_events(size: u16, index: u16) -> Bench {
    let mut bench = Bench::with(Setup {
        size,
        index,
        event_idx: true,
        ..Setup::default()
    });
    let _ = bench.ring.needs_call(&bench.memory);
    bench
}

fn event(flags: u16, at: Position) -> u32 {
    u32::from(flags) << 16 | u32::from(at.bits())
}

/// The device's event as stored in memory.
fn wish(bench: &Bench) -> u32 {
    u32::from_le_bytes(bench.memory.peek(PLACE.used.0, 4).try_into().unwrap())
}

fn put_wish(bench: &Bench, event: u32) {
    bench.memory.poke(PLACE.avail.0, &event.to_le_bytes());
}
