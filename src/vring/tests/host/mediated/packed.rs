// SPDX-License-Identifier: GPL-2.0

//! Packed rings: the device writes the descriptors and its event.

use std::collections::BTreeSet;

use vring::{
    Access, ByteOrder, CompleteWork, DirtyLog, Fault, GetWork, GuestAddr, Iotlb, IotlbEntry,
    KickControl, Mapping, Mediated, MemTable, Notes, PackedRing, Permission, Position, Region,
    RingAddrs, Segment, Segments, Unmapped, UserAddr, DESC_F_NEXT,
};

use super::{take_pages, LOG};
use crate::mock::packed::packed_bytes;
use crate::mock::{table, Buf, MockMemory, Op, Ram};
use crate::oracle::PAGE;

/// Not a power of two, and not a whole number of pages.
const SIZE: u16 = 700;
const RING_LEN: u64 = 16 * SIZE as u64;
/// Pages of the ring.
const PAGES: u64 = RING_LEN.div_ceil(PAGE);
/// IO virtual addresses of the ring.
const RING: RingAddrs = RingAddrs {
    desc: UserAddr(0x1_0000),
    avail: UserAddr(0x2_0000),
    used: UserAddr(0x3_0000),
};
/// User addresses of the pages of the ring, which are not contiguous, and of the events.
const PLACES: [u64; PAGES as usize] = [0x7103_0000_0000, 0x7101_0000_0000, 0x7102_0000_0000];
const DRIVER: u64 = 0x7200_0000_0000;
const DEVICE: u64 = 0x7300_0000_0000;
/// Base of the guest addresses of these pages.
const GUEST: u64 = 0x100_0000;
const PLACE_PAGES: [u64; PAGES as usize] = [GUEST / PAGE + 5, GUEST / PAGE + 1, GUEST / PAGE + 9];
const DEVICE_PAGE: u64 = GUEST / PAGE + 20;

type Memory<'a> = Mediated<'a, MockMemory, Ram, Vec<IotlbEntry>>;

/// The memory table: every page is a region of its own.
fn ram() -> Ram {
    let mut regions: Vec<_> = PLACES
        .iter()
        .zip(PLACE_PAGES)
        .map(|(user, page)| (page * PAGE, PAGE, *user))
        .collect();
    regions.push((DEVICE_PAGE * PAGE, PAGE, DEVICE));
    regions.push((0, 0x1_0000, 0x7500_0000_0000));
    Ram(table(&regions))
}

/// Mappings of all parts of the ring; that of the descriptors has `permission`.
fn iotlb(permission: Permission) -> Iotlb<Vec<IotlbEntry>> {
    let mut iotlb = Iotlb::new(vec![IotlbEntry::default(); 20]);
    let mut map = |iova: u64, size, user, permission| {
        let mapping = Mapping::new(GuestAddr(iova), size, UserAddr(user), permission);
        iotlb.update(mapping.unwrap()).unwrap();
    };
    for (page, user) in (0..).zip(PLACES) {
        map(RING.desc.0 + page * PAGE, PAGE, user, permission);
    }
    map(RING.avail.0, 4, DRIVER, Permission::READ);
    map(RING.used.0, 4, DEVICE, Permission::READ_WRITE);
    iotlb
}

fn mock() -> MockMemory {
    let memory = MockMemory::default();
    for place in PLACES {
        memory.map(place, PAGE as usize);
    }
    memory.map(DRIVER, 4);
    memory.map(DEVICE, 4);
    memory.map(LOG, (GUEST / PAGE / 8) as usize + 0x300);
    memory
}

/// The ring's memory, with a log of writes to the ring, whose device area is logged at guest
/// address `area`.
fn memory<'a>(
    ram: &'a Ram,
    iotlb: Option<&'a Iotlb<Vec<IotlbEntry>>>,
    area: Option<GuestAddr>,
) -> Memory<'a> {
    Mediated {
        memory: mock(),
        table: ram,
        iotlb,
        log: DirtyLog {
            base: UserAddr(LOG),
            buffers: false,
            used: area,
        },
        order: ByteOrder::Little,
        ring: RING,
        notes: Notes::default(),
    }
}

/// User address of the descriptor at `offset`.
fn desc_at(offset: u16) -> u64 {
    let at = 16 * u64::from(offset);
    PLACES[(at / PAGE) as usize] + at % PAGE
}

/// Makes one-buffer chains available from `at` on.
fn offer(memory: &MockMemory, at: Position, count: u16) {
    for step in 0..count {
        let at = at.advance(SIZE, step);
        let desc = Buf::read(u64::from(step) * 16, 16).desc(None);
        memory.poke(desc_at(at.offset()), &packed_bytes(desc, step, at.wrap()));
    }
}

fn start(memory: &Memory<'_>, addrs: RingAddrs, at: Position) -> PackedRing {
    let mut ring = PackedRing::default();
    assert!(ring.set_size(u32::from(SIZE)));
    ring.set_features(true);
    ring.set_addrs(addrs);
    ring.set_base(u32::from(at.bits()) * 0x1_0001);
    ring.start(&memory).unwrap();
    ring
}

