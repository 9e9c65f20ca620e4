// SPDX-License-Identifier: GPL-2.0

//! Used descriptors.

use vring::{CompleteWork, Fault, PackedRing};

use super::{at, BUF};
use crate::mock::packed::USED;
use crate::mock::{Buf, DriverSide, Op, PLACE};

#[test]
fn a_used_descriptor_tells_of_what_was_written() {
    for (wrap, start) in [(true, 2u16), (false, 7)] {
        let mut bench = at(5, start);
        let place = PLACE.desc.0 + 16 * 2;
        for len in [0, 7] {
            let id = bench.offer(&[Buf::write(0x77, 7)]);
            let addr = bench.memory.peek(place, 8);
            assert_eq!(bench.head(), id);
            let entry = PackedRing::used_entry(id, 1, len);
            bench.ring.complete(&bench.memory, &[entry]).unwrap();
            let (found, found_len, flags) =
                bench.driver.look(&bench.memory, bench.driver.last_used);
            let write = if len == 0 { 0 } else { 2 };
            let used = if wrap { USED } else { 0 };
            assert_eq!((found, found_len), (id, len));
            assert_eq!(flags, used | write, "no flag of the driver's is left");
            assert_eq!(bench.memory.peek(place, 8), addr, "the address stays");
            // Start again at the same position.
            bench.driver = DriverSide::new(&bench.memory, PLACE, 5, start, false);
            bench.ring.set_base(bench.driver.base());
        }
    }
}

#[test]
fn a_batch_is_seen_by_its_first_descriptor() {
    let mut bench = at(8, 5);
    let chains = [1usize, 2, 1, 3].map(|slots| bench.offer(&vec![BUF; slots]));
    let used: Vec<_> = chains
        .iter()
        .map(|_| {
            let (chain, _) = bench.next().unwrap().unwrap();
            PackedRing::used_entry(chain.id, chain.slots, 0)
        })
        .collect();
    bench.memory.take_log();
    bench.ring.complete(&bench.memory, &used).unwrap();
    let log = bench.memory.take_log();
    let slots: Vec<_> = log
        .iter()
        .map(|op| match op {
            Op::StoreDesc { at, release, .. } => ((at.0 - PLACE.desc.0) / 16, *release),
            other => panic!("{other:?}"),
        })
        .collect();
    // Skipped are slots 7 (of the chain at 6), 2 and 3 (of that at 1).
    assert_eq!(slots, [(6, false), (0, false), (1, false), (5, true)]);
    for id in chains {
        assert_eq!(bench.driver.poll(&bench.memory), Some((id, 0)));
    }
    assert_eq!(bench.driver.poll(&bench.memory), None);
}

#[test]
fn a_batch_that_cannot_be_written_as_a_whole_is_not_written() {
    // Two pages and more, of which the last or the first cannot be written.
    for (size, start) in [(1000u16, 200u16), (300, 290), (256, 200)] {
        for count in [1u16, 60, 200] {
            for last in [false, true] {
                let mut bench = at(size, start);
                for _ in 0..count {
                    bench.offer(&[BUF]);
                }
                let used: Vec<_> = (0..count)
                    .map(|_| PackedRing::used_entry(bench.head(), 1, 0))
                    .collect();
                let first = bench.driver.last_used;
                let away = first.advance(size, if last { count - 1 } else { 0 });
                let page = bench.driver.desc_at(away) & !0xfff;
                bench.memory.punch(page, 0x1000);
                let before = bench.memory.peek(PLACE.desc.0, 16 * usize::from(size));
                let fault = bench.ring.complete(&bench.memory, &used);
                assert!(matches!(fault, Err(Fault::Unmapped(_))));
                let after = bench.memory.peek(PLACE.desc.0, 16 * usize::from(size));
                assert!(before == after, "{count} of {size} from {start}");
                bench.memory.mend();
                bench.ring.complete(&bench.memory, &used).unwrap();
                for _ in 0..count {
                    assert!(bench.driver.poll(&bench.memory).is_some());
                }
            }
        }
    }
}

#[test]
fn a_driver_that_does_not_wait_gets_no_store_outside_the_ring() {
    for size in [1u16, 3, 64, 32768] {
        let mut bench = at(size, 0);
        for slots in [1, 2, size, size.wrapping_mul(3), u16::MAX] {
            let used: Vec<_> = (0..70)
                .map(|id| PackedRing::used_entry(id, slots, 5))
                .collect();
            bench.memory.take_log();
            bench.ring.complete(&bench.memory, &used).unwrap();
            let end = u128::from(PLACE.desc.0) + 16 * u128::from(size);
            for op in bench.memory.take_log() {
                for range in op.ranges() {
                    assert!(range.start >= u128::from(PLACE.desc.0) && range.end <= end);
                }
            }
            assert!(bench.ring.needs_call(&bench.memory));
            bench.ring.start(&bench.memory).unwrap();
        }
    }
}

#[test]
fn a_group_is_one_descriptor_where_its_first_would_be() {
    for start in [0u16, 5, 6, 13] {
        let mut bench = at(7, start);
        let ids = [1usize, 2, 3].map(|slots| bench.offer(&vec![BUF; slots]));
        let mut used = Vec::new();
        for id in ids {
            let (chain, _) = bench.next().unwrap().unwrap();
            assert_eq!(chain.id, id);
            used.push(PackedRing::used_entry(id, chain.slots, u32::from(id)));
        }
        assert_eq!(PackedRing::slots(&used), 6);
        let group = PackedRing::group(&used[..2]);
        assert_eq!(group, PackedRing::used_entry(ids[1], 3, u32::from(ids[1])));
        assert_eq!(PackedRing::slots(&[group, used[2]]), 6);
        let first = bench.driver.last_used;
        let ring = &mut bench.ring;
        ring.complete_in_order(&bench.memory, &[group, used[2]], &[2, 1])
            .unwrap();
        let at = |slots| first.advance(7, slots);
        assert!(bench.driver.is_used(&bench.memory, at(0)));
        assert_eq!(bench.driver.look(&bench.memory, at(0)).0, ids[1]);
        assert!(!bench.driver.is_used(&bench.memory, at(1)));
        assert!(bench.driver.is_used(&bench.memory, at(3)));
        assert_eq!(bench.driver.look(&bench.memory, at(3)).0, ids[2]);
        let base = bench.ring.base();
        assert_eq!(base >> 16, base & 0xffff);
        assert_eq!(base as u16, at(6).bits());
    }
}
