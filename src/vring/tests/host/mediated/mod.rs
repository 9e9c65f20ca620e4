// SPDX-License-Identifier: GPL-2.0

//! Rings behind an IOTLB, in many pieces of memory, with a dirty log of what the device writes.

mod packed;
mod split;

use std::collections::BTreeSet;

use crate::mock::MockMemory;

/// User address of the dirty log.
const LOG: u64 = 0x7400_0000_0000;

/// Returns the logged pages from page `first` on, a multiple of eight, and clears them in the log.
fn take_pages(memory: &MockMemory, first: u64) -> BTreeSet<u64> {
    let first = first / 8;
    let bytes = memory.peek(LOG + first, 0x200);
    memory.poke(LOG + first, &[0; 0x200]);
    let pages = bytes.iter().zip(first..).flat_map(|(byte, at)| {
        let set = (0..8).filter(move |bit| byte >> bit & 1 != 0);
        set.map(move |bit| at * 8 + bit)
    });
    pages.collect()
}
