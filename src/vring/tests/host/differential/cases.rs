// SPDX-License-Identifier: GPL-2.0

//! Each difference by itself: the first case that differs, and the last that agrees.

use vring::{Desc, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};

use super::guest::{Guest, AVAIL, DESC, RANGES};
use super::{compare, Difference};
use crate::mock::driver::desc_bytes;
use crate::mock::Buf;

/// Writes a ring of `size` and compares the chain at 0.
fn differences(size: u16, descs: &[(u16, Desc)], tables: &[(u64, Desc)]) -> Vec<Difference> {
    let guest = Guest::new(size, &RANGES);
    for (index, desc) in descs {
        guest.write(DESC + 16 * u64::from(*index), &desc_bytes(*desc));
    }
    for (at, desc) in tables {
        guest.write(*at, &desc_bytes(*desc));
    }
    compare(&guest, 0).into_iter().collect()
}

fn indirect(addr: u64, len: u32) -> Desc {
    Desc {
        addr,
        len,
        flags: DESC_F_INDIRECT,
        next: 0,
    }
}

const READ: Buf = Buf::read(0x8000, 8);
const WRITE: Buf = Buf::write(0x9000, 8);

#[test]
fn sound_chains_make_no_difference() {
    let none: Vec<Difference> = Vec::new();
    let direct = [(0, READ.desc(Some(3))), (3, WRITE.desc(None))];
    assert_eq!(differences(4, &direct, &[]), none);
    let table = [
        (0x3ff8, READ.desc(Some(2))),
        (0x4008, WRITE.desc(None)),
        (0x4018, WRITE.desc(Some(1))),
    ];
    let mixed = [(0, READ.desc(Some(1))), (1, indirect(0x3ff8, 48))];
    assert_eq!(differences(4, &mixed, &table), none);
    // Both ignore the write flag of the descriptor that refers to a table.
    let mut write = indirect(0x3ff8, 48);
    write.flags |= DESC_F_WRITE;
    assert_eq!(differences(4, &[(0, write)], &table), none);
}

#[test]
fn errors_end_the_chain() {
    let expect = [Difference::ErrorEndsChain];
    let first = (0, READ.desc(Some(1)));
    let nested = [(0x5000, READ.desc(Some(1))), (0x5010, indirect(0x6000, 16))];
    for (second, tables) in [
        (READ.desc(Some(4)), &[][..]),
        (READ.desc(Some(0xffff)), &[]),
        (READ.desc(Some(0)), &[]),
        (indirect(0x5000, 0), &[]),
        (indirect(0x5000, 15), &[]),
        (indirect(0x5000, 0x10_0010), &[]),
        (indirect(0x1_5000, 16), &[]),
        (indirect(0x5000, 32), &nested),
        (indirect(0x5000, 16), &[(0x5000, READ.desc(Some(1)))]),
        (indirect(0x5000, 16), &[(0x5000, READ.desc(Some(0)))]),
    ] {
        assert_eq!(
            differences(4, &[first, (1, second)], tables),
            expect,
            "{second:?}"
        );
    }
    // A head out of range.
    let guest = Guest::new(4, &RANGES);
    assert_eq!(Vec::from_iter(compare(&guest, 4)), expect);
}

#[test]
fn buffers_are_not_checked() {
    let expect = [Difference::BuffersUnchecked];
    for buf in [
        Buf::read(0x1_4000, 1),
        Buf::read(0x1_3fff, 2),
        Buf::write(u64::MAX, 2),
    ] {
        assert_eq!(differences(4, &[(0, buf.desc(None))], &[]), expect);
    }
}

#[test]
fn directions_may_come_in_any_order() {
    let descs = [(0, WRITE.desc(Some(1))), (1, READ.desc(None))];
    assert_eq!(differences(4, &descs, &[]), [Difference::AnyDirection]);
}

