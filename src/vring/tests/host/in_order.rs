// SPDX-License-Identifier: GPL-2.0

//! Completing in order: one element for a group of chains, at the place of the group's first chain.
//!
//! The tests of which elements are written, and where, are those of a split ring; `packed::used` has
//! those of a packed ring.

use vring::{CompleteWork, Fault, RawUsed, SplitRing, UserAddr};

use crate::for_both_formats;
use crate::mock::{Bench, Buf, DriverSide, Format, Op, Rig, Setup, PLACE};

const BUF: Buf = Buf::read(0x1000, 64);
const INDEX: UserAddr = PLACE.used.wrapping_add(2);
/// Contents of the used ring before the device writes to it.
const UNTOUCHED: [u32; 2] = [0xaaaa_aaaa; 2];

fn bench(size: u16, index: u16, event_idx: bool) -> Bench {
    let bench = Bench::with(Setup {
        size,
        index,
        event_idx,
        ..Setup::default()
    });
    let words = UNTOUCHED.map(u32::to_le_bytes).concat();
    let ring = words.repeat(usize::from(size));
    bench.memory.poke(PLACE.used.0 + 4, &ring);
    bench
}

/// An element for each group, no two alike.
fn elements(groups: &[u16]) -> Vec<RawUsed> {
    (0..)
        .zip(groups)
        .map(|(number, &chains)| SplitRing::used_entry(0x100 + number, 1, 1000 + u32::from(chains)))
        .collect()
}

/// The used ring's elements, by slot.
fn image(bench: &Bench, size: u16) -> Vec<[u32; 2]> {
    let bytes = bench.memory.peek(PLACE.used.0 + 4, 8 * usize::from(size));
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    bytes
        .chunks(8)
        .map(|bytes| [word(&bytes[..4]), word(&bytes[4..])])
        .collect()
}

/// What [`image`] has to be, chain by chain, and the index after it.
fn expected(size: u16, index: u16, groups: &[u16]) -> (Vec<[u32; 2]>, u16) {
    let mut slots = vec![UNTOUCHED; usize::from(size)];
    let mut at = index;
    for (used, &chains) in elements(groups).iter().zip(groups) {
        for chain in 0..chains {
            if chain == 0 {
                slots[usize::from(at % size)] = used.map(u32::from_le);
            }
            at = at.wrapping_add(1);
        }
    }
    (slots, at)
}

/// Completes groups, the index last and once.
fn complete(bench: &mut Bench, groups: &[u16]) -> Result<(), Fault> {
    let used = elements(groups);
    bench.memory.take_log();
    bench.ring.complete_in_order(&bench.memory, &used, groups)?;
    let log = bench.memory.take_log();
    let Some((Op::StoreRelease(INDEX, _), stores)) = log.split_last() else {
        panic!("the index does not come last: {log:?}");
    };
    let of_element = |op: &Op| matches!(op, Op::StoreUsed(..));
    assert!(stores.iter().all(of_element), "{stores:?}");
    Ok(())
}

fn check(size: u16, index: u16, groups: &[u16]) {
    let mut bench = bench(size, index, false);
    complete(&mut bench, groups).unwrap();
    let (slots, end) = expected(size, index, groups);
    assert_eq!(
        image(&bench, size),
        slots,
        "size {size}, from {index}, groups {groups:?}"
    );
    assert_eq!(bench.driver.used_index(&bench.memory), end);
}

/// All sequences of up to `most` groups of one to three chains.
fn sequences(most: u32) -> impl Iterator<Item = Vec<u16>> {
    (1..=most).flat_map(|len| {
        (0..3u32.pow(len)).map(move |code| {
            (0..len)
                .map(|place| 1 + (code / 3u32.pow(place) % 3) as u16)
                .collect()
        })
    })
}

#[test]
fn a_group_of_any_length_is_one_element() {
    for size in [1, 2, 16, 256] {
        for index in [0, 5, size - 1, 0x7fff, 0xfff0, 0xffff] {
            for chains in 1..=size {
                check(size, index, &[chains]);
            }
        }
    }
}

#[test]
fn groups_follow_each_other_across_the_end_of_ring_and_index() {
    for groups in sequences(5) {
        let total: u16 = groups.iter().sum();
        for index in (0xffff - total..=0xffff).chain([0, 1]) {
            check(16, index, &groups);
        }
    }
}

#[test]
fn runs_of_single_chains_between_groups_cross_the_end() {
    let ones = [1; 6];
    for before in 0..6 {
        for chains in [2, 5, 9] {
            for after in 0..6 {
                let mut groups = ones[..before].to_vec();
                groups.push(chains);
                groups.extend(&ones[..after]);
                groups.push(2);
                for index in 0xffe8..=0xffff {
                    check(32, index, &groups);
                }
            }
        }
    }
}

