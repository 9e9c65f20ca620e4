// SPDX-License-Identifier: GPL-2.0

//! Getting and completing work: indexes, sizes, reading ahead, rewinding, faults of the ring
//! itself.

use vring::{
    CompleteWork, Fault, GetWork, KickControl, SplitRing, Unmapped, UserAddr, MAX_RING_SIZE,
    PREFETCH,
};

use crate::for_both_formats;
use crate::mock::{
    segment, Bench, Buf, Driver, DriverSide, Format, Op, Rig, SetUp, Setup, PLACE, RAM,
};

const BUF: Buf = Buf::read(0x1000, 64);

fn at(size: u16, index: u16) -> Bench {
    rig(size, index)
}

fn rig<F: Format>(size: u16, index: u16) -> Rig<F> {
    Rig::with(Setup {
        size,
        index,
        ..Setup::default()
    })
}

#[test]
fn every_power_of_two_is_a_size_and_nothing_else() {
    let mut ring = SplitRing::default();
    for size in (0..=0x1_0000u32).chain([u32::MAX, 0x8000_0000, 0x1_0001]) {
        let before = ring.size();
        let good = size.is_power_of_two() && size <= u32::from(MAX_RING_SIZE);
        assert_eq!(ring.set_size(size), good, "{size}");
        let now = if good { size } else { u32::from(before) };
        assert_eq!(u32::from(ring.size()), now);
    }
}

#[test]
fn extents_are_those_of_the_specification() {
    for shift in 0..16 {
        let size = 1u64 << shift;
        let mut ring = SplitRing::default();
        assert!(ring.set_size(1 << shift));
        // Virtio 1.3, section 2.7: the last two bytes of the rings are the event fields.
        assert_eq!(ring.extents(), [16 * size, 4 + 2 * size, 4 + 8 * size]);
        ring.set_features(true, false);
        assert_eq!(ring.extents(), [16 * size, 6 + 2 * size, 6 + 8 * size]);
    }
}

#[test]
fn indexes_wrap_after_2_to_the_16() {
    let mut bench = at(4, 0);
    for round in 0..=0x1_0010u32 {
        let head = bench.offer(&[BUF]);
        assert_eq!(bench.head(), head);
        assert_eq!(bench.ring.base(), (round + 1) as u16);
        bench.complete(head);
        assert_eq!(bench.driver.poll(&bench.memory), Some((head, 0)));
        bench.memory.take_log();
    }
    assert_eq!(bench.next(), Ok(None));
}

#[test]
fn the_base_may_be_anywhere() {
    for base in [0, 1, 0x7fff, 0x8000, 0xfffe, 0xffff] {
        let mut bench = at(8, base);
        assert_eq!(bench.ring.base(), base);
        assert_eq!(bench.next(), Ok(None));
        let heads = [(); 5].map(|()| bench.offer(&[BUF]));
        assert_eq!(heads.map(|_| bench.head()), heads);
        assert_eq!(bench.ring.base(), base.wrapping_add(5));
        assert_eq!(bench.next(), Ok(None));
    }
}

#[test]
fn a_new_base_forgets_what_was_read_ahead() {
    let mut bench = at(8, 0);
    let heads = [(); 4].map(|()| bench.offer(&[BUF]));
    assert_eq!(bench.head(), heads[0]);
    bench.ring.set_base(2);
    assert_eq!(bench.head(), heads[2]);
    assert_eq!(bench.head(), heads[3]);
    assert_eq!(bench.next(), Ok(None));
}

#[test]
fn start_continues_with_the_used_index_in_memory() {
    let mut bench = at(4, 0xfffe);
    bench.memory.poke16(PLACE.used.0, 1);
    bench.ring.start(&bench.memory).unwrap();
    assert_eq!(bench.memory.peek16(PLACE.used.0), 0, "kicks are on");
    for expect in [0xffffu16, 0, 1] {
        let head = bench.offer(&[BUF]);
        assert_eq!(bench.head(), head);
        bench.complete(head);
        assert_eq!(bench.driver.used_index(&bench.memory), expect);
        assert_eq!(bench.driver.poll(&bench.memory), Some((head, 0)));
    }
}