fn next(ring: &mut PackedRing, memory: &Memory<'_>) -> Result<Option<u16>, Fault> {
    let table: MemTable<Vec<Region>> = table(&[(0, 0x10_0000, 0x7500_0000_0000)]);
    let mut storage = [Segment::default(); 4];
    let chain = ring.next_chain(&memory, &table, &mut Segments::new(&mut storage))?;
    Ok(chain.map(|chain| chain.id))
}

fn logged(memory: &Memory<'_>) -> BTreeSet<u64> {
    take_pages(&memory.memory, GUEST / PAGE)
}

/// Pages of the descriptors at some offsets.
fn pages(offsets: impl Iterator<Item = u16>) -> BTreeSet<u64> {
    offsets
        .map(|offset| PLACE_PAGES[(16 * u64::from(offset) / PAGE) as usize])
        .collect()
}

#[test]
fn descriptors_are_read_and_written_where_they_are_and_logged_there() {
    // Within a page, across the pages, and across the end of the ring.
    for (first, count) in [(0, 5), (200, 100), (250, 270), (690, 40)] {
        for slots in [1u16, 2] {
            let (ram, iotlb) = (ram(), iotlb(Permission::READ_WRITE));
            // With an IOTLB the log address of the device area is not used.
            let memory = memory(&ram, Some(&iotlb), Some(GuestAddr(0)));
            let at = Position::START.advance(SIZE, first);
            let mut ring = start(&memory, RING, at);
            assert_eq!(logged(&memory), [DEVICE_PAGE].into(), "the event");
            offer(&memory.memory, at, count);
            for id in 0..count {
                assert_eq!(next(&mut ring, &memory), Ok(Some(id)));
            }
            assert_eq!(next(&mut ring, &memory), Ok(None));
            assert_eq!(logged(&memory), [].into(), "nothing was written");

            // One used descriptor for each chain of `slots` descriptors.
            let used: Vec<_> = (0..count / slots)
                .map(|id| PackedRing::used_entry(id, slots, u32::from(id)))
                .collect();
            ring.complete(&&memory, &used).unwrap();
            assert_eq!(memory.notes.unlogged(), None);
            let written = (0..count / slots).map(|id| at.advance(SIZE, id * slots));
            let offsets = written.clone().map(Position::offset);
            assert_eq!(logged(&memory), pages(offsets), "{first} {count} {slots}");
            for (id, at) in (0u16..).zip(written) {
                let word = memory.memory.peek(desc_at(at.offset()) + 8, 8);
                let used = if at.wrap() { 0x8080 } else { 0 };
                let write = if id == 0 { 0 } else { 2 };
                let expect = u64::from(id) << 32 | u64::from(id) | (used | write) << 48;
                assert_eq!(word, expect.to_le_bytes());
            }
        }
    }
}

#[test]
fn the_first_of_a_batch_is_stored_last_and_released() {
    let (ram, iotlb) = (ram(), iotlb(Permission::READ_WRITE));
    let memory = memory(&ram, Some(&iotlb), None);
    let at = Position::START.advance(SIZE, 254);
    let mut ring = start(&memory, RING, at);
    offer(&memory.memory, at, 4);
    for id in 0..4 {
        assert_eq!(next(&mut ring, &memory), Ok(Some(id)));
    }
    memory.memory.take_log();
    let used = [0, 1, 2, 3].map(|id| PackedRing::used_entry(id, 1, 0));
    ring.complete(&&memory, &used).unwrap();
    let log = memory.memory.take_log();
    let stores: Vec<_> = log
        .iter()
        .filter_map(|op| match op {
            Op::StoreDesc { at, .. } => Some(at.0),
            _ => None,
        })
        .collect();
    assert_eq!(stores, [255, 256, 257, 254].map(desc_at));
    assert!(matches!(
        log.last(),
        Some(Op::StoreDesc { release: true, .. })
    ));
    assert_eq!(logged(&memory), [].into(), "nobody asked for it");
}

#[test]
fn without_an_iotlb_descriptors_are_logged_by_translation_and_the_event_as_told() {
    let place = 0x7100_0000_0000;
    let guest = GUEST + 3 * PAGE;
    let ram = Ram(table(&[
        (guest, 4 * PAGE, place),
        (DEVICE_PAGE * PAGE, PAGE, DEVICE),
        // The same memory at a second guest address, as some guests have it.
        (GUEST + 40 * PAGE, 4 * PAGE, place),
    ]));
    let addrs = RingAddrs {
        desc: UserAddr(place + 0x100),
        avail: UserAddr(DRIVER),
        used: UserAddr(DEVICE),
    };
    let area = GUEST + 30 * PAGE + 8;
    let mut memory = memory(&ram, None, Some(GuestAddr(area)));
    memory.memory.map(place, 4 * PAGE as usize);
    memory.ring = addrs;
    let mut ring = start(&memory, addrs, Position::START);
    assert_eq!(logged(&memory), [area / PAGE].into());
    let _ = ring.enable_kick(&&memory).unwrap();
    assert_eq!(logged(&memory), [area / PAGE].into());
    let used: Vec<_> = (0..300)
        .map(|id| PackedRing::used_entry(id, 1, 9))
        .collect();
    ring.complete(&&memory, &used).unwrap();
    let pages = [guest, GUEST + 40 * PAGE].map(|first| [first / PAGE, first / PAGE + 1]);
    assert_eq!(logged(&memory), pages.concat().into_iter().collect());
    assert_eq!(memory.notes.unlogged(), None);
}