#[test]
fn more_chains_than_the_ring_has_entries_stay_within_it() {
    // The driver reuses descriptors before they are given back; later elements overwrite earlier
    // ones.
    for groups in [vec![9], vec![6, 1, 3], vec![1; 11], vec![4, 4, 4]] {
        for index in [0, 3, 0xfffd] {
            check(4, index, &groups);
        }
    }
}

#[test]
fn a_run_up_to_the_first_group_is_one_store() {
    let mut bench = bench(32, 0, false);
    let groups = [1, 1, 1, 4, 2, 1, 1];
    let used = elements(&groups);
    bench
        .ring
        .complete_in_order(&bench.memory, &used, &groups)
        .unwrap();
    let element = |position: u64| PLACE.used.wrapping_add(4 + 8 * position);
    let expect = [
        Op::StoreUsed(element(0), used[..4].to_vec()),
        Op::StoreUsed(element(7), used[4..5].to_vec()),
        Op::StoreUsed(element(9), used[5..].to_vec()),
        Op::StoreRelease(INDEX, 11),
    ];
    assert_eq!(bench.memory.take_log(), expect);
}

#[test]
fn nothing_but_elements_and_index_is_touched() {
    for shift in 0..16 {
        let size = 1u16 << shift;
        for index in [0, 0xffff, 0u16.wrapping_sub(size / 2)] {
            let mut bench = bench(size, index, true);
            let groups = [3, 1, 2, size, 1];
            let used = elements(&groups);
            bench
                .ring
                .complete_in_order(&bench.memory, &used, &groups)
                .unwrap();
            let first = u128::from(PLACE.used.0) + 4;
            let ring = first..first + 8 * u128::from(size);
            let log = bench.memory.take_log();
            let stores = log.iter().filter(|op| matches!(op, Op::StoreUsed(..)));
            for range in stores.flat_map(Op::ranges) {
                assert!(ring.start <= range.start && range.end <= ring.end);
            }
            assert_eq!(log.iter().filter(|op| !op.is_store()).count(), 0);
        }
    }
}

#[test]
fn an_element_that_cannot_be_stored_leaves_the_index() {
    let groups = [1, 3, 2, 1, 1, 4, 1];
    for index in [0, 13, 0xfffc] {
        let mut stores = 0;
        let mut whole = bench(16, index, false);
        complete(&mut whole, &groups).unwrap();
        loop {
            let mut bench = bench(16, index, false);
            bench.memory.fail_in(stores);
            let used = elements(&groups);
            let result = bench.ring.complete_in_order(&bench.memory, &used, &groups);
            if result.is_ok() {
                break;
            }
            assert!(matches!(result, Err(Fault::Unmapped(_))), "{result:?}");
            assert_eq!(bench.driver.used_index(&bench.memory), index);
            // The device's own index has not moved either: the call can be repeated.
            complete(&mut bench, &groups).unwrap();
            assert_eq!(image(&bench, 16), image(&whole, 16), "store {stores}");
            stores += 1;
        }
        assert!(stores > 4, "{stores} stores that can fail");
    }
}

#[test]
fn a_decision_too_long_ago_is_none_in_groups_either() {
    // 2^16 chains in groups, a few more, and one fewer.
    for (last, known) in [(256, false), (300, false), (255, true)] {
        let mut bench = bench(512, 0xff00, true);
        let _ = bench.ring.needs_call(&bench.memory);
        for _ in 0..255 {
            complete(&mut bench, &[256]).unwrap();
        }
        complete(&mut bench, &[last]).unwrap();
        bench.driver.want_calls(&bench.memory, 0xff00 - 1);
        assert_eq!(!bench.ring.needs_call(&bench.memory), known);
    }
}

#[test]
fn a_ring_that_runs_empty_with_a_group_is_told_of() {
    for (count, told) in [(3, false), (4, true)] {
        let mut bench = Bench::with(Setup {
            size: 8,
            notify_on_empty: true,
            ..Setup::default()
        });
        bench.driver.no_calls(&bench.memory);
        for _ in 0..4 {
            bench.offer(&[BUF]);
        }
        for _ in 0..count {
            bench.head();
        }
        complete(&mut bench, &[count]).unwrap();
        assert_eq!(bench.ring.needs_call(&bench.memory), told, "{count} of 4");
    }
}