#[test]
fn start_fails_without_a_used_ring() {
    let mut bench = at(4, 0);
    for (hole, len) in [(PLACE.used.0, 2), (PLACE.used.0 + 2, 2)] {
        bench.memory.punch(hole, len);
        let fault = Fault::Unmapped(Unmapped(UserAddr(hole)));
        assert_eq!(bench.ring.start(&bench.memory), Err(fault));
        bench.memory.mend();
    }
    // Nothing has changed, so the ring continues.
    let head = bench.offer(&[BUF]);
    assert_eq!(bench.head(), head);
    bench.complete(head);
    assert_eq!(bench.driver.poll(&bench.memory), Some((head, 0)));
}

#[test]
fn a_chain_that_was_mended_is_read_again_when_told_to() {
    for forget in [false, true] {
        // At the end of the ring, so that the following entries were not read in the same run.
        for index in [0u16, 15] {
            let mut bench = at(16, index);
            let bad = bench.offer(&[BUF]);
            let next = bench.offer(&[BUF]);
            let (chain, _) = bench.next().unwrap().unwrap();
            assert_eq!((chain.id, chain.readable), (bad, 1));
            // The device rejects the chain because it is not writable, and the driver corrects it.
            bench.ring.rewind(1, 0);
            let mended = Buf::write(0x2000, 5).desc(None);
            bench.driver.write_desc(&bench.memory, bad, mended);
            if forget {
                bench.ring.forget_prefetch();
            }
            assert_eq!(bench.ring.base(), index);
            let (chain, segments) = bench.next().unwrap().unwrap();
            let expect = if forget { (bad, 1) } else { (bad, 0) };
            assert_eq!((chain.id, chain.writable), expect, "forget {forget}");
            assert_eq!(segments == [segment(RAM + 0x2000, 5)], forget);
            assert_eq!(bench.head(), next);
            assert_eq!(bench.next(), Ok(None));
        }
    }
}

#[test]
fn entries_that_were_swapped_are_read_again_when_told_to() {
    let mut bench = at(8, 0xfffe);
    let heads = [(); 4].map(|()| bench.offer(&[BUF]));
    assert_eq!(bench.head(), heads[0]);
    assert_eq!(bench.head(), heads[1]);
    bench.ring.rewind(1, 0);
    let entry = |index: u16| PLACE.avail.0 + 4 + 2 * u64::from(index % 8);
    bench.memory.poke16(entry(0xffff), heads[3]);
    bench.memory.poke16(entry(1), heads[1]);
    bench.ring.forget_prefetch();
    let swapped = [heads[3], heads[2], heads[1]];
    assert_eq!([(); 3].map(|()| bench.head()), swapped);
    assert_eq!(bench.next(), Ok(None));
}

#[test]
fn an_index_may_jump_by_the_size_but_no_further() {
    for (size, index) in [(1, 0), (4, 0xfffe), (32768, 0x9000)] {
        let mut bench = at(size, index);
        let put = |bench: &Bench, avail| bench.memory.poke16(PLACE.avail.0 + 2, avail);
        for jump in [size + 1, 0xffff] {
            let avail = index.wrapping_add(jump);
            put(&bench, avail);
            let fault = Fault::AvailIndex { last: index, avail };
            assert_eq!(bench.next(), Err(fault));
            assert_eq!(bench.ring.has_work(&bench.memory), Err(fault));
            assert_eq!(bench.ring.enable_kick(&bench.memory), Err(fault));
            assert_eq!(bench.ring.base(), index);
        }
        put(&bench, index.wrapping_add(size));
        for _ in 0..size {
            assert!(bench.next().unwrap().is_some());
        }
        assert_eq!(bench.next(), Ok(None));
    }
}

#[test]
fn an_index_that_moves_back_takes_chains_back() {
    let mut bench = at(16, 0xfffc);
    let heads = [(); 10].map(|()| bench.offer(&[BUF]));
    assert_eq!(bench.head(), heads[0]);
    bench
        .memory
        .poke16(PLACE.avail.0 + 2, 0xfffcu16.wrapping_add(3));
    assert!(bench.ring.enable_kick(&bench.memory).unwrap());
    assert_eq!(bench.head(), heads[1]);
    assert_eq!(bench.head(), heads[2]);
    assert_eq!(bench.next(), Ok(None), "the device stays behind the index");
    bench.driver.publish(&bench.memory);
    assert_eq!(bench.head(), heads[3]);
}

