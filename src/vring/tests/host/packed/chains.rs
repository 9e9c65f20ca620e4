// SPDX-License-Identifier: GPL-2.0

//! From descriptors to chains.

use vring::{
    CompleteWork, Desc, Fault, GetWork, PackedRing, Position, Unmapped, UserAddr, DESC_F_INDIRECT,
    DESC_F_NEXT, PREFETCH,
};

use super::{at, BUF};
use crate::mock::packed::{packed_bytes, USED};
use crate::mock::{indirect, segment, Buf, DriverSide, Op, PLACE, RAM};

#[test]
fn only_one_combination_of_flags_is_available() {
    for wrap in [true, false] {
        for flags in [0, 1 << 7, 1 << 15, USED] {
            let bench = &mut at(4, if wrap { 1 } else { 5 });
            let place = PLACE.desc.0 + 16;
            let mut bytes = packed_bytes(BUF.desc(None), 3, wrap);
            bytes[14..16].copy_from_slice(&u16::to_le_bytes(flags));
            bench.memory.poke(place, &bytes);
            let available = flags == if wrap { 1 << 7 } else { 1 << 15 };
            assert_eq!(bench.ring.has_work(&bench.memory), Ok(available));
            assert_eq!(bench.next().unwrap().is_some(), available);
        }
    }
}

#[test]
fn the_id_is_in_the_last_descriptor() {
    let mut bench = at(8, 6);
    // Across the end of the ring; the ids before the last descriptor are garbage.
    let id = bench.offer(&[BUF, BUF, Buf::write(0, 9)]);
    let (chain, _) = bench.next().unwrap().unwrap();
    assert_eq!((chain.id, chain.slots, chain.descs), (id, 3, 3));
    let entry = PackedRing::used_entry(chain.id, chain.slots, 9);
    bench.ring.complete(&bench.memory, &[entry]).unwrap();
    assert_eq!(bench.driver.poll(&bench.memory), Some((id, 9)));
    // The next chain is behind it.
    let next = bench.offer(&[BUF]);
    assert_eq!(bench.head(), next);
    bench.complete(next);
    assert_eq!(bench.driver.poll(&bench.memory), Some((next, 0)));
}

#[test]
fn a_chain_ends_at_an_unavailable_descriptor_with_a_fault() {
    for start in [0u16, 6, 7, 8, 15] {
        let mut bench = at(8, start);
        let good = bench.offer(&[BUF]);
        let first = bench.driver.avail;
        let next = Desc {
            flags: DESC_F_NEXT,
            ..BUF.desc(None)
        };
        bench.driver.write_next(&bench.memory, next, 0);
        bench.driver.publish(&bench.memory);
        assert_eq!(bench.head(), good);
        let at = first.advance(8, 1);
        let fault = Fault::Unavailable {
            offset: at.offset(),
        };
        let base = bench.ring.base();
        assert_eq!(bench.next(), Err(fault));
        assert_eq!(bench.next(), Err(fault), "the chain stays available");
        assert_eq!(bench.ring.base(), base);
        // The rest of the chain is written late.
        bench.driver.write_next(&bench.memory, BUF.desc(None), 4);
        bench.driver.publish(&bench.memory);
        let (chain, _) = bench.next().unwrap().unwrap();
        assert_eq!((chain.id, chain.slots), (4, 2));
        assert_eq!(bench.next(), Ok(None));
    }
}

#[test]
fn a_chain_has_no_more_descriptors_than_the_ring() {
    for size in [1u16, 2, 5, 300] {
        for start in [0, size - 1, size] {
            let mut bench = at(size, start);
            let at = Position::START.advance(size, start);
            for step in 0..size {
                let place = at.advance(size, step);
                let next = Desc {
                    flags: DESC_F_NEXT,
                    ..Buf::read(0, 0).desc(None)
                };
                let bytes = packed_bytes(next, 0, place.wrap());
                bench.memory.poke(bench.driver.desc_at(place), &bytes);
            }
            assert_eq!(bench.next(), Err(Fault::ChainTooLong));
            assert_eq!(bench.ring.base() as u16, at.bits());
            // A chain of as many descriptors as the ring has is valid.
            let last = at.advance(size, size - 1);
            let bytes = packed_bytes(BUF.desc(None), 7, last.wrap());
            bench.memory.poke(bench.driver.desc_at(last), &bytes);
            let (chain, _) = bench.next().unwrap().unwrap();
            assert_eq!((chain.id, chain.slots), (7, size));
        }
    }
}

