// SPDX-License-Identifier: GPL-2.0

//! Any calls to a packed ring on memory that a guest writes at any time.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/host/mock/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the tests")]
mod mock;
#[path = "../ring.rs"]
mod ring;
#[path = "../../tests/host/watch.rs"]
mod watch;

use mock::packed::packed_bytes;
use mock::{MockMemory, Packed};
use ring::{run, Input, Target};
use watch::{GOOD, MAX_SIZE};

/// The flags of a descriptor that say whether it is available or used.
const OWNERS: [u16; 4] = [1 << 7, 1 << 15, 1 << 7 | 1 << 15, 0];

/// Address of the flags of the ring's descriptor at `offset`.
fn flags_at(offset: u16) -> u64 {
    GOOD.desc.0 + 16 * u64::from(offset % MAX_SIZE) + 14
}

/// Sets the available and the used flag of a descriptor, and keeps its other flags.
fn put_owner(memory: &MockMemory, offset: u16, owner: u16) {
    let at = flags_at(offset);
    let rest = memory.peek16(at) & !(1 << 7 | 1 << 15);
    memory.poke16(at, rest | owner);
}

impl Target for Packed {
    fn desc_bytes(desc: vring::Desc) -> Vec<u8> {
        packed_bytes(desc, desc.next, desc.next < 0xc0)
    }

    fn step(memory: &MockMemory, steps: i8) {
        let offset = u16::from(steps.unsigned_abs());
        let owner = OWNERS[usize::from(steps < 0)];
        put_owner(memory, offset, owner);
    }

    fn put_head(memory: &MockMemory, entry: u16, head: u16) {
        put_owner(memory, entry, OWNERS[usize::from(head) % OWNERS.len()]);
    }

    fn publish(memory: &MockMemory) {
        for offset in MAX_SIZE / 2..MAX_SIZE {
            put_owner(memory, offset, 0);
        }
    }

    fn base(bits: u16) -> u32 {
        // Within the ring more often than not.
        let bits = if bits & 0x4000 == 0 {
            bits & 0x803f
        } else {
            bits
        };
        u32::from(bits) * 0x1_0001
    }
}

fuzz_target!(|input: Input| run::<Packed>(input));
