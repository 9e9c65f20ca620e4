// SPDX-License-Identifier: GPL-2.0

//! The IOTLB against a list of mappings in the order in which they were entered.

use proptest::prelude::*;
use vring::{
    Access, Fault, GuestAddr, Hint, InvalidMapping, Iotlb, IotlbEntry, Mapping, Permission,
    Segment, Segments, Translate, Untranslated, UserAddr,
};

use crate::mock::segment;
use crate::oracle::{translate, Deed, Pair, ACCESSES};

fn mapping(iova: u64, last: u64, user: u64, permission: Permission) -> Mapping {
    Mapping {
        iova: GuestAddr(iova),
        last: GuestAddr(last),
        user: UserAddr(user),
        permission,
    }
}

fn iotlb(capacity: usize) -> Iotlb<Vec<IotlbEntry>> {
    Iotlb::new(vec![IotlbEntry::default(); capacity])
}

/// Calls with addresses close to each other, at the bottom, in the middle or at the top of the
/// address space.
fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let near = |base: u64| {
        let range = move || {
            (0..256u64, 1..64u64).prop_map(move |(at, len)| {
                let last = (at + len - 1).min(255);
                (base + at, base + last)
            })
        };
        // Few user addresses, so that mappings are often contiguous there as well.
        let user = prop_oneof![Just(None), (0..4u64).prop_map(|at| Some(at << 12))];
        let update = (range(), user, 0..8u8).prop_map(move |((iova, last), user, bits)| {
            let user = user.unwrap_or(0x1000 + (iova - base));
            // Mostly both permissions, or hardly any address could be translated.
            let permission = Permission::from_bits(if bits < 4 { bits } else { 3 });
            Deed::Update(mapping(iova, last, user, permission))
        });
        let wide = (any::<u64>(), any::<u64>()).prop_map(|(a, b)| {
            let (iova, last) = (a.min(b), a.max(b));
            Deed::Update(mapping(iova, last, 0, Permission::READ_WRITE))
        });
        let whole = Just(Deed::Update(mapping(0, u64::MAX, 0, Permission::READ)));
        let invalidate = range().prop_map(|(iova, last)| Deed::Invalidate(iova, last));
        let translate =
            (0..256u64, 0..200u64).prop_map(move |(at, len)| Deed::Translate(base + at, len));
        let deed = prop_oneof![
            40 => update,
            1 => wide,
            1 => whole,
            4 => invalidate,
            30 => translate,
            1 => Just(Deed::Clear),
        ];
        proptest::collection::vec(deed, 1..80)
    };
    prop_oneof![near(0), near(0x1_0000_0000 - 128), near(u64::MAX - 255)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn it_does_as_the_list_does(
        capacity in prop_oneof![0..5usize, Just(12), Just(100)],
        deeds in deeds(),
    ) {
        let mut pair = Pair::new(capacity);
        for deed in deeds {
            pair.check(deed);
        }
    }
}

#[test]
fn what_ends_before_it_starts_or_wraps_is_refused() {
    let rw = Permission::READ_WRITE;
    let new = |iova, size, user| Mapping::new(GuestAddr(iova), size, UserAddr(user), rw);
    assert_eq!(new(5, 3, 7), Ok(mapping(5, 7, 7, rw)));
    let top = u64::MAX;
    assert_eq!(new(top, 1, top), Ok(mapping(top, top, top, rw)));
    assert_eq!(new(1, top, 1), Ok(mapping(1, top, 1, rw)));
    for (iova, size, user) in [(0, 0, 0), (5, 0, 0), (top, 2, 0), (1, top, 2), (0, 2, top)] {
        let refused = Err(InvalidMapping);
        assert_eq!(
            new(iova, size, user),
            refused,
            "{iova:#x} {size:#x} {user:#x}"
        );
    }
    let mut iotlb = iotlb(4);
    let good = mapping(0, 9, 0, rw);
    iotlb.update(good).unwrap();
    for bad in [
        mapping(5, 4, 0, rw),
        mapping(0, 1, top, rw),
        mapping(0, top, 1, rw),
    ] {
        assert_eq!(iotlb.update(bad), Err(InvalidMapping), "{bad:?}");
    }
    for (iova, size) in [(0, 0), (5, 0), (top, 2), (1, top), (2, top)] {
        let wraps = size == 0 || u128::from(iova) + u128::from(size) > 1 << 64;
        let refused = iotlb.invalidate(GuestAddr(iova), size).is_err();
        assert_eq!(refused, wraps, "{iova:#x} {size:#x}");
        iotlb.update(good).unwrap();
    }
    assert!(iotlb.mappings().eq([&good]));
}

