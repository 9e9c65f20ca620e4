// SPDX-License-Identifier: GPL-2.0

//! [`Rings`], whose format the owner may change.

use vring::{Access, InForce, RingAddrs, Rings, UserAddr};

const ADDRS: RingAddrs = RingAddrs {
    desc: UserAddr(0x1000),
    avail: UserAddr(0x2000),
    used: UserAddr(0x3000),
};

fn packed(size: u32) -> Rings {
    let mut rings = Rings::default();
    rings.set_features(true, true, false);
    assert!(rings.set_size(size));
    rings
}

#[test]
fn a_device_starts_with_a_split_ring() {
    let mut rings = Rings::default();
    assert!(!rings.is_packed());
    assert!(matches!(rings.in_force(), InForce::Split(_)));
    assert_eq!((rings.size(), rings.base()), (1, 0));
    assert!(rings.has_size());
    assert_eq!(rings.desc_access(), Access::Read);
}

#[test]
fn the_ring_in_force_is_the_one_that_is_set_up() {
    for is_packed in [false, true] {
        let mut rings = Rings::default();
        rings.set_features(is_packed, true, false);
        assert!(rings.set_size(8));
        rings.set_addrs(ADDRS);
        assert!(rings.set_base(5));
        match rings.in_force() {
            InForce::Split(ring) => {
                assert!(!is_packed);
                assert_eq!((ring.addrs(), ring.base()), (ADDRS, 5));
                assert_eq!(ring.extents(), [128, 22, 70]);
            }
            InForce::Packed(ring) => {
                assert!(is_packed);
                assert_eq!((ring.addrs(), ring.base()), (ADDRS, 5));
                assert_eq!(ring.extents(), [128, 4, 4]);
            }
        }
        let writes = rings.desc_access() == Access::Write;
        assert_eq!((writes, rings.is_packed()), (is_packed, is_packed));
    }
}

#[test]
fn size_and_addresses_outlive_the_format_and_the_base_does_not() {
    let mut rings = Rings::default();
    assert!(rings.set_size(64));
    rings.set_addrs(ADDRS);
    assert!(rings.set_base(7));
    rings.set_features(true, false, false);
    assert_eq!((rings.size(), rings.addrs()), (64, ADDRS));
    assert_eq!(rings.base(), 0x8000_8000);
    assert!(rings.set_base(0x3_0003));
    // Setting the same format again changes nothing.
    rings.set_features(true, true, false);
    assert_eq!(rings.base(), 0x3_0003);
    rings.set_features(false, true, false);
    assert_eq!((rings.size(), rings.addrs()), (64, ADDRS));
    assert_eq!(rings.base(), 0);
}

#[test]
fn a_size_is_judged_by_the_format_in_force() {
    let mut rings = Rings::default();
    assert!(!rings.set_size(300));
    assert!(rings.has_size());
    let mut rings = packed(300);
    // A split ring cannot have this size; back in the first format the ring has it.
    rings.set_features(false, true, false);
    assert!(!rings.has_size());
    assert_eq!(rings.size(), 1);
    rings.set_features(true, true, false);
    assert!(rings.has_size());
    assert_eq!(rings.size(), 300);
    rings.set_features(false, true, false);
    assert!(rings.set_size(256));
    assert!(rings.has_size());
}

#[test]
fn a_base_is_judged_by_the_format_in_force() {
    let mut rings = Rings::default();
    assert!(!rings.set_base(0x1_0000));
    assert_eq!(rings.base(), 0);
    assert!(rings.set_base(0xffff));
    assert_eq!(rings.base(), 0xffff);
    let mut rings = packed(300);
    assert!(rings.set_base(0x8005_0003));
    assert_eq!(rings.base(), 0x8005_0003);
}

#[test]
fn a_reset_forgets_all() {
    let mut rings = packed(300);
    rings.set_addrs(ADDRS);
    assert!(rings.set_base(0x5_0005));
    rings.reset();
    assert!(!rings.is_packed());
    assert_eq!((rings.size(), rings.base()), (1, 0));
    assert_eq!(rings.addrs(), RingAddrs::default());
    rings.set_features(true, false, false);
    assert_eq!((rings.size(), rings.base()), (1, 0x8000_8000));
    assert_eq!(rings.addrs(), RingAddrs::default());
}