#[test]
fn good_heads_are_served_before_a_bad_one() {
    let mut bench = at(16, 0xfffa);
    let heads = [(); 3].map(|()| bench.offer(&[BUF]));
    bench.driver.push_head(&bench.memory, 16);
    bench.driver.add(&bench.memory, &[BUF]).unwrap();
    bench.driver.publish(&bench.memory);
    assert_eq!(heads.map(|_| bench.head()), heads);
    let fault = Fault::DescIndex {
        index: 16,
        size: 16,
    };
    assert_eq!(bench.next(), Err(fault));
    assert_eq!(bench.next(), Err(fault), "it is not skipped");
    assert_eq!(bench.ring.base(), 0xfffa + 3);
    // After a correction the ring continues.
    bench.driver.avail = 0xfffa + 3;
    bench.driver.push_head(&bench.memory, heads[1]);
    assert_eq!(bench.head(), heads[1]);
    assert!(bench.next().unwrap().is_some());
}

#[test]
fn the_largest_head_is_bad_too() {
    let mut bench = at(32768, 0);
    bench.driver.push_head(&bench.memory, 0xffff);
    bench.driver.publish(&bench.memory);
    let fault = Fault::DescIndex {
        index: 0xffff,
        size: 32768,
    };
    assert_eq!(bench.next(), Err(fault));
}

#[test]
fn what_lies_before_an_unmapped_page_is_served() {
    let mut bench = at(64, 0xfff0);
    let heads = [(); 10].map(|()| bench.offer(&[BUF]));
    // A descriptor table is many pages long; one of the pages is unmapped.
    let away = PLACE.desc.0 + 16 * u64::from(heads[6]);
    bench.memory.punch(away, 16);
    assert_eq!([(); 6].map(|()| bench.head()), heads[..6]);
    let fault = Fault::Unmapped(Unmapped(UserAddr(away)));
    assert_eq!(bench.next(), Err(fault));
    assert_eq!(bench.ring.base(), 0xfff0 + 6);
    bench.memory.mend();
    assert_eq!([(); 4].map(|()| bench.head()), heads[6..]);

    // The same with the available ring.
    let heads = [(); 10].map(|()| bench.offer(&[BUF]));
    let away = PLACE.avail.0 + 4 + 2 * u64::from((0xfff0u16 + 10 + 4) % 64);
    bench.memory.punch(away, 2);
    assert_eq!([(); 4].map(|()| bench.head()), heads[..4]);
    assert_eq!(bench.next(), Err(Fault::Unmapped(Unmapped(UserAddr(away)))));
    bench.memory.mend();
    assert_eq!([(); 6].map(|()| bench.head()), heads[4..]);
}

#[test]
fn a_driver_that_does_not_wait_gets_no_store_behind_the_used_ring() {
    // The driver moves its index on before anything is used, so more chains are in flight than the
    // ring has entries.
    let mut bench = at(4, 2);
    for _ in 0..5 {
        bench.driver = Driver::new(&bench.memory, PLACE, 4, bench.driver.avail, false);
        let heads = [(); 4].map(|()| bench.offer(&[BUF]));
        assert_eq!(heads.map(|_| bench.head()), heads);
    }
    bench.memory.poke16(PLACE.used.0 + 2, 2);
    let used: Vec<_> = (0..19).map(|id| SplitRing::used_entry(id, 1, 0)).collect();
    bench.memory.take_log();
    bench.ring.complete(&bench.memory, &used).unwrap();
    assert_eq!(bench.memory.peek16(PLACE.used.0 + 2), 2 + 19);
    let [.., extent] = bench.ring.extents();
    let end = u128::from(PLACE.used.0 + extent);
    let mut ids = Vec::new();
    for op in bench.memory.take_log() {
        assert!(op.ranges().iter().all(|range| range.end <= end), "{op:?}");
        if let Op::StoreUsed(_, used) = op {
            ids.extend(used.iter().map(|[id, _]| *id));
        }
    }
    assert_eq!(ids, (0..19).collect::<Vec<_>>());
}

