// SPDX-License-Identifier: GPL-2.0

//! A big-endian ring, as of a legacy device of a big-endian guest.

use vring::{
    ByteOrder, CompleteWork, Desc, GetWork, KickControl, LoadMemory, Memory, Position, RawDesc,
    RawUsed, Segment, Segments, SplitRing, Unmapped, UserAddr, DESC_F_INDIRECT, DESC_F_NEXT,
    DESC_F_WRITE, DESC_SIZE,
};

use crate::mock::{good_indexes, segment, table, MockMemory, PLACE};

const BIG: ByteOrder = ByteOrder::Big;
const SIZE: u16 = 4;

/// Memory whose values are big-endian.
struct BigEndian<'a>(&'a MockMemory);

impl LoadMemory for BigEndian<'_> {
    fn load(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        self.0.load(addr).map(|raw| BIG.half(raw))
    }

    fn load_acquire(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        self.0.load_acquire(addr).map(|raw| BIG.half(raw))
    }

    fn load_available(
        &self,
        addr: UserAddr,
        wrap: bool,
        out: &mut [RawDesc],
    ) -> Result<usize, Unmapped> {
        self.0.load_available(addr, wrap, out)
    }

    fn load_event(&self, addr: UserAddr) -> Result<u32, Unmapped> {
        self.0.load_event(addr)
    }
}