#[test]
fn a_ring_that_is_no_guest_memory_cannot_be_logged() {
    let iotlb = iotlb(Permission::READ_WRITE);
    let ram = Ram(table(&[(DEVICE_PAGE * PAGE, PAGE, DEVICE)]));
    let memory = memory(&ram, Some(&iotlb), Some(GuestAddr(0)));
    let mut ring = start(&memory, RING, Position::START);
    assert_eq!(memory.notes.unlogged(), None);
    ring.complete(&&memory, &[PackedRing::used_entry(0, 1, 0)])
        .unwrap();
    let at = UserAddr(PLACES[0]);
    assert_eq!(memory.notes.unlogged(), Some(Fault::Unlogged(at)));
}

#[test]
fn a_miss_asks_for_leave_to_write() {
    let ram = ram();
    let extents = start(
        &memory(&ram, Some(&iotlb(Permission::READ_WRITE)), None),
        RING,
        Position::START,
    )
    .extents();
    for page in 0..PAGES {
        let mut iotlb = iotlb(Permission::READ_WRITE);
        let missing = GuestAddr(RING.desc.0 + page * PAGE);
        iotlb.invalidate(missing, 1).unwrap();
        let memory = memory(&ram, Some(&iotlb), None);
        let fault = memory
            .prefetch(extents, PackedRing::DESC_ACCESS)
            .unwrap_err();
        let miss = memory.notes.missed(fault).unwrap();
        assert_eq!((miss.addr, miss.access), (missing, Access::Write));
    }
    // A round that passed the check completes.
    let iotlb = iotlb(Permission::READ_WRITE);
    let memory = memory(&ram, Some(&iotlb), None);
    assert_eq!(memory.prefetch(extents, PackedRing::DESC_ACCESS), Ok(()));
}

#[test]
fn the_ring_has_to_be_readable_and_writable() {
    let ram = ram();
    let extents = [RING_LEN, 4, 4];
    for permission in [Permission::READ, Permission::WRITE] {
        let iotlb = iotlb(permission);
        let memory = memory(&ram, Some(&iotlb), None);
        let denied = Fault::Denied { addr: RING.desc.0 };
        let fault = memory.prefetch(extents, PackedRing::DESC_ACCESS);
        assert_eq!(fault, Err(denied));
    }
}

#[test]
fn a_descriptor_that_is_cut_cannot_be_accessed() {
    let ram = ram();
    let mut iotlb = iotlb(Permission::READ_WRITE);
    // The second half of the second descriptor is mapped elsewhere.
    let iova = GuestAddr(RING.desc.0 + 24);
    let half = Mapping::new(iova, 8, UserAddr(PLACES[1]), Permission::READ_WRITE);
    iotlb.update(half.unwrap()).unwrap();
    let memory = memory(&ram, Some(&iotlb), None);
    let mut ring = start(&memory, RING, Position::START);
    let desc = Buf::read(0, 16).desc(Some(0));
    assert!(desc.flags & DESC_F_NEXT != 0);
    memory.memory.poke(PLACES[0], &packed_bytes(desc, 0, true));
    let fault = Fault::Unmapped(Unmapped(UserAddr(RING.desc.0 + 16)));
    assert_eq!(next(&mut ring, &memory), Err(fault));
    assert_eq!(ring.base(), 0x8000_8000);
}

#[test]
fn a_batch_of_which_a_page_is_away_writes_and_logs_nothing() {
    for place in PLACES {
        let (ram, iotlb) = (ram(), iotlb(Permission::READ_WRITE));
        let memory = memory(&ram, Some(&iotlb), Some(GuestAddr(0)));
        let mut ring = start(&memory, RING, Position::START);
        let count = 600;
        offer(&memory.memory, Position::START, count);
        for id in 0..count {
            assert_eq!(next(&mut ring, &memory), Ok(Some(id)));
        }
        let _ = logged(&memory);
        let image = || PLACES.map(|place| memory.memory.peek(place, PAGE as usize));
        let before = image();
        memory.memory.punch(place, PAGE);
        let used: Vec<_> = (0..count)
            .map(|id| PackedRing::used_entry(id, 1, 1))
            .collect();
        let fault = ring.complete(&&memory, &used);
        assert!(matches!(fault, Err(Fault::Unmapped(_))));
        assert!(image() == before);
        assert_eq!(logged(&memory), [].into());
        memory.memory.mend();
        ring.complete(&&memory, &used).unwrap();
        assert_eq!(logged(&memory), PLACE_PAGES.into());
    }
}