fn every_size_is_gone_round_more_than_once<F: Format>() {
    for &size in F::SIZES {
        // Three times, across the end of the ring and the wrap of the indexes.
        let mut bench = rig::<F>(size, 0u16.wrapping_sub(size / 2 + 1));
        for round in 0..3 {
            let mut ids = Vec::new();
            while let Some(id) = bench.driver.add(&bench.memory, &[BUF]) {
                ids.push(id);
            }
            assert_eq!(ids.len(), usize::from(size), "round {round}");
            bench.driver.publish(&bench.memory);
            for &id in &ids {
                assert_eq!(bench.head(), id);
            }
            assert_eq!(bench.next(), Ok(None));
            let used: Vec<_> = ids
                .iter()
                .map(|&id| F::Ring::used_entry(id, 1, u32::from(id) + 7))
                .collect();
            bench.ring.complete(&bench.memory, &used).unwrap();
            for id in ids {
                let expect = Some((id, u32::from(id) + 7));
                assert_eq!(bench.driver.poll(&bench.memory), expect);
            }
            assert_eq!(bench.driver.poll(&bench.memory), None);
        }
    }
}

fn rewound_chains_come_again<F: Format>() {
    // Within one run of entries, and across the end of the ring.
    for (index, one_run) in [(0xfff0u16, true), (0xfffd, false)] {
        let mut bench = rig::<F>(16, index);
        let heads = [(); 6].map(|()| bench.offer(&[BUF]));
        assert_eq!([(); 4].map(|()| bench.head()), heads[..4]);
        bench.memory.take_log();
        let base = bench.ring.base() as u16;
        bench.ring.rewind(3, 3);
        assert_eq!(F::go_on(bench.ring.base() as u16, 16, 3, 3), base);
        assert!(bench.ring.has_work(&bench.memory).unwrap());
        assert_eq!([(); 5].map(|()| bench.head()), heads[1..]);
        // Chains read ahead are not read again.
        assert_eq!(bench.memory.take_log().is_empty(), one_run);
        bench.ring.rewind(0, 0);
        assert_eq!(bench.next(), Ok(None));
    }
}

fn rewinding_reaches_beyond_what_was_read_ahead<F: Format>() {
    let mut bench = rig::<F>(256, 0u16.wrapping_sub(100));
    let heads: Vec<_> = (0..150).map(|_| bench.offer(&[BUF])).collect();
    let taken = |bench: &mut Rig<F>, count: usize| -> Vec<u16> {
        (0..count).map(|_| bench.head()).collect()
    };
    let base = bench.ring.base();
    assert_eq!(taken(&mut bench, 140), heads[..140]);
    bench.ring.rewind(140, 140);
    assert_eq!(bench.ring.base(), base);
    assert_eq!(taken(&mut bench, 150), heads);
    assert_eq!(bench.next(), Ok(None));
    // One more than were read in the last run.
    bench.ring.rewind(PREFETCH as u16 + 1, PREFETCH as u16 + 1);
    assert_eq!(taken(&mut bench, PREFETCH + 1), heads[150 - PREFETCH - 1..]);
    assert_eq!(bench.next(), Ok(None));
}

fn has_work_tells_what_next_chain_does<F: Format>() {
    let mut bench = rig::<F>(4, 0xffff);
    let base = bench.ring.base();
    assert!(!bench.ring.has_work(&bench.memory).unwrap());
    let head = bench.offer(&[BUF]);
    assert!(bench.ring.has_work(&bench.memory).unwrap());
    assert_eq!(bench.ring.base(), base, "looking takes nothing");
    assert_eq!(bench.head(), head);
    assert!(!bench.ring.has_work(&bench.memory).unwrap());
}

