// SPDX-License-Identifier: GPL-2.0

//! The memory table against a table of single bytes.

use proptest::prelude::*;
use vring::Translate;
use vring::{Access, Fault, GuestAddr, Hint, InvalidRegion, MemTable, Region, Segment, Segments};

use crate::mock::{region, segment, table};

/// User address of byte `addr`, which belongs to the region with the lowest start, and to the first
/// of equal ones.
fn naive(regions: &[Region], addr: u128) -> Option<u64> {
    regions
        .iter()
        .filter(|r| {
            let start = u128::from(r.guest.0);
            start <= addr && addr < start + u128::from(r.size)
        })
        // `min_by_key()` returns the first of equal keys.
        .min_by_key(|r| r.guest)
        .map(|r| r.user.0.wrapping_add((addr - u128::from(r.guest.0)) as u64))
}

fn translate(
    table: &impl Translate,
    hint: &mut Hint,
    addr: u64,
    len: u32,
) -> Result<Vec<Segment>, Fault> {
    let mut storage = vec![Segment::default(); 2048];
    let mut out = Segments::new(&mut storage);
    table.translate(hint, GuestAddr(addr), len, Access::Read, &mut out)?;
    Ok(out.as_slice().to_vec())
}

/// Checks a translation byte by byte.
fn check(regions: &[Region], hint: &mut Hint, addr: u64, len: u32) -> Result<(), TestCaseError> {
    let plain = MemTable::new(regions.to_vec()).unwrap();
    check_table(&plain, regions, &mut hint.clone(), addr, len)?;
    for blocks in [1, 2, 7, 64] {
        let table = MemTable::with_index(regions.to_vec(), vec![0; blocks]).unwrap();
        prop_assert_eq!(table.regions(), plain.regions());
        check_table(&table, regions, &mut hint.clone(), addr, len)?;
    }
    check_table(&plain, regions, hint, addr, len)
}

/// Checks a translation by `table`, made of `regions`.
fn check_table(
    table: &impl Translate,
    regions: &[Region],
    hint: &mut Hint,
    addr: u64,
    len: u32,
) -> Result<(), TestCaseError> {
    let expect: Vec<_> = (0..u128::from(len))
        .map(|offset| naive(regions, u128::from(addr) + offset))
        .collect();
    match translate(table, hint, addr, len) {
        Ok(segments) => {
            prop_assert!(segments.iter().all(|segment| segment.len > 0));
            let bytes: Vec<_> = segments
                .iter()
                .flat_map(|s| (0..s.len).map(|i| Some(s.addr.0.wrapping_add(i))))
                .collect();
            prop_assert_eq!(bytes, expect);
        }
        Err(fault) => {
            let hole = expect.iter().position(Option::is_none);
            prop_assert!(hole.is_some(), "{:?}, but every byte is there", fault);
            prop_assert_eq!(fault.name(), "outside_memory");
            let hole = hole.unwrap() as u64;
            // Behind the top there is no address to report.
            if let (Some(first), Fault::OutsideMemory { addr, len: left }) =
                (addr.checked_add(hole), fault)
            {
                prop_assert_eq!((addr, u64::from(left)), (first, u64::from(len) - hole));
            }
        }
    }
    Ok(())
}