#[test]
fn the_whole_address_space_is_a_mapping() {
    let top = u64::MAX;
    let mut iotlb = iotlb(3);
    let all = mapping(0, top, 0, Permission::READ);
    iotlb.update(all).unwrap();
    let mut hint = Hint::default();
    for (iova, len) in [(0, top), (1, top), (top, 1), (0x7000, 0x1000)] {
        let got = translate(&iotlb, &mut hint, iova, len, Access::Read);
        assert_eq!(got, Ok(vec![segment(iova, len)]));
    }
    let wraps = translate(&iotlb, &mut hint, top, 2, Access::Read);
    let outside = Fault::OutsideMemory { addr: top, len: 2 };
    assert_eq!(wraps, Err(Untranslated::Fault(outside)));
    // A hole in the middle; then the ends.
    for (at, len) in [(0x5000, 3), (0, 2), (top, 1)] {
        iotlb.clear();
        iotlb.update(all).unwrap();
        let hole = mapping(at, at + (len - 1), 0x9000, Permission::WRITE);
        iotlb.update(hole).unwrap();
        for access in ACCESSES {
            let got = translate(&iotlb, &mut hint, at, len, access);
            match access {
                Access::Read => {
                    assert_eq!(got, Err(Untranslated::Fault(Fault::Denied { addr: at })));
                }
                Access::Write => assert_eq!(got, Ok(vec![segment(0x9000, len)])),
            }
        }
    }
}

#[test]
fn a_full_table_forgets_the_oldest_first() {
    let mut iotlb = iotlb(4);
    let page = |n: u64| mapping(n << 12, (n << 12) + 0xfff, n << 20, Permission::READ);
    for n in [3, 1, 7, 5] {
        iotlb.update(page(n)).unwrap();
    }
    // A mapping that is entered again is the youngest.
    iotlb.update(page(3)).unwrap();
    assert_eq!(iotlb.len(), 4);
    for (new, kept) in [
        (9, [3, 5, 7, 9]),
        (8, [3, 5, 8, 9]),
        (2, [2, 3, 8, 9]),
        (1, [1, 2, 8, 9]),
    ] {
        iotlb.update(page(new)).unwrap();
        assert!(iotlb.mappings().eq(&kept.map(page)), "{iotlb:?}");
    }
}

#[test]
fn every_mapping_that_an_invalidation_touches_goes_as_a_whole() {
    let rw = Permission::READ_WRITE;
    let all = [
        mapping(10, 19, 0, rw),
        mapping(20, 29, 10, rw),
        mapping(40, 49, 0, rw),
    ];
    for (iova, size, left) in [
        (0, 10, &all[..]),
        (30, 10, &all[..]),
        (50, u64::MAX - 49, &all[..]),
        (0, 11, &all[1..]),
        (19, 2, &all[2..]),
        (29, 11, &[all[0], all[2]]),
        (15, 1, &all[1..]),
        (0, u64::MAX, &[]),
    ] {
        let mut iotlb = iotlb(4);
        for mapping in all {
            iotlb.update(mapping).unwrap();
        }
        iotlb.invalidate(GuestAddr(iova), size).unwrap();
        assert!(iotlb.mappings().eq(left), "{iova} {size}: {iotlb:?}");
    }
}

#[test]
fn pieces_that_follow_each_other_in_user_space_are_one_segment() {
    let rw = Permission::READ_WRITE;
    let mut iotlb = iotlb(8);
    for n in 0..3 {
        iotlb
            .update(mapping(n * 10, n * 10 + 9, 0x1000 + n * 10, rw))
            .unwrap();
    }
    iotlb.update(mapping(30, 39, 0x5000, rw)).unwrap();
    let mut hint = Hint::default();
    let mut get = |iova, len| translate(&iotlb, &mut hint, iova, len, Access::Write).unwrap();
    assert_eq!(get(0, 30), [segment(0x1000, 30)]);
    assert_eq!(get(5, 30), [segment(0x1005, 25), segment(0x5000, 5)]);
    assert_eq!(get(5, 0), []);
    assert_eq!(get(1000, 0), []);
    // A contiguous range needs room for one segment only.
    let mut storage = [Segment::default(); 1];
    let mut translate = |len| {
        let mut out = Segments::new(&mut storage);
        let hint = &mut Hint::default();
        iotlb.translate(hint, GuestAddr(0), len, Access::Read, &mut out)
    };
    assert_eq!(translate(30), Ok(()));
    assert_eq!(translate(31), Err(Fault::TooManySegments));
}

#[test]
fn to_a_ring_a_miss_is_an_address_outside_memory() {
    let mut iotlb = iotlb(2);
    iotlb.update(mapping(0, 9, 0, Permission::READ)).unwrap();
    let mut storage = [Segment::default(); 4];
    let mut translate = |iova, access| {
        let mut out = Segments::new(&mut storage);
        iotlb.translate(&mut Hint::default(), GuestAddr(iova), 5, access, &mut out)
    };
    assert_eq!(translate(5, Access::Read), Ok(()));
    let outside = Fault::OutsideMemory { addr: 10, len: 2 };
    assert_eq!(translate(7, Access::Read), Err(outside));
    assert_eq!(translate(7, Access::Write), Err(Fault::Denied { addr: 7 }));
}

#[test]
fn permissions_are_the_bits_of_the_header() {
    for bits in 0..=u8::MAX {
        let permission = Permission::from_bits(bits);
        assert_eq!(permission.bits(), bits & 3);
        assert_eq!(permission.allows(Access::Read), bits & 1 != 0);
        assert_eq!(permission.allows(Access::Write), bits & 2 != 0);
    }
    for access in ACCESSES {
        assert!(Permission::needed_for(access).allows(access));
    }
}