fn whichever_access_fails_nothing_is_lost<F: Format>() {
    let mut failed = 0;
    for access in 0.. {
        let mut bench = rig::<F>(8, 0xffff);
        let ring = bench.driver.add(&bench.memory, &[BUF, BUF]).unwrap();
        let (table, user) = (0x2000, UserAddr(RAM + 0x2000));
        let indirect = bench
            .driver
            .add_indirect(&bench.memory, table, user, &[BUF, Buf::write(0, 9)])
            .unwrap();
        bench.driver.publish(&bench.memory);
        bench.memory.fail_in(access);
        let mut heads = Vec::new();
        let mut faults = 0;
        while heads.len() < 2 {
            let base = bench.ring.base();
            match bench.next() {
                Ok(chain) => heads.push(chain.unwrap().0.id),
                Err(fault) => {
                    assert!(matches!(fault, Fault::Unmapped(_)), "{fault}");
                    assert_eq!(bench.ring.base(), base);
                    faults += 1;
                }
            }
        }
        assert_eq!(heads, [ring, indirect]);
        assert!(faults <= 1);
        failed += faults;
        let accesses = bench.memory.take_log().len();
        if accesses <= access {
            break;
        }
    }
    // Failures show in the look for work and in tables; a failed read ahead is repeated with one
    // entry.
    assert!(failed >= 1, "{failed}");
}

fn a_fault_leaves_the_callers_segments_alone<F: Format>() {
    let mut bench = rig::<F>(8, 0);
    let base = bench.ring.base();
    bench.offer(&[Buf::read(0, 5), Buf::write(0, 6), Buf::read(0, 7)]);
    let mut storage = [segment(0, 0); 8];
    let mut out = vring::Segments::new(&mut storage);
    let kept = segment(1, 2);
    out.push(kept).unwrap();
    let result = bench.ring.next_chain(&bench.memory, &bench.table, &mut out);
    assert_eq!(result, Err(Fault::ReadableAfterWritable));
    assert_eq!(out.as_slice(), [kept]);
    assert_eq!(bench.ring.base(), base);
}

fn chains_gather_behind_each_other_in_one_list<F: Format>() {
    let mut bench = rig::<F>(8, 0);
    bench.offer(&[Buf::read(0, 5), Buf::write(16, 6)]);
    bench.offer(&[Buf::write(32, 7)]);
    let mut storage = [segment(0, 0); 8];
    let mut out = vring::Segments::new(&mut storage);
    let first = bench
        .ring
        .next_chain(&bench.memory, &bench.table, &mut out)
        .unwrap()
        .unwrap();
    let at = out.len();
    let second = bench
        .ring
        .next_chain(&bench.memory, &bench.table, &mut out)
        .unwrap()
        .unwrap();
    assert_eq!((first.readable, first.writable, first.len), (1, 1, 11));
    assert_eq!((second.readable, second.writable, second.len), (0, 1, 7));
    assert_eq!(
        out.as_slice()[..at],
        [segment(RAM, 5), segment(RAM + 16, 6)]
    );
    assert_eq!(out.from(at), [segment(RAM + 32, 7)]);
}

fn a_failed_completion_can_be_repeated<F: Format>() {
    for access in 0..F::COMPLETION {
        let mut bench = rig::<F>(4, 0xfffe);
        let heads = [(); 3].map(|()| bench.offer(&[BUF]));
        assert_eq!(heads.map(|_| bench.head()), heads);
        let used = heads.map(|head| F::Ring::used_entry(head, 1, 1));
        bench.memory.fail_in(access);
        let failed = bench.ring.complete(&bench.memory, &used);
        assert!(matches!(failed, Err(Fault::Unmapped(_))), "{access}");
        assert_eq!(bench.driver.poll(&bench.memory), None);
        bench.ring.complete(&bench.memory, &used).unwrap();
        for head in heads {
            assert_eq!(bench.driver.poll(&bench.memory), Some((head, 1)));
        }
    }
}

for_both_formats!(
    every_size_is_gone_round_more_than_once,
    rewound_chains_come_again,
    rewinding_reaches_beyond_what_was_read_ahead,
    has_work_tells_what_next_chain_does,
    whichever_access_fails_nothing_is_lost,
    a_fault_leaves_the_callers_segments_alone,
    chains_gather_behind_each_other_in_one_list,
    a_failed_completion_can_be_repeated,
);