/// Regions and ranges close to each other, at the bottom or at the top of the address space.
fn crowded() -> impl Strategy<Value = (Vec<Region>, Vec<(u64, u32)>)> {
    let spot = |base: u64| {
        let size = (0..200u64).prop_flat_map(|start| (Just(start), 1..=256 - start));
        let regions = proptest::collection::vec((size, any::<u16>()), 0..10);
        let ranges = proptest::collection::vec((0..256u64, 0..300u32), 1..12);
        (regions, ranges).prop_map(move |(regions, ranges)| {
            let regions = regions
                .into_iter()
                .map(|((at, size), user)| region((base + at, size, u64::from(user) << 16)))
                .collect::<Vec<_>>();
            let ranges = ranges.into_iter().map(|(at, len)| (base + at, len));
            (regions, ranges.collect::<Vec<_>>())
        })
    };
    prop_oneof![spot(0), spot(0x1_0000_0000 - 128), spot(u64::MAX - 255)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn every_byte_translates_as_in_the_oracle((regions, ranges) in crowded()) {
        // The hint is carried from table to table.
        let mut hint = Hint::default();
        for (addr, len) in ranges {
            check(&regions, &mut hint, addr, len)?;
        }
    }

    #[test]
    fn the_table_is_sorted_and_free_of_overlap((regions, _) in crowded()) {
        let table = MemTable::new(regions.clone()).unwrap();
        let mut end = None;
        for part in table.regions() {
            let start = u128::from(part.guest.0);
            prop_assert!(part.size > 0 && end.is_none_or(|end| end <= start));
            end = Some(start + u128::from(part.size));
            for byte in start..start + u128::from(part.size) {
                let user = part.user.0 + (byte - start) as u64;
                prop_assert_eq!(naive(&regions, byte), Some(user));
            }
        }
        let bytes: u64 = table.regions().iter().map(|part| part.size).sum();
        let base = regions.iter().map(|r| u128::from(r.guest.0)).min().unwrap_or(0);
        let all = (base..base + 256).filter(|&byte| naive(&regions, byte).is_some());
        prop_assert_eq!(bytes, all.count() as u64);
    }
}

#[test]
fn empty_regions_and_wrapping_ones_are_refused() {
    let good = region((0x1000, 0x1000, 0));
    for bad in [
        (0, 0, 0),
        (0x5000, 0, 0),
        (u64::MAX, 0, 0),
        (u64::MAX, 2, 0),
        (0x1000, u64::MAX - 0xffe, 0),
        (1, u64::MAX, 0),
    ]
    .map(region)
    .into_iter()
    .filter(|bad| bad.size == 0 || bad.guest.0.checked_add(bad.size - 1).is_none())
    {
        for list in [vec![bad], vec![good, bad], vec![bad, good]] {
            assert_eq!(MemTable::new(list).err(), Some(InvalidRegion), "{bad:?}");
        }
    }
}

#[test]
fn the_whole_address_space_but_a_byte_is_a_region() {
    let table = table(&[(1, u64::MAX, 0x10)]);
    let mut hint = Hint::default();
    let got = translate(&table, &mut hint, 0x7000, u32::MAX);
    assert_eq!(got, Ok(vec![segment(0x700f, u64::from(u32::MAX))]));
    let top = u64::MAX - 15;
    let got = translate(&table, &mut hint, top, 16);
    assert_eq!(got, Ok(vec![segment(top + 15, 16)]));
    assert!(translate(&table, &mut hint, top, 17).is_err());
    assert!(translate(&table, &mut hint, 0, 1).is_err());
}

#[test]
fn no_regions_is_a_table() {
    let table = table(&[]);
    assert!(table.regions().is_empty());
    let mut hint = Hint::default();
    assert_eq!(translate(&table, &mut hint, 7, 0), Ok(vec![]));
    let outside = Fault::OutsideMemory { addr: 7, len: 1 };
    assert_eq!(translate(&table, &mut hint, 7, 1), Err(outside));
}

#[test]
fn a_thousand_regions_in_any_order() {
    const COUNT: u64 = 1024;
    // All regions are adjacent; 389 is coprime with their number, so each occurs once.
    let regions: Vec<_> = (0..COUNT)
        .map(|i| i * 389 % COUNT)
        .map(|i| region((i * 0x1000, 0x1000, (COUNT - i) << 32)))
        .collect();
    let table = MemTable::new(regions).unwrap();
    assert_eq!(table.regions().len(), COUNT as usize);
    let mut hint = Hint::default();
    for i in (0..COUNT).rev() {
        let at = i * 0x1000 + 5;
        let got = translate(&table, &mut hint, at, 7);
        assert_eq!(got, Ok(vec![segment(((COUNT - i) << 32) + 5, 7)]));
    }
    let all = translate(&table, &mut hint, 0, (COUNT * 0x1000) as u32).unwrap();
    let expect: Vec<_> = (0..COUNT)
        .map(|i| segment((COUNT - i) << 32, 0x1000))
        .collect();
    assert_eq!(all, expect);
}

#[test]
fn a_range_in_more_pieces_than_room_is_refused() {
    let table = table(&[(0, 16, 0x1000), (16, 16, 0x2000), (32, 16, 0x3000)]);
    let mut storage = [Segment::default(); 2];
    let mut out = Segments::new(&mut storage);
    let mut hint = Hint::default();
    let mut translate = |len| {
        out.truncate(0);
        table.translate(&mut hint, GuestAddr(8), len, Access::Write, &mut out)
    };
    assert_eq!(translate(24), Ok(()));
    assert_eq!(translate(25), Err(Fault::TooManySegments));
}