impl Memory for BigEndian<'_> {
    fn store(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped> {
        self.0.store(addr, BIG.half(value))
    }

    fn store_release(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped> {
        self.0.store_release(addr, BIG.half(value))
    }

    fn load_entries(
        &self,
        ring: UserAddr,
        table: UserAddr,
        size: u16,
        indexes: &mut [u16],
        descs: &mut [RawDesc],
    ) -> Result<usize, Unmapped> {
        self.0.load_slice(ring, indexes)?;
        for index in indexes.iter_mut() {
            *index = BIG.half(*index);
        }
        let good = good_indexes(indexes, size);
        self.gather_descs(table, &indexes[..good], &mut descs[..good])?;
        Ok(good)
    }

    fn gather_descs(
        &self,
        table: UserAddr,
        indexes: &[u16],
        out: &mut [RawDesc],
    ) -> Result<(), Unmapped> {
        self.0.gather_descs(table, indexes, out)?;
        out.iter_mut().for_each(|raw| *raw = BIG.desc(*raw));
        Ok(())
    }

    fn load_descs(&self, addr: UserAddr, out: &mut [RawDesc]) -> Result<(), Unmapped> {
        self.0.load_descs(addr, out)?;
        out.iter_mut().for_each(|raw| *raw = BIG.desc(*raw));
        Ok(())
    }

    fn load_bytes(&self, addr: UserAddr, out: &mut [u8]) -> Result<(), Unmapped> {
        self.0.load_bytes(addr, out)
    }

    fn byte_order(&self) -> ByteOrder {
        BIG
    }

    fn store_used(&self, addr: UserAddr, used: &[RawUsed]) -> Result<(), Unmapped> {
        let used: Vec<_> = used.iter().map(|raw| BIG.used(*raw)).collect();
        self.0.store_used(addr, &used)
    }

    fn publish_packed(
        &self,
        ring: UserAddr,
        size: u16,
        at: Position,
        used: &[RawUsed],
    ) -> Result<Position, Unmapped> {
        self.0.publish_packed(ring, size, at, used)
    }

    fn touch(&self, addr: UserAddr) -> Result<(), Unmapped> {
        self.0.touch(addr)
    }

    fn store_event(&self, addr: UserAddr, value: u32) -> Result<(), Unmapped> {
        self.0.store_event(addr, value)
    }

    fn full_barrier(&self) {
        self.0.full_barrier();
    }
}

/// Bytes of a descriptor as a big-endian driver writes them.
fn desc_bytes(desc: Desc) -> Vec<u8> {
    let Desc {
        addr,
        len,
        flags,
        next,
    } = desc;
    let halves = [flags, next].map(u16::to_be_bytes).concat();
    [&addr.to_be_bytes()[..], &len.to_be_bytes()[..], &halves].concat()
}

fn desc(addr: u64, len: u32, flags: u16, next: u16) -> Desc {
    Desc {
        addr,
        len,
        flags,
        next,
    }
}

/// A started ring with event indexes, and its memory, whose descriptor table starts with `descs`.
fn machine(descs: &[Desc]) -> (MockMemory, SplitRing) {
    let memory = MockMemory::default();
    let mut ring = SplitRing::default();
    assert!(ring.set_size(u32::from(SIZE)));
    ring.set_features(true, false);
    ring.set_addrs(PLACE);
    let [desc, avail, used] = ring.extents().map(|len| len as usize);
    memory.map(PLACE.desc.0, desc);
    memory.map(PLACE.avail.0, avail);
    memory.map(PLACE.used.0, used);
    for (at, desc) in (PLACE.desc.0..).step_by(DESC_SIZE as usize).zip(descs) {
        memory.poke(at, &desc_bytes(*desc));
    }
    for ring in [PLACE.avail, PLACE.used] {
        memory.poke(ring.0 + 2, &0x1234u16.to_be_bytes());
    }
    ring.set_base(0x1234);
    ring.start(&BigEndian(&memory)).unwrap();
    (memory, ring)
}

/// Makes the chain that starts at `head` available, as the first one.
fn offer(memory: &MockMemory, head: u16) {
    let at = PLACE.avail.0 + 4 + 2 * u64::from(0x1234 % SIZE);
    memory.poke(at, &head.to_be_bytes());
    memory.poke(PLACE.avail.0 + 2, &0x1235u16.to_be_bytes());
}

#[test]
fn a_chain_goes_through_and_back() {
    let (memory, mut ring) = machine(&[
        desc(0, 0, 0, 0),
        desc(0x300, 0x20, DESC_F_WRITE, 0),
        desc(0x102, 0x10, DESC_F_NEXT, 1),
    ]);
    let big = BigEndian(&memory);
    let ram = table(&[(0, 0x1000, 0x7000)]);
    let mut storage = [Segment::default(); 8];
    let mut out = Segments::new(&mut storage);
    assert_eq!(ring.next_chain(&big, &ram, &mut out), Ok(None));
    assert_eq!(ring.enable_kick(&big), Ok(false));
    let event = PLACE.used.0 + 4 + 8 * u64::from(SIZE);
    assert_eq!(memory.peek(event, 2), 0x1234u16.to_be_bytes());

    offer(&memory, 2);
    assert_eq!(ring.enable_kick(&big), Ok(true));
    let chain = ring.next_chain(&big, &ram, &mut out).unwrap().unwrap();
    assert_eq!((chain.id, chain.len), (2, 0x30));
    assert_eq!((chain.readable, chain.writable), (1, 1));
    let expect = [segment(0x7102, 0x10), segment(0x7300, 0x20)];
    assert_eq!(out.as_slice(), expect);

    ring.complete(&big, &[SplitRing::used_entry(2, 1, 0x1f)])
        .unwrap();
    assert_eq!(memory.peek(PLACE.used.0 + 2, 2), 0x1235u16.to_be_bytes());
    let element = [2u32, 0x1f].map(u32::to_be_bytes).concat();
    let at = PLACE.used.0 + 4 + 8 * u64::from(0x1234 % SIZE);
    assert_eq!(memory.peek(at, 8), element);
}

#[test]
fn calls_follow_the_event_that_the_driver_names() {
    for (event, call) in [(0x1234u16, true), (0x1235, false), (0x1236, false)] {
        let (memory, mut ring) = machine(&[desc(0, 8, 0, 0)]);
        let big = BigEndian(&memory);
        assert!(ring.needs_call(&big));
        let at = PLACE.avail.0 + 4 + 2 * u64::from(SIZE);
        memory.poke(at, &event.to_be_bytes());
        ring.complete(&big, &[SplitRing::used_entry(0, 1, 0)])
            .unwrap();
        assert_eq!(ring.needs_call(&big), call, "{event:#x}");
    }
}

#[test]
fn an_indirect_table_may_be_cut_anywhere() {
    const TABLE: u64 = 0x4000;
    let buffers = [
        desc(0x102, 0x10, DESC_F_NEXT, 2),
        desc(0, 0, DESC_F_INDIRECT, 0),
        desc(0x300, 0x20, DESC_F_WRITE, 0),
    ];
    let bytes = buffers.map(desc_bytes).concat();
    for cut in 0..=bytes.len() {
        let len = bytes.len() as u32;
        let (memory, mut ring) = machine(&[desc(TABLE, len, DESC_F_INDIRECT, 0)]);
        let mut regions = vec![(0, 0x1000, 0x7000)];
        let parts = [(TABLE, 0x9_0000), (TABLE + cut as u64, 0x8_0000)];
        let (front, back) = bytes.split_at(cut);
        for ((guest, user), part) in parts.into_iter().zip([front, back]) {
            if !part.is_empty() {
                memory.map(user, part.len());
                memory.poke(user, part);
                regions.push((guest, part.len() as u64, user));
            }
        }
        offer(&memory, 0);
        let mut storage = [Segment::default(); 8];
        let mut out = Segments::new(&mut storage);
        let ram = table(&regions);
        let chain = ring.next_chain(&BigEndian(&memory), &ram, &mut out);
        assert_eq!(chain.unwrap().unwrap().len, 0x30, "cut at {cut}");
        let expect = [segment(0x7102, 0x10), segment(0x7300, 0x20)];
        assert_eq!(out.as_slice(), expect, "cut at {cut}");
    }
}
