// SPDX-License-Identifier: GPL-2.0

//! Split rings: the device writes the used ring.

use std::collections::BTreeSet;

use vring::{
    ByteOrder, CompleteWork, DirtyLog, Fault, GuestAddr, Iotlb, IotlbEntry, KickControl, Mapping,
    Mediated, Notes, Permission, RawUsed, RingAddrs, SplitRing, Unmapped, UserAddr,
};

use super::LOG;
use crate::mock::{table, MockMemory, Op, Ram};
use crate::oracle::PAGE;

const SIZE: u16 = 128;
/// IO virtual addresses of the ring.
const RING: RingAddrs = RingAddrs {
    desc: UserAddr(0x1_0000),
    avail: UserAddr(0x2_0000),
    used: UserAddr(0x3_0000),
};
/// User addresses of the parts of the ring that are in one piece.
const DESC: u64 = 0x7100_0000_0000;
const AVAIL: u64 = 0x7200_0000_0000;
/// User address of the pieces of the used ring, each on a page of its own.
const USED: u64 = 0x7300_0000_0000;
/// Guest address of those pages.
const USED_GUEST: u64 = 0x100_0000;
/// Entries of a batch.
const BATCH: u16 = 80;

type Memory<'a> = Mediated<'a, MockMemory, Ram, Vec<IotlbEntry>>;

/// The used ring cut into pieces, and the place of each byte.
struct Used {
    /// Bytes of a piece.
    piece: u64,
    /// Whether the pieces are contiguous in user space as well.
    joined: bool,
}

impl Used {
    /// User address of the byte at `offset`.
    fn user(&self, offset: u64) -> u64 {
        if self.joined {
            return USED + offset;
        }
        let pieces = self.pieces();
        // Adjacent pieces are neither on adjacent pages nor in the same order.
        let page = (offset / self.piece * 7 + 3) % pieces;
        USED + page * PAGE + offset % self.piece
    }

    /// Number of pieces, coprime with seven.
    fn pieces(&self) -> u64 {
        let pieces = (6 + 8 * u64::from(SIZE)).div_ceil(self.piece);
        pieces + u64::from(pieces % 7 == 0)
    }

    /// Pages of guest memory that the bytes from `offset` on lie in.
    fn pages(&self, offset: u64, len: u64) -> impl Iterator<Item = u64> + '_ {
        let page = |user: u64| (user - USED + USED_GUEST) / PAGE;
        (offset..offset + len).map(move |at| page(self.user(at)))
    }

    /// A table of mappings for the whole ring.
    fn iotlb(&self) -> Iotlb<Vec<IotlbEntry>> {
        let mut iotlb = Iotlb::new(vec![IotlbEntry::default(); 3000]);
        let mut map = |iova: UserAddr, size, user, permission| {
            let mapping = Mapping::new(GuestAddr(iova.0), size, UserAddr(user), permission);
            iotlb.update(mapping.unwrap()).unwrap();
        };
        map(RING.desc, 16 * u64::from(SIZE), DESC, Permission::READ);
        map(RING.avail, 6 + 2 * u64::from(SIZE), AVAIL, Permission::READ);
        for piece in 0..self.pieces() {
            let offset = piece * self.piece;
            let iova = RING.used.wrapping_add(offset);
            map(iova, self.piece, self.user(offset), Permission::READ_WRITE);
        }
        iotlb
    }

    /// The `len` bytes of the ring at `offset`.
    fn peek(&self, memory: &MockMemory, offset: u64, len: u64) -> Vec<u8> {
        let bytes = (offset..offset + len).flat_map(|at| memory.peek(self.user(at), 1));
        bytes.collect()
    }
}

fn ram() -> Ram {
    Ram(table(&[(USED_GUEST, 0x900 * PAGE, USED)]))
}

/// The ring's memory, with a log of writes to the used ring.
fn memory<'a>(ram: &'a Ram, iotlb: &'a Iotlb<Vec<IotlbEntry>>, used: &Used) -> Memory<'a> {
    let memory = MockMemory::default();
    memory.map(DESC, 16 * usize::from(SIZE));
    memory.map(AVAIL, 6 + 2 * usize::from(SIZE));
    let len = if used.joined {
        2 * PAGE
    } else {
        used.pieces() * PAGE
    };
    memory.map(USED, len as usize);
    memory.map(LOG, (USED_GUEST / PAGE / 8) as usize + 0x200);
    Mediated {
        memory,
        table: ram,
        iotlb: Some(iotlb),
        log: DirtyLog {
            base: UserAddr(LOG),
            buffers: false,
            used: Some(GuestAddr(0)),
        },
        order: ByteOrder::Little,
        ring: RING,
        notes: Notes::default(),
    }
}