#[test]
fn a_table_ends_the_chain() {
    let mut table = indirect(0x5000, 16);
    table.flags |= DESC_F_NEXT;
    table.next = 2;
    let descs = [(0, table), (2, WRITE.desc(None))];
    let tables = [(0x5000, READ.desc(None))];
    assert_eq!(
        differences(4, &descs, &tables),
        [Difference::TableEndsChain]
    );
}

#[test]
fn limits_differ() {
    let expect = [Difference::Limits];
    // The limit on bytes: five times the same GiB, none of which is accessed.
    let big = [(0, 0x1_0000), (0x4000_0000, 1 << 30)];
    for (count, limit) in [(3u16, false), (4, true), (5, true)] {
        let guest = Guest::new(8, &big);
        for index in 0..count {
            let next = (index + 1 < count).then_some(index + 1);
            let desc = Buf::write(0x4000_0000, 1 << 30).desc(next);
            guest.write(DESC + 16 * u64::from(index), &desc_bytes(desc));
        }
        assert_eq!(!compare(&guest, 0).is_empty(), limit, "{count} GiB");
    }
    // The limit on entries of a table.
    let large = [(0, 0x4000), (0x10_0000, 1 << 20)];
    for (len, limit) in [(0xf_fff0, false), (0x10_0000, true)] {
        let guest = Guest::new(8, &large);
        guest.write(DESC, &desc_bytes(indirect(0x10_0000, len)));
        let desc = Buf::read(0x3000, 1).desc(None);
        guest.write(0x10_0000, &desc_bytes(desc));
        let found = compare(&guest, 0);
        assert_eq!(!found.is_empty(), limit, "{len:#x}");
    }
    // The limit on pieces of a chain.
    for (count, limit) in [(1024u16, false), (1025, true)] {
        let guest = Guest::new(8, &RANGES);
        guest.write(DESC, &desc_bytes(indirect(0x4000, u32::from(count) * 16)));
        for index in 0..count {
            let next = (index + 1 < count).then_some(index + 1);
            let desc = Buf::read(0x8000, 1).desc(next);
            guest.write(0x4000 + 16 * u64::from(index), &desc_bytes(desc));
        }
        let found = Vec::from_iter(compare(&guest, 0));
        assert_eq!(found, if limit { &expect[..] } else { &[] }, "{count}");
    }
}

/// The ring reads a table sixteen descriptors at a time and needs each such window of the declared
/// table to be in memory; `virtio-queue` reads one at a time and never notices.
#[test]
fn tables_are_read_ahead() {
    let guest = Guest::new(4, &RANGES);
    let last = 0x1_4000 - 16;
    guest.write(last, &desc_bytes(READ.desc(None)));
    for (len, found) in [(16, true), (32, false)] {
        guest.write(DESC, &desc_bytes(indirect(last, len)));
        guest.write(AVAIL + 2, &1u16.to_le_bytes());
        guest.write(AVAIL + 4, &[0, 0]);
        assert_eq!(guest.ours().0.is_some(), found);
        let (theirs, _) = guest.theirs();
        assert_eq!(theirs.unwrap().1, [READ.desc(None)]);
    }
}

#[test]
fn available_indexes_are_checked_alike() {
    for (index, sound) in [
        (0u16, true),
        (1, true),
        (8, true),
        (9, false),
        (0xffff, false),
    ] {
        let guest = Guest::new(8, &RANGES);
        guest.write(DESC, &desc_bytes(READ.desc(None)));
        guest.write(AVAIL + 2, &index.to_le_bytes());
        let found = sound && index > 0;
        let (ours, taken) = guest.ours();
        let ours = ours.map(|(chain, found)| (chain.id, found));
        assert_eq!(ours, found.then(|| (0, vec![(0x8000, 8, false)])));
        assert_eq!(taken, found);
        assert_eq!(
            guest.theirs(),
            (found.then(|| (0, vec![READ.desc(None)])), found)
        );
    }
}
