// SPDX-License-Identifier: GPL-2.0

//! Packets of the hostile guest, at random: headers that no driver should write, frames of all
//! kinds.

use crate::packet::frame;
use crate::packet::header::NetHeader;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

/// A header as no driver should write it.
pub fn header(rng: &mut SmallRng) -> NetHeader {
    let mut word = || {
        *[0, 1, 14, 34, 54, 1448, 0x7fff, 0xffff, rng.random()]
            .choose(rng)
            .unwrap_or(&0)
    };
    NetHeader {
        hdr_len: word(),
        gso_size: word(),
        csum_start: word(),
        csum_offset: word(),
        num_buffers: word(),
        flags: *[0, 1, 1, 2, 0xff].choose(rng).unwrap_or(&0),
        gso_type: *[0, 1, 3, 4, 5, 0x81, 0x20, 0x40, 0xff]
            .choose(rng)
            .unwrap_or(&0),
        ..NetHeader::default()
    }
}

/// A frame of some kind.
pub fn frame(rng: &mut SmallRng, longest: usize, out: &mut Vec<u8>) {
    let len = match rng.random_range(0..4) {
        0 => rng.random_range(14..=longest),
        1 => longest,
        _ => rng.random_range(14..=longest.min(200)),
    };
    if rng.random() && len > frame::TCP_HEADERS {
        frame::build_tcp(rng.random(), 0, len, out);
    } else {
        frame::build(rng.random(), 0, len, out);
        let kinds: [u16; 6] = [0x0800, 0x86dd, 0x0806, 0x8100, 0x88b5, rng.random()];
        let kind = kinds.choose(rng).copied().unwrap_or(0);
        out[12..14].copy_from_slice(&kind.to_be_bytes());
    }
}