/// A ring that has been started, with its next used entry at `index`.
fn started(memory: &Memory<'_>, used: &Used, index: u16) -> SplitRing {
    let mut ring = SplitRing::default();
    assert!(ring.set_size(u32::from(SIZE)));
    ring.set_features(true, false);
    ring.set_addrs(RING);
    for (at, byte) in (2..).zip(index.to_le_bytes()) {
        memory.memory.poke(used.user(at), &[byte]);
    }
    ring.start(&memory).unwrap();
    let _ = take_pages(&memory.memory);
    memory.memory.take_log();
    ring
}

/// Returns the logged pages, and clears them in the log.
fn take_pages(memory: &MockMemory) -> BTreeSet<u64> {
    super::take_pages(memory, USED_GUEST / PAGE)
}

fn batch() -> Vec<RawUsed> {
    let ids = 0..BATCH;
    ids.map(|id| SplitRing::used_entry(id, 1, 1000 + u32::from(id)))
        .collect()
}

/// Offset and length of each write of a batch from `index` on, element by element, then the index.
fn written(index: u16) -> Vec<(u64, u64)> {
    let slots = (0..BATCH).map(|step| index.wrapping_add(step) % SIZE);
    let elements = slots.map(|slot| (4 + 8 * u64::from(slot), 8));
    elements.chain([(2, 2)]).collect()
}

/// The pages that contain any of `parts`.
fn pages_of(used: &Used, parts: &[(u64, u64)]) -> BTreeSet<u64> {
    let pages = parts.iter().flat_map(|&(at, len)| used.pages(at, len));
    pages.collect()
}

/// Ways of cutting the ring.
fn cuts() -> impl Iterator<Item = Used> {
    let pieces = [2, 4, 6, 8, 24, 4096];
    let cut = |piece| [false, true].map(|joined| Used { piece, joined });
    pieces.into_iter().flat_map(cut)
}

#[test]
fn each_piece_of_a_batch_is_logged() {
    for used in cuts() {
        // From the start, and across the end of the ring.
        for index in [0u16, 0xffff - 30] {
            let (ram, iotlb) = (ram(), used.iotlb());
            let memory = memory(&ram, &iotlb, &used);
            let mut ring = started(&memory, &used, index);
            ring.complete(&&memory, &batch()).unwrap();
            let parts = written(index);
            let logged = take_pages(&memory.memory);
            assert_eq!(logged, pages_of(&used, &parts), "pieces of {}", used.piece);
            assert!(memory.notes.logged());
            assert_eq!(memory.notes.unlogged(), None);
            for ((at, len), entry) in parts.iter().zip(batch()) {
                let bytes = entry.map(u32::to_ne_bytes).concat();
                assert_eq!(used.peek(&memory.memory, *at, *len), bytes);
            }
        }
    }
}

#[test]
fn pieces_that_follow_each_other_are_logged_at_once() {
    let used = Used {
        piece: 4,
        joined: true,
    };
    let (ram, iotlb) = (ram(), used.iotlb());
    let memory = memory(&ram, &iotlb, &used);
    let mut ring = started(&memory, &used, 0);
    ring.complete(&&memory, &batch()).unwrap();
    let set = |op: &Op| matches!(op, Op::SetBits(..));
    let words = memory.memory.take_log().iter().filter(|op| set(op)).count();
    assert_eq!(words, 2, "elements and index");
}

#[test]
fn wishes_are_logged_where_they_are_written() {
    for event_idx in [false, true] {
        for used in cuts() {
            let (ram, iotlb) = (ram(), used.iotlb());
            let memory = memory(&ram, &iotlb, &used);
            let mut ring = started(&memory, &used, 0);
            ring.set_features(event_idx, false);
            let _ = ring.enable_kick(&&memory).unwrap();
            let event = 4 + 8 * u64::from(SIZE);
            let at = if event_idx { event } else { 0 };
            let logged = take_pages(&memory.memory);
            assert_eq!(logged, pages_of(&used, &[(at, 2)]));
        }
    }
}

/// Completes a batch that cannot be written as a whole; returns what was logged, and the fault.
fn complete_in_part(memory: &Memory<'_>, used: &Used) -> (BTreeSet<u64>, Fault) {
    let mut ring = started(memory, used, 0);
    let fault = ring.complete(&memory, &batch()).unwrap_err();
    (take_pages(&memory.memory), fault)
}

#[test]
fn what_was_written_before_memory_failed_is_logged() {
    let used = Used {
        piece: 4,
        joined: false,
    };
    for (element, half) in [(0, 0), (0, 4), (40, 0), (79, 4)] {
        let (ram, iotlb) = (ram(), used.iotlb());
        let memory = memory(&ram, &iotlb, &used);
        let at = 4 + 8 * element + half;
        memory.memory.punch(used.user(at), 4);
        let (logged, fault) = complete_in_part(&memory, &used);
        // The last element may have been written in part.
        let parts = [(4, at)];
        assert_eq!(logged, pages_of(&used, &parts), "{element} {half}");
        assert!(matches!(fault, Fault::Unmapped(_)), "{fault:?}");
        assert_eq!(memory.notes.unlogged(), None);
    }
}