#[test]
fn a_table_is_the_last_of_its_chain() {
    let mut bench = at(8, 0);
    let table = Desc {
        flags: DESC_F_INDIRECT | DESC_F_NEXT,
        ..indirect(0x1000, 1)
    };
    bench.driver.write_next(&bench.memory, table, 0);
    bench.driver.write_next(&bench.memory, BUF.desc(None), 1);
    bench.driver.publish(&bench.memory);
    assert_eq!(bench.next(), Err(Fault::IndirectNext));
    assert_eq!(bench.ring.base() as u16, 0x8000);
}

#[test]
fn of_a_tables_flags_only_one_counts() {
    let mut bench = at(8, 0);
    // All flags except the write flag; they neither end the table nor lead elsewhere.
    for (position, flags) in [0xfffdu16, 0, 5, 0xffff].into_iter().enumerate() {
        let words = [
            0x100 * position as u64,
            4 | u64::from(flags) << 48 | 0xffff << 32,
        ];
        let bytes: Vec<_> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bench
            .memory
            .poke(RAM + 0x1000 + 16 * position as u64, &bytes);
    }
    bench
        .driver
        .write_next(&bench.memory, indirect(0x1000, 4), 6);
    bench.driver.publish(&bench.memory);
    let (chain, segments) = bench.next().unwrap().unwrap();
    assert_eq!((chain.id, chain.slots, chain.descs), (6, 1, 5));
    assert_eq!((chain.readable, chain.writable), (3, 1));
    let expect = [0, 1, 2, 3].map(|at| segment(RAM + 0x100 * at, 4));
    assert_eq!(segments, expect);
}

#[test]
fn descriptors_are_read_ahead_in_runs() {
    let mut bench = at(300, 200);
    for _ in 0..250 {
        bench.driver.add(&bench.memory, &[BUF]).unwrap();
    }
    bench.driver.publish(&bench.memory);
    bench.memory.take_log();
    for left in (0..250).rev() {
        bench.next().unwrap().unwrap();
        // At the end of a run, or of the ring, the device has not looked further.
        assert_eq!(bench.ring.is_drained(), left == 0);
    }
    assert_eq!(bench.next(), Ok(None));
    assert!(bench.ring.is_drained());
    let run = |at: Position, count| Op::LoadAvailable {
        addr: UserAddr(bench.driver.desc_at(at)),
        wrap: at.wrap(),
        count,
    };
    let start = Position::START;
    let second = start.advance(300, 300);
    let expect = [
        run(start.advance(300, 200), PREFETCH),
        run(start.advance(300, 264), 36),
        run(second, PREFETCH),
        run(second.advance(300, 64), PREFETCH),
        run(second.advance(300, 128), PREFETCH),
        run(second.advance(300, 150), PREFETCH),
    ];
    assert_eq!(bench.memory.take_log(), expect);
}

#[test]
fn what_lies_before_an_unmapped_page_is_served() {
    for slots in [1usize, 3] {
        let mut bench = at(64, 20);
        let ids = [(); 10].map(|()| bench.offer(&vec![BUF; slots]));
        let first = bench.driver.last_used;
        // In the middle of a chain, if the chain has several descriptors.
        let away = first.advance(64, (6 * slots + slots / 2) as u16);
        let away = bench.driver.desc_at(away);
        bench.memory.punch(away, 16);
        assert_eq!([(); 6].map(|()| bench.head()), ids[..6]);
        assert!(!bench.ring.is_drained());
        let fault = Fault::Unmapped(Unmapped(UserAddr(away)));
        let base = bench.ring.base();
        assert_eq!(bench.next(), Err(fault));
        assert_eq!(bench.ring.base(), base);
        assert!(!bench.ring.is_drained());
        bench.memory.mend();
        assert_eq!([(); 4].map(|()| bench.head()), ids[6..]);
    }
}

#[test]
fn rewinding_goes_back_by_descriptors() {
    for slots in [1u16, 2, 5] {
        let mut bench = at(300, 150);
        let ids: Vec<_> = (0..50)
            .map(|_| bench.offer(&vec![BUF; usize::from(slots)]))
            .collect();
        let taken: Vec<_> = (0..50).map(|_| bench.head()).collect();
        assert_eq!(taken, ids);
        for back in [1u16, 7, 50] {
            bench.ring.rewind(back, back * slots);
            assert!(!bench.ring.is_drained());
            let again: Vec<_> = (0..back).map(|_| bench.head()).collect();
            assert_eq!(again, ids[50 - usize::from(back)..]);
            assert_eq!(bench.next(), Ok(None));
            assert!(bench.ring.is_drained());
        }
    }
}
