// SPDX-License-Identifier: GPL-2.0

//! The ring against rust-vmm's `virtio-queue` on the same guest memory.
//!
//! Both have to find the same chains, except for the [`Difference`]s. A third walk, [`trace`],
//! which is naive and shares no code with either, computes for every chain what each of them has to
//! find.

mod cases;
mod guest;
mod kicks;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use vring::{Desc, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, MAX_CHAIN_SEGMENTS};

use crate::mock::driver::desc_bytes;
use guest::{Found, Guest, AVAIL, DESC, RANGES, STRETCHES};

/// How `virtio-queue` 0.18 differs on purpose or by omission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    /// A chain with an error ends before the error, as if the driver had ended it there, and counts
    /// as taken: `DescriptorChain::next` returns `None` for every error.
    ///
    /// The ring refuses the whole chain and leaves it available.
    ErrorEndsChain,
    /// Addresses of buffers are not checked before the buffer is used.
    ///
    /// The ring translates them at once.
    BuffersUnchecked,
    /// A readable descriptor may follow a writable one, against virtio 1.3, section 2.7.4.2.
    AnyDirection,
    /// A chain ends with its first indirect table, even if the descriptor of the table has a
    /// `next`.
    ///
    /// A driver must not set both flags (2.7.5.3.1); the ring continues, as the in-tree vhost does.
    TableEndsChain,
    /// Limits: a chain ends before its bytes reach 2^32 (2.7.5.2), and a table has at most 2^16 - 1
    /// descriptors.
    ///
    /// The ring has no limit on bytes and takes 2^16 descriptors, as the in-tree vhost does; it
    /// limits the pieces of memory and the descriptors of a chain instead.
    Limits,
}

/// What each walk has to find.
struct Trace {
    ours: Option<Found>,
    /// For a chain that the ring finds: the descriptors read in its own table, and in all.
    slots: u16,
    descs: u32,
    theirs: Vec<Desc>,
    differences: BTreeSet<Difference>,
}

/// Computes what both have to find for the chain at `head`.
fn trace(guest: &Guest, head: u16) -> Trace {
    use Difference::*;
    let mut differences = BTreeSet::new();
    let mut theirs = Vec::new();
    // `None` from the ring's first fault on, or after the end of `virtio-queue`'s chain.
    let mut ours = Some(Found::new());
    let mut open = true;
    let mut bytes = 0u64;
    // Where to read next: the table, its length, the index, the steps left in it; and the place in
    // the ring's own table to return to.
    let (mut base, mut size, mut index, mut steps) = (
        DESC,
        u32::from(guest.size),
        u32::from(head),
        u32::from(guest.size),
    );
    let mut back: Option<(u64, u32, u32, u32)> = None;
    let (mut slots, mut descs) = (0, 0);
    loop {
        let entry = base.checked_add(16 * u64::from(index));
        let desc = match entry.and_then(|at| guest.desc_at(at)) {
            Some(desc) if index < size && steps > 0 => desc,
            // Head or `next` out of range, a loop, a table out of memory.
            _ => {
                differences.insert(ErrorEndsChain);
                ours = None;
                break;
            }
        };
        steps -= 1;
        slots += u16::from(back.is_none());
        descs += 1;
        let next = desc.flags & DESC_F_NEXT != 0;
        if desc.flags & DESC_F_INDIRECT != 0 {
            if back.is_some() || desc.len % 16 != 0 || desc.len == 0 || desc.len / 16 > 0x1_0000 {
                differences.insert(ErrorEndsChain);
                ours = None;
                break;
            }
            if desc.len / 16 == 0x1_0000 {
                differences.insert(Limits);
                open = false;
            }
            // If the descriptor that refers to the table has no `next`, nothing follows it in the
            // ring.
            let rest = if next { steps } else { u32::MAX };
            back = Some((base, size, u32::from(desc.next), rest));
            (base, size, index, steps) = (desc.addr, desc.len / 16, 0, desc.len / 16);
            continue;
        }
        bytes += u64::from(desc.len);
        if open && bytes > u64::from(u32::MAX) {
            differences.insert(Limits);
            open = false;
        }
        if open {
            theirs.push(desc);
        }
        let write = desc.flags & DESC_F_WRITE != 0;
        if let Some(found) = &mut ours {
            if !write && found.iter().any(|piece| piece.2) {
                differences.insert(AnyDirection);
                ours = None;
            } else if let Some(pieces) = guest.pieces(&desc) {
                found.extend(pieces.iter().map(|&(addr, len)| (addr, len, write)));
                if found.len() > MAX_CHAIN_SEGMENTS {
                    differences.insert(Limits);
                    ours = None;
                }
            } else {
                differences.insert(BuffersUnchecked);
                ours = None;
            }
        }
        if next {
            index = u32::from(desc.next);
            continue;
        }
        match back.take() {
            Some((.., u32::MAX)) | None => break,
            Some(ring) => {
                (base, size, index, steps) = ring;
                if open {
                    differences.insert(TableEndsChain);
                }
                open = false;
            }
        }
    }
    Trace {
        ours,
        slots,
        descs,
        theirs,
        differences,
    }
}

