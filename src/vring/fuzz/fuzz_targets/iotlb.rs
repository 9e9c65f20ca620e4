// SPDX-License-Identifier: GPL-2.0

//! Any sequence of calls to an IOTLB, against a list of mappings.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vring::{GuestAddr, Mapping, Permission, UserAddr};

#[path = "../../tests/host/oracle.rs"]
#[expect(dead_code, reason = "shared with other targets")]
mod oracle;

use oracle::{Deed, Pair, MAX_RANGE};

/// The part of the address space that all addresses are close to.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Base {
    Bottom,
    Middle,
    Top,
}

/// One call; addresses and lengths in bytes from the base.
#[derive(Arbitrary, Debug)]
enum Call {
    Update {
        at: u8,
        more: u8,
        user: u16,
        permission: u8,
    },
    /// A mapping of any length, which may be the whole address space.
    UpdateWide {
        a: u64,
        b: u64,
        permission: u8,
    },
    Invalidate {
        at: u8,
        more: u8,
    },
    Translate {
        at: u8,
        len: u8,
    },
    Clear,
}

impl Base {
    /// The range of `more + 1` bytes from `at` on, cut at the end of the address space.
    fn range(self, at: u8, more: u8) -> (u64, u64) {
        let base = match self {
            Self::Bottom => 0,
            Self::Middle => 0x1_0000_0000 - 128,
            Self::Top => u64::MAX - 255,
        };
        let last = at.saturating_add(more);
        (base + u64::from(at), base + u64::from(last))
    }

    fn deed(self, call: &Call) -> Deed {
        let update = |(iova, last), user, permission| {
            Deed::Update(Mapping {
                iova: GuestAddr(iova),
                last: GuestAddr(last),
                user: UserAddr(user),
                permission: Permission::from_bits(permission),
            })
        };
        match *call {
            Call::Update {
                at,
                more,
                user,
                permission,
            } => {
                let range = self.range(at, more);
                // Half of the mappings have the same order and distance in user space.
                let user = match user & 1 {
                    0 => 0x1000 + u64::from(at),
                    _ => u64::from(user),
                };
                update(range, user, permission)
            }
            Call::UpdateWide { a, b, permission } => update((a.min(b), a.max(b)), 0, permission),
            Call::Invalidate { at, more } => {
                let (iova, last) = self.range(at, more);
                Deed::Invalidate(iova, last)
            }
            Call::Translate { at, len } => {
                Deed::Translate(self.range(at, 0).0, u64::from(len).min(MAX_RANGE))
            }
            Call::Clear => Deed::Clear,
        }
    }
}

fuzz_target!(|input: (Base, u8, Vec<Call>)| {
    let (base, capacity, calls) = input;
    let mut pair = Pair::new(usize::from(capacity) % 20);
    for call in calls.iter().take(200) {
        pair.check(base.deed(call));
    }
});
