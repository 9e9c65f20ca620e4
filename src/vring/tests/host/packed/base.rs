// SPDX-License-Identifier: GPL-2.0

//! Sizes, positions and the owner's base.

use vring::{
    CompleteWork, Fault, GetWork, KickControl, PackedRing, RingAddrs, UserAddr, MAX_RING_SIZE,
};

use super::{at, Bench, BUF};
use crate::mock::{DriverSide, Op, Setup, PLACE};

#[test]
fn every_number_up_to_the_largest_is_a_size() {
    let mut ring = PackedRing::default();
    for size in (0..=0x1_0000u32).chain([u32::MAX, 0x8000_0000, 0x1_0001]) {
        let before = ring.size();
        let good = (1..=u32::from(MAX_RING_SIZE)).contains(&size);
        assert_eq!(ring.set_size(size), good, "{size}");
        let now = if good { size } else { u32::from(before) };
        assert_eq!(u32::from(ring.size()), now);
        let ring_len = 16 * u64::from(now);
        assert_eq!(ring.extents(), [ring_len, 4, 4]);
    }
}

#[test]
fn the_base_is_what_it_was_set_to() {
    let mut ring = PackedRing::default();
    assert_eq!(ring.base(), 0x8000_8000, "after a reset");
    assert!(ring.set_size(300));
    for set in [
        0x8000_8000,
        0x0000_8000,
        0,
        0x0000_0001,
        0x0001_0000,
        0x8001_8003,
        0x812b_002b,
        // Beyond the end of this ring, but perhaps not with the next size.
        0xffff_ffff,
        0x7fff_8000,
    ] {
        ring.set_base(set);
        assert_eq!(ring.base(), set, "{set:#x}");
        ring.forget_memory();
        ring.set_features(true);
        assert_eq!(ring.base(), set);
    }
    ring.reset();
    assert_eq!(ring.base(), 0x8000_8000);
}

#[test]
fn a_base_without_a_used_position_starts_with_the_other() {
    for (set, started) in [
        (0x0000_8000, 0x8000_8000),
        (0x0000_0005, 0x0005_0005),
        (0x0000_8123, 0x8123_8123),
        (0, 0),
        (0x0001_0000, 0x0001_0000),
    ] {
        let mut bench = at(300, 0);
        bench.ring.set_base(set);
        assert_eq!(bench.ring.base(), set);
        bench.ring.start(&bench.memory).unwrap();
        assert_eq!(bench.ring.base(), started, "{set:#x}");
    }
}

#[test]
fn a_base_outside_the_ring_does_not_start() {
    for (size, base, good) in [
        (300, 0x8000_8000u32, true),
        (300, 0x812b_812b, true),
        (300, 0x8000_812c, false),
        (300, 0x012c_8000, false),
        (301, 0x012c_012c, true),
        (32768, 0xffff_7fff, true),
        (1, 0x0001_8000, false),
        (1, 0x8000_0000, true),
    ] {
        // The owner may set size and base in either order.
        for size_first in [true, false] {
            let mut bench = at(32768, 0);
            bench.ring = PackedRing::default();
            bench.ring.set_addrs(PLACE);
            if size_first {
                assert!(bench.ring.set_size(size));
            }
            bench.ring.set_base(base);
            if !size_first {
                assert!(bench.ring.set_size(size));
            }
            assert_eq!(bench.ring.base(), base);
            let fault = Fault::Base {
                base,
                size: size as u16,
            };
            let expect = if good { Ok(()) } else { Err(fault) };
            assert_eq!(bench.ring.start(&bench.memory), expect, "{size} {base:#x}");
            // A ring with a bad base that is used without a start accesses nothing outside either.
            if !good {
                bench.memory.take_log();
                let _ = bench.next();
                let _ = bench.ring.enable_kick(&bench.memory);
                let _ = bench.ring.complete(&bench.memory, &[[0, 0]]);
                let end = PLACE.desc.0 + 16 * u64::from(bench.ring.size());
                for range in bench.memory.take_log().iter().flat_map(Op::ranges) {
                    let of_ring = range.start < u128::from(PLACE.avail.0);
                    assert!(!of_ring || range.end <= u128::from(end));
                }
            }
        }
    }
}

#[test]
fn positions_survive_a_restart() {
    let mut bench = at(3, 0);
    for _ in 0..4 {
        let id = bench.offer(&[BUF]);
        assert_eq!(bench.head(), id);
        bench.complete(id);
        bench.driver.poll(&bench.memory).unwrap();
    }
    assert_eq!(bench.ring.base(), 0x0001_0001);
    let before = bench.memory.peek(PLACE.desc.0, 48);
    bench.ring.start(&bench.memory).unwrap();
    assert_eq!(bench.ring.base(), 0x0001_0001);
    assert_eq!(bench.memory.peek(PLACE.desc.0, 48), before);
    for _ in 0..7 {
        let id = bench.offer(&[BUF]);
        assert_eq!(bench.head(), id);
        bench.complete(id);
        assert_eq!(bench.driver.poll(&bench.memory), Some((id, 0)));
    }
}

#[test]
fn a_moved_ring_is_accessed_at_the_new_place_only() {
    let new = RingAddrs {
        desc: UserAddr(0x50_0000),
        avail: UserAddr(0x60_0000),
        used: UserAddr(0x70_0000),
    };
    let mut bench = Bench::with_room(
        Setup {
            size: 8,
            ..Setup::default()
        },
        &[new],
    );
    bench.offer(&[BUF]);
    bench.offer(&[BUF]);
    bench.head();
    bench.ring.set_addrs(new);
    bench.memory.take_log();
    assert_eq!(bench.next(), Ok(None), "what was read ahead is forgotten");
    assert!(!bench.ring.kicks_are_on());
    assert!(!bench.ring.enable_kick(&bench.memory).unwrap());
    bench.complete(0);
    let _ = bench.ring.needs_call(&bench.memory);
    for range in bench.memory.take_log().iter().flat_map(Op::ranges) {
        assert!(range.start >= u128::from(new.desc.0));
    }
    assert_eq!(bench.ring.base(), 0x8001_8001, "positions stay");
}