/// Compares the three walks of the chain at `head`; returns the differences met.
fn compare(guest: &Guest, head: u16) -> BTreeSet<Difference> {
    guest.write(AVAIL + 2, &1u16.to_le_bytes());
    guest.write(AVAIL + 4, &head.to_le_bytes());
    let expect = trace(guest, head);
    let (ours, taken) = guest.ours();
    assert_eq!(taken, expect.ours.is_some());
    let ours = ours.map(|(chain, found)| {
        let cost = (chain.slots, chain.descs);
        assert_eq!(cost, (expect.slots, expect.descs), "what it cost");
        (chain.id, found)
    });
    let (theirs, taken) = guest.theirs();
    assert!(taken, "theirs is taken, errors or not");
    let (their_head, theirs) = theirs.unwrap();
    assert_eq!(their_head, head);
    assert_eq!(theirs, expect.theirs);
    if expect.differences.is_empty() {
        // Compare the two implementations directly.
        let pieces = theirs.iter().flat_map(|desc| {
            let write = desc.flags & DESC_F_WRITE != 0;
            let pieces = guest.pieces(desc).unwrap();
            pieces
                .into_iter()
                .map(move |(addr, len)| (addr, len, write))
        });
        assert_eq!(ours, Some((head, pieces.collect())));
    } else {
        assert_eq!(ours, expect.ours.map(|found| (head, found)));
    }
    expect.differences
}

/// An address, mostly in memory and often near the end of a region.
fn addr() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0x8000..0xf000u64,
        3 => 0x3fc0..0x4000u64,
        1 => 0x1_3fc0..0x1_4000u64,
        3 => 0x2_0000..0x2_3000u64,
        1 => prop_oneof![Just(u64::MAX), Just(u64::MAX - 15), 0x1_4000..0x2_0000u64],
    ]
}

/// A mostly valid descriptor among `count`; its `next` is the following one or any.
fn desc(position: u16, count: u16, indirect: u32) -> impl Strategy<Value = Desc> {
    let flags = prop_oneof![
        8 => Just(DESC_F_NEXT),
        3 => Just(0),
    ];
    let late = position > count / 2;
    let write = prop_oneof![20 => Just(late), 1 => Just(!late)];
    let len = prop_oneof![10 => 1..200u32, 2 => Just(0), 1 => any::<u32>(), 1 => Just(0x5000)];
    let next = prop_oneof![20 => Just(position + 1), 2 => 0..count + 2, 1 => any::<u16>()];
    let table = prop_oneof![12 => (1..5u32).prop_map(|n| n * 16), 1 => 0..40u32, 1 => any::<u32>()];
    let indirect = prop_oneof![10 => Just(false), indirect => Just(true)];
    (addr(), flags, write, len, next, indirect, table).prop_map(
        |(addr, more, write, len, next, indirect, table)| Desc {
            // All tables lie in the one place that holds descriptors.
            addr: if indirect {
                0x3fe8 + addr % 64 / 16 * 16
            } else {
                addr
            },
            len: if indirect { table } else { len },
            flags: more
                | if write { DESC_F_WRITE } else { 0 }
                | if indirect { DESC_F_INDIRECT } else { 0 },
            next,
        },
    )
}

fn descs(count: u16, indirect: u32) -> impl Strategy<Value = Vec<Desc>> {
    (0..count)
        .map(|position| desc(position, count, indirect))
        .collect::<Vec<_>>()
}

/// Whether a descriptor refers to a table that starts or ends outside memory: only then does it
/// show how far the ring reads ahead in a table.
///
/// See `cases::tables_are_read_ahead`.
fn table_out_of_memory(descs: &[Desc]) -> bool {
    descs.iter().any(|desc| {
        let end = desc.addr.checked_add(u64::from(desc.len));
        let inside = STRETCHES
            .iter()
            .any(|&(start, stop)| start <= desc.addr && end.is_some_and(|end| end <= stop));
        let sound = desc.len % 16 == 0 && desc.len <= 0x10_0000;
        desc.flags & DESC_F_INDIRECT != 0 && sound && !inside
    })
}

#[test]
fn random_chains_are_found_alike() {
    let mut runner = TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(1500)
    });
    let guest = Guest::new(16, &RANGES);
    let strategy = (descs(16, 3), descs(9, 1), 0..17u16);
    let seen = RefCell::new(BTreeMap::new());
    runner
        .run(&strategy, |(ring, table, head)| {
            prop_assume!(!table_out_of_memory(&ring));
            let bytes = |descs: &[Desc]| {
                descs
                    .iter()
                    .flat_map(|d| desc_bytes(*d))
                    .collect::<Vec<_>>()
            };
            guest.write(DESC, &bytes(&ring));
            guest.write(0x3fe8, &bytes(&table));
            *seen.borrow_mut().entry(compare(&guest, head)).or_insert(0) += 1;
            Ok(())
        })
        .unwrap();
    // The run proves something only if agreement and each difference occur often.
    let seen = seen.into_inner();
    let alike = seen.get(&BTreeSet::new()).copied().unwrap_or(0);
    assert!(alike > 150, "{seen:?}");
    for difference in [
        Difference::ErrorEndsChain,
        Difference::BuffersUnchecked,
        Difference::AnyDirection,
        Difference::TableEndsChain,
    ] {
        let met = seen.iter().filter(|(set, _)| set.contains(&difference));
        assert!(met.map(|(_, count)| count).sum::<i32>() > 10, "{seen:?}");
    }
}
