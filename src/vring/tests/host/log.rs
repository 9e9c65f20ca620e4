// SPDX-License-Identifier: GPL-2.0

//! The dirty log against a set of bits, and the way back from user addresses.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use vring::{
    for_each_log_word, log_extent, Access, GuestAddr, Hint, MemTable, Region, Segment, Segments,
    Translate, Unmapped, UserAddr,
};

use crate::mock::{region, table};

const PAGE: u64 = 4096;

/// A log as bytes by address, with what is not zero.
type Bytes = BTreeMap<u64, u8>;

/// The bytes that the words set, and how many words there were.
fn log(log: u64, addr: u64, len: u64) -> Result<(Bytes, usize), Unmapped> {
    let mut bytes = Bytes::new();
    let mut words = BTreeSet::new();
    for_each_log_word(UserAddr(log), GuestAddr(addr), len, |at, bits| {
        assert_eq!(at.0 % 4, 0);
        assert!(bits != 0, "a word without bits at {at:?}");
        assert!(words.insert(at.0), "{at:?} comes twice");
        for (address, byte) in (at.0..=at.0 + 3).zip(bits.to_ne_bytes()) {
            if byte != 0 {
                assert_eq!(bytes.insert(address, byte), None);
            }
        }
        Ok(())
    })?;
    Ok((bytes, words.len()))
}

/// The same, page by page.
fn naive(log: u64, addr: u64, len: u64) -> Bytes {
    let mut bytes = Bytes::new();
    let pages = (0..len).step_by(PAGE as usize).chain(len.checked_sub(1));
    for page in pages.map(|at| (addr + at) / PAGE) {
        *bytes.entry(log + page / 8).or_default() |= 1 << (page % 8);
    }
    bytes
}

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
        let (bytes, words) = log(base, addr, len).unwrap();
        prop_assert_eq!(&bytes, &naive(base, addr, len));
        // The extent is exactly the bytes that have bits.
        let (from, extent) = log_extent(GuestAddr(addr), len).unwrap();
        prop_assert_eq!(bytes.len() as u64, extent);
        if let (Some((first, _)), Some((last, _))) = (bytes.first_key_value(), bytes.last_key_value()) {
            prop_assert_eq!((*first, *last), (base + from, base + from + extent - 1));
            // No more words than the bytes lie in.
            prop_assert_eq!(words as u64, last / 4 - first / 4 + 1);
        }
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
    // The guest's range, then that of the log.
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

/// All that `guest_ranges` reports, and its answer.
fn ranges(table: &MemTable<Vec<Region>>, user: u64, len: u64) -> (Vec<(u64, u64)>, bool) {
    let mut found = Vec::new();
    let all = table.guest_ranges(UserAddr(user), len, |guest, len| {
        found.push((guest.0, len));
        Ok::<_, ()>(())
    });
    (found, all.unwrap())
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
        let table = MemTable::new(regions).unwrap();
        let (found, all) = ranges(&table, user, len);
        if user.checked_add(len.saturating_sub(1)).is_none() {
            prop_assert_eq!((found, all), (vec![], false));
            return Ok(());
        }
        // Forward, byte by byte: who leads into the range?
        let mut expect = BTreeSet::new();
        let mut shown = BTreeSet::new();
        for guest in 0..1200 {
            let mut storage = [Segment::default(); 1];
            let mut out = Segments::new(&mut storage);
            let hint = &mut Hint::default();
            if table.translate(hint, GuestAddr(guest), 1, Access::Write, &mut out).is_ok() {
                let at = out.as_slice()[0].addr.0;
                if at >= user && at - user < len {
                    expect.insert(guest);
                    shown.insert(at);
                }
            }
        }
        prop_assert!(found.iter().all(|(_, len)| *len > 0));
        let bytes: Vec<_> = found.iter().flat_map(|(guest, len)| *guest..guest + len).collect();
        prop_assert_eq!(bytes.len(), expect.len(), "a byte comes twice or not at all");
        prop_assert_eq!(bytes.into_iter().collect::<BTreeSet<_>>(), expect);
        prop_assert_eq!(all, shown.len() as u64 == len);
    }
}

#[test]
fn a_byte_that_shows_twice_is_reported_twice() {
    let table = table(&[(0, 100, 0x1000), (1000, 50, 0x1032), (2000, 10, 0x9000)]);
    assert_eq!(
        ranges(&table, 0x1030, 10),
        (vec![(48, 10), (1000, 8)], true)
    );
    // The end of the first region shows in both, then there is nothing.
    assert_eq!(ranges(&table, 0x1060, 8), (vec![(96, 4), (1046, 4)], false));
    assert_eq!(ranges(&table, 0x8fff, 2), (vec![(2000, 1)], false));
    assert_eq!(ranges(&table, 0x5000, 2), (vec![], false));
    assert_eq!(ranges(&table, 0x5000, 0), (vec![], true));
    let stop = table.guest_ranges(UserAddr(0x1030), 10, |guest, _| Err(guest));
    assert_eq!(stop, Err(GuestAddr(48)));
}
