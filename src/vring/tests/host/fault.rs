// SPDX-License-Identifier: GPL-2.0

//! Names of faults.

use vring::{Fault, Unmapped, UserAddr};

/// A fault of each kind.
const ALL: [Fault; Fault::NAMES.len()] = [
    Fault::AvailIndex { last: 0, avail: 0 },
    Fault::Base { base: 0, size: 0 },
    Fault::Unavailable { offset: 0 },
    Fault::DescIndex { index: 0, size: 0 },
    Fault::ChainTooLong,
    Fault::TooManySegments,
    Fault::IndirectLength { len: 0 },
    Fault::NestedIndirect,
    Fault::IndirectNext,
    Fault::ReadableAfterWritable,
    Fault::OutsideMemory { addr: 0, len: 0 },
    Fault::Denied { addr: 0 },
    Fault::Unmapped(Unmapped(UserAddr(0))),
    Fault::Unlogged(UserAddr(0)),
    Fault::Direction,
    Fault::ShortHeader { len: 0 },
];

#[test]
fn each_kind_has_its_name() {
    for (kind, fault) in ALL.iter().enumerate() {
        assert_eq!(fault.kind(), kind);
        // The name is that of the variant.
        let debug = format!("{fault:?}");
        let variant = debug.split([' ', '(']).next().unwrap();
        assert_eq!(fault.name().replace('_', ""), variant.to_lowercase());
    }
}
