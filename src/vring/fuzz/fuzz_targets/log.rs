// SPDX-License-Identifier: GPL-2.0

//! Any range of guest memory and its bits in the dirty log, and the reverse translation of user
//! addresses.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use vring::{for_each_log_word, log_extent, GuestAddr, MemTable, Region, UserAddr};

#[path = "../../tests/host/oracle.rs"]
#[expect(dead_code, reason = "shared with other targets")]
mod oracle;

use oracle::{check_log, check_way_back, GUEST_BYTES, PAGE};

/// The most pages that are counted one by one.
const MAX_PAGES: u64 = 2000;

/// The part of the address space that all user addresses are close to.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Base {
    Bottom,
    Middle,
    Top,
}

#[derive(Arbitrary, Debug)]
enum Input {
    Log {
        base: u64,
        addr: u64,
        len: u64,
    },
    WayBack {
        base: Base,
        regions: Vec<(u16, u8, u8)>,
        at: u8,
        len: u8,
    },
}

/// Whether neither the range nor its log wraps.
fn is_sound(base: u64, addr: u64, len: u64) -> bool {
    let log = log_extent(GuestAddr(addr), len);
    // An empty range is valid at any address.
    len == 0
        || log.is_some_and(|(from, bytes)| {
            let last = from
                .checked_add(bytes - 1)
                .and_then(|last| base.checked_add(last));
            last.is_some()
        })
}

fuzz_target!(|input: Input| match input {
    Input::Log { base, addr, len } => {
        let len = len % (MAX_PAGES * PAGE);
        if is_sound(base, addr, len) && addr.checked_add(len).is_some() {
            check_log(base, addr, len);
        } else if !is_sound(base, addr, len) {
            let set = |_, _| Ok(());
            assert!(for_each_log_word(UserAddr(base), GuestAddr(addr), len, set).is_err());
        }
    }
    Input::WayBack {
        base,
        regions,
        at,
        len,
    } => {
        let base = match base {
            Base::Bottom => 0u64,
            Base::Middle => 0x7f00_0000_0000,
            Base::Top => u64::MAX - 200,
        };
        let regions = regions.iter().take(20).map(|&(guest, size, user)| Region {
            guest: GuestAddr(u64::from(guest) % (GUEST_BYTES - 256)),
            size: u64::from(size) + 1,
            // May wrap.
            user: UserAddr(base.wrapping_add(u64::from(user))),
        });
        let table = MemTable::new(regions.collect()).unwrap();
        let user = base.saturating_add(u64::from(at));
        check_way_back(&table, user, u64::from(len));
    }
});