/// Places where rings of both formats start: around the end of the ring or of a split ring's index.
fn starts(size: u16) -> impl Iterator<Item = u16> {
    let ends = [size, size * 2, 0xffff];
    let around = ends.map(|end| end - size / 2..=end);
    around.into_iter().flatten().chain([0, 1])
}

/// A ring whose device has taken groups of chains of `slots` descriptors each; with each group's entry,
/// and the ids of its chains.
fn taken<F: Format>(
    size: u16,
    index: u16,
    groups: &[u16],
    slots: u16,
) -> (Rig<F>, Vec<RawUsed>, Vec<Vec<u16>>) {
    let mut rig = Rig::<F>::with(Setup {
        size,
        index,
        event_idx: true,
        ..Setup::default()
    });
    let _ = rig.ring.needs_call(&rig.memory);
    let (mut entries, mut ids) = (Vec::new(), Vec::new());
    for (number, chains) in (0..).zip(groups) {
        let group: Vec<_> = (0..*chains)
            .map(|_| rig.offer(&vec![BUF; usize::from(slots)]))
            .collect();
        let members: Vec<_> = group
            .iter()
            .map(|id| {
                let (chain, _) = rig.next().unwrap().expect("a chain");
                assert_eq!(chain.id, *id);
                F::Ring::used_entry(chain.id, chain.slots, number)
            })
            .collect();
        entries.push(F::Ring::group(&members));
        ids.push(group);
    }
    rig.memory.take_log();
    (rig, entries, ids)
}

fn groups_arrive_whole<F: Format>() {
    for groups in sequences(4) {
        for slots in [1, 2] {
            let size = 32;
            for index in starts(size).step_by(5) {
                let (mut rig, entries, ids) = taken::<F>(size, index, &groups, slots);
                let ring = &mut rig.ring;
                ring.complete_in_order(&rig.memory, &entries, &groups)
                    .unwrap();
                for (number, ids) in (0..).zip(ids) {
                    let group = rig.driver.poll_group(&rig.memory);
                    assert_eq!(group, Some((ids, number)), "{groups:?} from {index}");
                }
                assert_eq!(rig.driver.poll_group(&rig.memory), None);
                // The next chain is expected, and completed, behind them.
                let id = rig.offer(&[BUF]);
                assert_eq!(rig.head(), id);
                rig.complete(id);
                assert_eq!(rig.driver.poll(&rig.memory), Some((id, 0)));
            }
        }
    }
}

fn nothing_to_complete_moves_nothing<F: Format>() {
    let (mut rig, ..) = taken::<F>(8, 7, &[1], 1);
    rig.driver.want_calls(&rig.memory, 0);
    rig.ring.complete_in_order(&rig.memory, &[], &[]).unwrap();
    assert!(!rig.driver.has_used(&rig.memory));
    assert!(!rig.ring.needs_call(&rig.memory));
}

fn groups_of_one_chain_are_completed_as_without_order<F: Format>() {
    for count in 1..=8 {
        for index in starts(8) {
            let groups = vec![1; count];
            let (mut plain, used, _) = taken::<F>(8, index, &groups, 1);
            let (mut ordered, same, _) = taken::<F>(8, index, &groups, 1);
            assert_eq!(used, same);
            plain.ring.complete(&plain.memory, &used).unwrap();
            let ring = &mut ordered.ring;
            ring.complete_in_order(&ordered.memory, &used, &groups)
                .unwrap();
            let log = plain.memory.take_log();
            assert!(log.iter().any(Op::is_store));
            assert_eq!(log, ordered.memory.take_log());
        }
    }
}

fn an_event_within_a_group_is_passed_with_it<F: Format>() {
    for groups in sequences(3) {
        let total: u16 = groups.iter().sum();
        for index in starts(16).step_by(3) {
            for more in 0..total + 3 {
                let (mut rig, entries, _) = taken::<F>(16, index, &groups, 1);
                // Chains behind the groups, for events there.
                for _ in 0..3 {
                    rig.offer(&[BUF]);
                }
                rig.driver.want_calls(&rig.memory, more);
                let ring = &mut rig.ring;
                ring.complete_in_order(&rig.memory, &entries, &groups)
                    .unwrap();
                let call = ring.needs_call(&rig.memory);
                assert_eq!(call, more < total, "{more} from {index} by {groups:?}");
                assert!(!ring.needs_call(&rig.memory), "once is enough");
            }
        }
    }
}

for_both_formats!(
    groups_arrive_whole,
    nothing_to_complete_moves_nothing,
    groups_of_one_chain_are_completed_as_without_order,
    an_event_within_a_group_is_passed_with_it,
);
