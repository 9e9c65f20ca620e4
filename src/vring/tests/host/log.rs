// SPDX-License-Identifier: GPL-2.0

//! The dirty log against a set of bits, and the reverse translation of user addresses.

use proptest::prelude::*;
use vring::{for_each_log_word, log_extent, GuestAddr, MemTable, Region, Unmapped, UserAddr};

use crate::mock::{region, table};
use crate::oracle::{check_log, check_way_back, guest_ranges, log, PAGE};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn each_page_written_has_its_bit_and_no_other(
        base in prop_oneof![0..64u64, (0..64u64).prop_map(|at| 0x7f00_0000_0000 + at)],
        start in prop_oneof![Just(0), 0..u64::MAX >> 16, Just(!0 - (1 << 22) + 1)],
        offset in 0..(64 * PAGE),
        len in prop_oneof![Just(0), 0..3 * PAGE, 0..(600 * PAGE)],
    ) {
        let addr = start + offset;
        check_log(base, addr, len);
    }
}

#[test]
fn bits_are_counted_from_the_low_end_of_each_byte() {
    let one = |addr, len| {
        log(0x1000, addr, len)
            .unwrap()
            .0
            .into_iter()
            .collect::<Vec<_>>()
    };
    assert_eq!(one(0, 1), [(0x1000, 1)]);
    assert_eq!(one(7 * PAGE, 1), [(0x1000, 0x80)]);
    assert_eq!(one(8 * PAGE - 1, 2), [(0x1000, 0x80), (0x1001, 1)]);
    assert_eq!(one(35 * PAGE, 2 * PAGE), [(0x1004, 0x18)]);
    assert_eq!(one(35 * PAGE + 1, 2 * PAGE), [(0x1004, 0x38)]);
    assert_eq!(one(5, 0), []);
}

#[test]
fn a_large_packet_takes_one_word_or_two() {
    for page in 0..64 {
        let (_, words) = log(0x1000, page * PAGE, 16 * PAGE).unwrap();
        assert_eq!(words, if page % 32 <= 16 { 1 } else { 2 }, "{page}");
    }
}

#[test]
fn ranges_that_wrap_have_no_log() {
    let top = u64::MAX;
    assert_eq!(log_extent(GuestAddr(top), 2), None);
    assert_eq!(log_extent(GuestAddr(1), top), Some((0, 1 << 49)));
    assert_eq!(log_extent(GuestAddr(2), top), None);
    assert_eq!(log_extent(GuestAddr(top), 1), Some(((1 << 49) - 1, 1)));
    assert_eq!(log_extent(GuestAddr(top), 0), Some(((1 << 49) - 1, 0)));
    // First the guest's range wraps, then that of the log.
    assert_eq!(log(0, top, 2), Err(Unmapped(UserAddr(0))));
    let end = top - 7;
    assert!(log(end, 8 * 8 * PAGE - 1, 1).is_ok());
    assert_eq!(log(end, 8 * 8 * PAGE, 1), Err(Unmapped(UserAddr(end))));
    assert_eq!(log(end, 8 * 8 * PAGE - 1, 2), Err(Unmapped(UserAddr(end))));
    assert!(log(top, top, 0).is_ok());
}

#[test]
fn the_first_word_that_fails_is_the_last() {
    let mut left = 3;
    let result = for_each_log_word(UserAddr(0x1000), GuestAddr(0), 1 << 30, |at, _| {
        left -= 1;
        if left == 0 {
            Err(Unmapped(at))
        } else {
            Ok(())
        }
    });
    assert_eq!((result, left), (Err(Unmapped(UserAddr(0x1008))), 0));
}

/// Regions whose user addresses overlap, and a range of user addresses.
fn shared() -> impl Strategy<Value = (Vec<Region>, u64, u64)> {
    let at = |base: u64| {
        let part = (0..1024u64, 1..100u64, 0..200u64).prop_map(move |(guest, size, user)| {
            // May wrap in user space.
            region((guest, size, base.wrapping_add(user)))
        });
        let regions = proptest::collection::vec(part, 0..12);
        let size = 310u64.min(u64::MAX - base);
        (regions, 0..=size, 0..120u64).prop_map(move |(regions, at, len)| (regions, base + at, len))
    };
    prop_oneof![at(0), at(0x7f00_0000_0000), at(u64::MAX - 150)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn the_way_back_finds_what_translates_there((regions, user, len) in shared()) {
        check_way_back(&MemTable::new(regions).unwrap(), user, len);
    }
}

#[test]
fn a_byte_that_shows_twice_is_reported_twice() {
    let table = table(&[(0, 100, 0x1000), (1000, 50, 0x1032), (2000, 10, 0x9000)]);
    assert_eq!(
        guest_ranges(&table, 0x1030, 10),
        (vec![(48, 10), (1000, 8)], true)
    );
    // Both regions map the end of the first one; behind it nothing is mapped.
    assert_eq!(
        guest_ranges(&table, 0x1060, 8),
        (vec![(96, 4), (1046, 4)], false)
    );
    assert_eq!(guest_ranges(&table, 0x8fff, 2), (vec![(2000, 1)], false));
    assert_eq!(guest_ranges(&table, 0x5000, 2), (vec![], false));
    assert_eq!(guest_ranges(&table, 0x5000, 0), (vec![], true));
    let stop = table.guest_ranges(UserAddr(0x1030), 10, |guest, _| Err(guest));
    assert_eq!(stop, Err(GuestAddr(48)));
}
