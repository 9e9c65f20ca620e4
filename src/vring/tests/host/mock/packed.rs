// SPDX-License-Identifier: GPL-2.0

//! The driver side of a packed ring, as virtio 1.3, section 2.8, has it.

use std::collections::{HashMap, VecDeque};

use vring::{Desc, Position, RingAddrs, UserAddr, DESC_F_NEXT, DESC_F_WRITE, DESC_SIZE};

use super::driver::Buf;
use super::format::DriverSide;
use super::memory::MockMemory;
use super::op::Op;

/// Bytes of a packed descriptor as they lie in memory.
pub fn packed_bytes(desc: Desc, id: u16, wrap: bool) -> Vec<u8> {
    let words = desc.to_packed(id, wrap);
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// The flags of a used descriptor, beside [`DESC_F_WRITE`].
pub const USED: u16 = 1 << 7 | 1 << 15;

/// A driver that keeps its own state of the ring.
#[derive(Debug)]
pub struct PackedDriver {
    /// Number of descriptors.
    pub size: u16,
    /// Where the ring lies.
    pub addrs: RingAddrs,
    /// Whether event indexes were negotiated.
    pub event_idx: bool,
    /// Position of the next descriptor to fill in.
    pub avail: Position,
    /// Position of the first descriptor that the device cannot see yet.
    pub published: Position,
    /// Position at which the next used descriptor is expected.
    pub last_used: Position,
    /// Ids and numbers of descriptors of the chains in flight, in the order in which they were
    /// added.
    pub order: VecDeque<(u16, u16)>,
    /// The first descriptor that the device cannot see, to be written last.
    held: Option<(Position, Vec<u8>)>,
    free: Vec<u16>,
    room: u16,
    taken: HashMap<u16, u16>,
    event: Option<Position>,
}

impl PackedDriver {
    /// User address of the descriptor at a position.
    pub fn desc_at(&self, at: Position) -> u64 {
        self.addrs.desc.0 + DESC_SIZE * u64::from(at.offset())
    }

    /// Writes a descriptor as available and advances.
    ///
    /// The first one is held back until it is published.
    pub fn write_next(&mut self, memory: &MockMemory, desc: Desc, id: u16) {
        let bytes = packed_bytes(desc, id, self.avail.wrap());
        if self.avail == self.published && self.held.is_none() {
            self.held = Some((self.avail, bytes));
        } else {
            memory.poke(self.desc_at(self.avail), &bytes);
        }
        self.avail = self.avail.advance(self.size, 1);
    }

    /// Records a chain whose descriptors have been written.
    pub fn enter(&mut self, id: u16, slots: u16) {
        if self.free.last() == Some(&id) {
            self.free.pop();
        } else {
            self.free.retain(|free| *free != id);
        }
        self.room -= slots;
        self.taken.insert(id, slots);
        self.order.push_back((id, slots));
    }

    /// An id that no chain in flight has.
    pub fn free_id(&self) -> u16 {
        *self.free.last().expect("as many ids as descriptors")
    }

    /// Event flags and position in the owner's memory at `addr`: flags, then position.
    fn event(&self, memory: &MockMemory, addr: UserAddr) -> (u16, u16) {
        (memory.peek16(addr.0 + 2), memory.peek16(addr.0))
    }

    fn put_event(&self, memory: &MockMemory, addr: UserAddr, flags: u16, at: u16) {
        memory.poke16(addr.0, at);
        memory.poke16(addr.0 + 2, flags);
    }

    /// Id, length and flags of the descriptor at a position.
    pub fn look(&self, memory: &MockMemory, at: Position) -> (u16, u32, u16) {
        let addr = self.desc_at(at);
        let len = memory.peek(addr + 8, 4).try_into().unwrap();
        let id = memory.peek16(addr + 12);
        (id, u32::from_le_bytes(len), memory.peek16(addr + 14))
    }

    /// Whether the descriptor at a position is used on the position's lap.
    pub fn is_used(&self, memory: &MockMemory, at: Position) -> bool {
        let (_, _, flags) = self.look(memory, at);
        flags & USED == if at.wrap() { USED } else { 0 }
    }

    /// Whether the device wants a kick for an advance from `old` to `new`, checked step by step.
    pub fn wants_kick(&self, memory: &MockMemory, old: Position, new: Position) -> bool {
        match self.event(memory, self.addrs.used) {
            (0, _) => true,
            (1, _) => false,
            (2, event) => {
                let event = Position::from_bits(event);
                let mut at = old;
                while at != new {
                    if at == event {
                        return true;
                    }
                    at = at.advance(self.size, 1);
                }
                false
            }
            (flags, _) => panic!("event flags {flags:#x}"),
        }
    }
}

impl DriverSide for PackedDriver {
    fn new(memory: &MockMemory, addrs: RingAddrs, size: u16, start: u16, event_idx: bool) -> Self {
        let at = Position::START.advance(size, start);
        // The state that the device has left: descriptors before `start` are used on this lap, the
        // others on the lap before.
        for offset in 0..size {
            let used_on_first = (offset < at.offset()) == at.wrap();
            let flags = if used_on_first { USED } else { 0 };
            memory.poke16(addrs.desc.0 + DESC_SIZE * u64::from(offset) + 14, flags);
        }
        Self {
            size,
            addrs,
            event_idx,
            avail: at,
            published: at,
            last_used: at,
            order: VecDeque::new(),
            held: None,
            free: (0..size).rev().collect(),
            room: size,
            taken: HashMap::new(),
            event: None,
        }
    }

    fn base(&self) -> u32 {
        u32::from(self.last_used.bits()) * 0x1_0001
    }

    fn free(&self) -> usize {
        usize::from(self.room)
    }

    fn add(&mut self, memory: &MockMemory, bufs: &[Buf]) -> Option<u16> {
        let slots = u16::try_from(bufs.len()).ok()?;
        if slots == 0 || slots > self.room {
            return None;
        }
        let id = self.free_id();
        for (position, buf) in bufs.iter().enumerate() {
            let last = position + 1 == bufs.len();
            let more = if last { 0 } else { DESC_F_NEXT };
            let desc = buf.desc(None);
            let flags = desc.flags | more;
            // Only the id in the last descriptor counts.
            let id = if last { id } else { 0xdead };
            self.write_next(memory, Desc { flags, ..desc }, id);
        }
        self.enter(id, slots);
        Some(id)
    }

    fn add_desc(&mut self, memory: &MockMemory, desc: Desc) -> Option<u16> {
        if self.room == 0 {
            return None;
        }
        let id = self.free_id();
        self.write_next(memory, desc, id);
        self.enter(id, 1);
        Some(id)
    }

    fn table(bufs: &[Buf]) -> Vec<u8> {
        let bytes = |buf: &Buf| {
            let desc = buf.desc(None);
            // Only the write flag counts in a table: no id, no available or used bit, no next flag.
            let flags = desc.flags & DESC_F_WRITE;
            let words = [desc.addr, u64::from(desc.len) | u64::from(flags) << 48];
            words.map(u64::to_le_bytes).concat()
        };
        bufs.iter().flat_map(bytes).collect()
    }

    fn published(&self) -> u16 {
        self.published.bits()
    }

    fn known_by(&self, op: &Op) -> Option<u16> {
        let Op::LoadAvailable { addr, wrap, count } = op else {
            return None;
        };
        let offset = (addr.0 - self.addrs.desc.0) / DESC_SIZE;
        let lap = if *wrap {
            Position::START
        } else {
            Position::from_bits(0)
        };
        let at = lap.advance(self.size, offset as u16);
        let there = self.published.distance(self.size, at);
        assert!(
            there <= u32::from(self.size),
            "the device is ahead of its driver"
        );
        let seen = there.min(*count as u32);
        Some(at.advance(self.size, seen as u16).bits())
    }

    fn publish(&mut self, memory: &MockMemory) -> bool {
        let old = std::mem::replace(&mut self.published, self.avail);
        if let Some((at, bytes)) = self.held.take() {
            memory.poke(self.desc_at(at), &bytes);
        }
        self.wants_kick(memory, old, self.avail)
    }

    fn poll(&mut self, memory: &MockMemory) -> Option<(u16, u32)> {
        if !self.has_used(memory) {
            return None;
        }
        let (id, len, flags) = self.look(memory, self.last_used);
        let slots = self.taken.remove(&id);
        let slots = slots.expect("the device used a chain it was not given");
        // They may be used in any order.
        if self.order.front() == Some(&(id, slots)) {
            self.order.pop_front();
        } else {
            self.order.retain(|(other, _)| *other != id);
        }
        self.free.push(id);
        self.room += slots;
        self.last_used = self.last_used.advance(self.size, slots);
        assert_eq!(flags & DESC_F_WRITE != 0, len != 0);
        Some((id, len))
    }

    fn poll_group(&mut self, memory: &MockMemory) -> Option<(Vec<u16>, u32)> {
        if !self.has_used(memory) {
            return None;
        }
        let (last, len, _) = self.look(memory, self.last_used);
        let mut ids = Vec::new();
        while ids.last() != Some(&last) {
            let chain = self.order.pop_front();
            let (id, slots) = chain.expect("the device used a chain it was not given");
            self.taken.remove(&id);
            self.free.push(id);
            self.room += slots;
            self.last_used = self.last_used.advance(self.size, slots);
            ids.push(id);
        }
        Some((ids, len))
    }

    fn has_used(&self, memory: &MockMemory) -> bool {
        self.is_used(memory, self.last_used)
    }

    fn want_calls(&mut self, memory: &MockMemory, more: u16) {
        let more = if self.event_idx { more } else { 0 };
        let skipped = self.order.iter().take(usize::from(more));
        let slots = skipped.map(|(_, slots)| slots).sum();
        let at = self.last_used.advance(self.size, slots);
        self.event = Some(at);
        let flags = if self.event_idx { 2 } else { 0 };
        self.put_event(memory, self.addrs.avail, flags, at.bits());
    }

    fn no_calls(&mut self, memory: &MockMemory) {
        self.event = None;
        self.put_event(memory, self.addrs.avail, 1, 0);
    }

    fn is_due(&self, memory: &MockMemory) -> bool {
        let Some(event) = self.event else {
            return false;
        };
        let mut at = self.last_used;
        let mut left = self.size;
        // The driver sees used descriptors only in ring order.
        while left > 0 && self.is_used(memory, at) {
            if at == event {
                return true;
            }
            let slots = self.taken[&self.look(memory, at).0];
            at = at.advance(self.size, slots);
            left -= slots;
        }
        false
    }

    fn move_to(&mut self, addrs: RingAddrs, event_idx: bool) {
        self.addrs = addrs;
        self.event_idx = event_idx;
    }

    fn ask_for_no_kick(&self, memory: &MockMemory) {
        self.put_event(memory, self.addrs.used, 1, 0);
    }
}
