// SPDX-License-Identifier: GPL-2.0

//! Any calls to a split ring on memory that a guest writes at any time.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/host/mock/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the tests")]
mod mock;
#[path = "../ring.rs"]
mod ring;
#[path = "../../tests/host/watch.rs"]
mod watch;

use mock::driver::desc_bytes;
use mock::{MockMemory, Split};
use ring::{run, Input, Target};
use watch::{GOOD, MAX_SIZE};

impl Target for Split {
    fn desc_bytes(desc: vring::Desc) -> Vec<u8> {
        desc_bytes(desc)
    }

    fn step(memory: &MockMemory, steps: i8) {
        let at = GOOD.avail.0 + 2;
        let index = memory.peek16(at).wrapping_add_signed(i16::from(steps));
        memory.poke16(at, index);
    }

    fn put_head(memory: &MockMemory, entry: u16, head: u16) {
        let at = GOOD.avail.0 + 4 + 2 * u64::from(entry);
        memory.poke16(at, head % (MAX_SIZE + 2));
    }

    fn publish(memory: &MockMemory) {
        for index in 0..MAX_SIZE {
            Self::put_head(memory, index, index);
        }
        memory.poke16(GOOD.avail.0 + 2, MAX_SIZE / 2);
    }

    fn base(bits: u16) -> u32 {
        bits.into()
    }
}

fuzz_target!(|input: Input| run::<Split>(input));