#[test]
fn what_was_written_before_a_translation_was_missed_is_logged() {
    let used = Used {
        piece: 4,
        joined: false,
    };
    for element in [0, 1, 17, 79] {
        let (ram, mut iotlb) = (ram(), used.iotlb());
        let at = 4 + 8 * element;
        let missing = GuestAddr(RING.used.0 + at);
        iotlb.invalidate(missing, 1).unwrap();
        let memory = memory(&ram, &iotlb, &used);
        let (logged, fault) = complete_in_part(&memory, &used);
        assert_eq!(logged, pages_of(&used, &[(4, at - 4)]), "{element}");
        let miss = memory.notes.missed(fault).map(|miss| miss.addr);
        assert_eq!(miss, Some(missing));
    }
}

#[test]
fn a_piece_that_cannot_be_logged_is_told_of() {
    let used = Used {
        piece: 4,
        joined: false,
    };
    let log = |page: u64| LOG + page / 8;
    // For each piece of a batch in turn, and for the index, the log is not mapped at its page, or
    // the page is not guest memory.
    for (at, len) in [(4, 4), (8, 4), (4 + 8 * 79 + 4, 4), (2, 2)] {
        for hole in [false, true] {
            let page = used.pages(at, len).next().unwrap();
            let user = used.user(at) & !(PAGE - 1);
            let mut regions = vec![(USED_GUEST, 0x900 * PAGE, USED)];
            if !hole {
                let end = USED_GUEST + 0x900 * PAGE;
                let next = (page + 1) * PAGE;
                regions = vec![
                    (USED_GUEST, user - USED, USED),
                    (next, end - next, user + PAGE),
                ];
                regions.retain(|(_, size, _)| *size > 0);
            }
            let (ram, iotlb) = (Ram(table(&regions)), used.iotlb());
            let mut memory = memory(&ram, &iotlb, &used);
            let mut ring = started(&memory, &used, 0);
            memory.notes = Notes::default();
            if hole {
                memory.memory.punch(log(page), 1);
            }
            ring.complete(&&memory, &batch()).unwrap();
            let unlogged = memory.notes.unlogged();
            assert!(
                matches!(unlogged, Some(Fault::Unlogged(_))),
                "{at} {hole}: {unlogged:?}"
            );
        }
    }
}

#[test]
fn without_an_iotlb_the_ring_is_logged_where_the_owner_said() {
    let used = Used {
        piece: 4096,
        joined: true,
    };
    let (ram, iotlb) = (ram(), used.iotlb());
    let mut memory = memory(&ram, &iotlb, &used);
    memory.iotlb = None;
    memory.ring = RingAddrs {
        desc: UserAddr(DESC),
        avail: UserAddr(AVAIL),
        used: UserAddr(USED),
    };
    // The end of the elements is on the next page.
    let at = USED_GUEST + 5 * PAGE - 400;
    memory.log.used = Some(GuestAddr(at));
    let mut ring = SplitRing::default();
    assert!(ring.set_size(u32::from(SIZE)));
    ring.set_addrs(memory.ring);
    ring.start(&&memory).unwrap();
    assert_eq!(take_pages(&memory.memory), [at / PAGE].into());
    memory.memory.take_log();
    ring.complete(&&memory, &batch()).unwrap();
    assert_eq!(
        take_pages(&memory.memory),
        [at / PAGE, at / PAGE + 1].into()
    );
    let log = memory.memory.take_log();
    let words = log.iter().filter(|op| matches!(op, Op::SetBits(..)));
    assert_eq!(words.count(), 2, "elements and index");
    assert_eq!(memory.notes.unlogged(), None);
    // The log is unmapped.
    memory.memory.punch(LOG, 1 << 20);
    ring.complete(&&memory, &batch()).unwrap();
    let word = LOG + (at / PAGE / 32) * 4;
    let unlogged = Fault::Unlogged(UserAddr(word));
    assert_eq!(memory.notes.unlogged(), Some(unlogged));
}

#[test]
fn a_field_that_is_cut_cannot_be_accessed() {
    // Both of its bytes are mapped, but cannot be written by one store.
    let used = Used {
        piece: 3,
        joined: false,
    };
    let (ram, iotlb) = (ram(), used.iotlb());
    let memory = memory(&ram, &iotlb, &used);
    let mut ring = SplitRing::default();
    assert!(ring.set_size(u32::from(SIZE)));
    ring.set_addrs(RING);
    let index = UserAddr(RING.used.0 + 2);
    assert_eq!(ring.start(&&memory), Err(Fault::Unmapped(Unmapped(index))));
}
