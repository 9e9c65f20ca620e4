// SPDX-License-Identifier: GPL-2.0

//! The ring's accesses: what, in which order, and how often.
//!
//! The order of accesses is that of a split ring; `packed` has that of a packed ring.

use std::ops::Range;

use vring::{CompleteWork, KickControl, SplitRing, PREFETCH};

use crate::for_both_formats;
use crate::mock::{Bench, Buf, DriverSide, Format, Op, Rig, SetUp, Setup, PLACE};

const BUF: Buf = Buf::read(0x1000, 64);

fn full(size: u16, index: u16) -> (Bench, Vec<u16>) {
    let mut bench = Bench::with(Setup {
        size,
        index,
        ..Setup::default()
    });
    let heads = (0..size).map(|_| bench.offer(&[BUF])).collect();
    bench.memory.take_log();
    (bench, heads)
}

fn entry(position: u16) -> vring::UserAddr {
    PLACE.avail.wrapping_add(4 + 2 * u64::from(position))
}

fn element(position: u16) -> vring::UserAddr {
    PLACE.used.wrapping_add(4 + 8 * u64::from(position))
}

#[test]
fn chains_are_read_ahead_in_one_go() {
    let (mut bench, heads) = full(256, 0);
    for go in heads.chunks(PREFETCH) {
        for _ in go {
            bench.next().unwrap().unwrap();
        }
    }
    let mut expect = vec![bench.index_load()];
    for (go, heads) in heads.chunks(PREFETCH).enumerate() {
        expect.push(Op::LoadSlice(entry((go * PREFETCH) as u16), heads.len()));
        expect.push(Op::Gather(PLACE.desc, heads.to_vec()));
    }
    assert_eq!(bench.memory.take_log(), expect);
}

#[test]
fn reading_ahead_stops_at_the_end_of_the_ring() {
    let (mut bench, heads) = full(16, 10);
    for _ in 0..16 {
        bench.next().unwrap().unwrap();
    }
    let expect = [
        bench.index_load(),
        Op::LoadSlice(entry(10), 6),
        Op::Gather(PLACE.desc, heads[..6].to_vec()),
        Op::LoadSlice(entry(0), 10),
        Op::Gather(PLACE.desc, heads[6..].to_vec()),
    ];
    assert_eq!(bench.memory.take_log(), expect);
}

#[test]
fn nothing_beyond_the_index_is_read() {
    let mut bench = Bench::new(16);
    for count in [1, 3] {
        let heads: Vec<_> = (0..count).map(|_| bench.offer(&[BUF])).collect();
        bench.memory.take_log();
        let position = bench.ring.base();
        for _ in 0..count {
            bench.next().unwrap().unwrap();
        }
        let expect = [
            bench.index_load(),
            Op::LoadSlice(entry(position), count),
            Op::Gather(PLACE.desc, heads),
        ];
        assert_eq!(bench.memory.take_log(), expect);
    }
    assert_eq!(bench.next(), Ok(None));
    assert_eq!(bench.memory.take_log(), [bench.index_load()]);
}

#[test]
fn the_used_index_moves_behind_its_elements() {
    let (mut bench, heads) = full(16, 10);
    for _ in &heads {
        bench.next().unwrap().unwrap();
    }
    bench.memory.take_log();
    let used: Vec<_> = heads
        .iter()
        .map(|&head| SplitRing::used_entry(head, 1, 3))
        .collect();
    bench.ring.complete(&bench.memory, &used).unwrap();
    let host: Vec<_> = heads.iter().map(|&head| [u32::from(head), 3]).collect();
    let expect = [
        Op::StoreUsed(element(10), host[..6].to_vec()),
        Op::StoreUsed(element(0), host[6..].to_vec()),
        Op::StoreRelease(PLACE.used.wrapping_add(2), 26),
    ];
    assert_eq!(bench.memory.take_log(), expect);
}

#[test]
fn a_batch_within_the_ring_is_two_stores() {
    let (mut bench, heads) = full(16, 0);
    for go in heads.chunks(8) {
        for _ in go {
            bench.next().unwrap().unwrap();
        }
        bench.memory.take_log();
        let used: Vec<_> = go.iter().map(|&h| SplitRing::used_entry(h, 1, 0)).collect();
        bench.ring.complete(&bench.memory, &used).unwrap();
        let log = bench.memory.take_log();
        assert!(
            matches!(
                log.as_slice(),
                [Op::StoreUsed(_, stored), Op::StoreRelease(..)] if stored.len() == 8
            ),
            "{log:?}"
        );
    }
}

fn every_access_stays_within_the_extents<F: Format>() {
    for &size in F::SIZES {
        for event_idx in [false, true] {
            let mut rig = Rig::<F>::with(Setup {
                size,
                index: 0xffff,
                event_idx,
                ..Setup::default()
            });
            rig.ring.start(&rig.memory).unwrap();
            for _ in 0..2 {
                let mut used = Vec::new();
                rig.driver.want_calls(&rig.memory, 0);
                while rig.driver.add(&rig.memory, &[BUF]).is_some() {}
                rig.driver.publish(&rig.memory);
                rig.ring.disable_kick(&rig.memory).unwrap();
                while let Some((chain, _)) = rig.next().unwrap() {
                    used.push(F::Ring::used_entry(chain.id, chain.slots, 0));
                }
                rig.ring.complete(&rig.memory, &used).unwrap();
                let _ = rig.ring.needs_call(&rig.memory);
                let _ = rig.ring.enable_kick(&rig.memory).unwrap();
                while rig.driver.poll(&rig.memory).is_some() {}
            }
            let [desc, avail, used] = rig.ring.extents();
            let parts = [(PLACE.desc, desc), (PLACE.avail, avail), (PLACE.used, used)]
                .map(|(at, len)| u128::from(at.0)..u128::from(at.0 + len));
            let mut touched_end = [false; 3];
            for op in rig.memory.take_log() {
                for range in op.ranges() {
                    let is_in = |part: &&Range<u128>| part.contains(&range.start);
                    let part = parts.iter().find(is_in).expect("a part of the ring");
                    assert!(range.end <= part.end, "size {size}: {op:?}");
                    // The device writes the device area and, in a packed ring, the descriptors.
                    let is_writable = *part == parts[2] || *part == parts[0] && F::WRITES_DESCS;
                    assert!(!op.is_store() || is_writable, "size {size}: {op:?}");
                    // Of the device area it reads only a split ring's index, when it starts.
                    let is_index = op == Op::Load(PLACE.used.wrapping_add(2));
                    assert!(op.is_store() || *part != parts[2] || is_index, "{op:?}");
                    for (touched, part) in touched_end.iter_mut().zip(&parts) {
                        *touched |= range.end == part.end;
                    }
                }
            }
            assert_eq!(
                touched_end, [true; 3],
                "the extents are no larger than need be"
            );
        }
    }
}

for_both_formats!(every_access_stays_within_the_extents);
