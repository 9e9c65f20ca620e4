// SPDX-License-Identifier: GPL-2.0

//! The driver side of a split ring.

use std::collections::{HashMap, VecDeque};

use vring::{Desc, RingAddrs, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_SIZE};

use super::format::DriverSide;
use super::memory::MockMemory;
use super::op::Op;

/// A buffer as the driver describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buf {
    /// Guest-physical address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// Whether the device writes it.
    pub write: bool,
}

impl Buf {
    /// A buffer that the device reads.
    pub const fn read(addr: u64, len: u32) -> Self {
        let write = false;
        Self { addr, len, write }
    }

    /// A buffer that the device writes.
    pub const fn write(addr: u64, len: u32) -> Self {
        let write = true;
        Self { addr, len, write }
    }

    /// Its descriptor, followed by `next` if there is one.
    pub fn desc(self, next: Option<u16>) -> Desc {
        let write = if self.write { DESC_F_WRITE } else { 0 };
        let more = if next.is_some() { DESC_F_NEXT } else { 0 };
        Desc {
            addr: self.addr,
            len: self.len,
            flags: write | more,
            next: next.unwrap_or_default(),
        }
    }
}

/// Bytes of a descriptor as they lie in memory.
pub fn desc_bytes(desc: Desc) -> Vec<u8> {
    let words = desc.to_raw();
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A driver that keeps its own state of the ring.
#[derive(Debug)]
pub struct Driver {
    /// Number of descriptors.
    pub size: u16,
    /// Where the ring lies.
    pub addrs: RingAddrs,
    /// Whether event indexes were negotiated.
    pub event_idx: bool,
    /// Index behind the last entry that was filled in.
    pub avail: u16,
    /// Index last published.
    pub published: u16,
    /// Index of the next used element to look at.
    pub last_used: u16,
    free: Vec<u16>,
    taken: HashMap<u16, Vec<u16>>,
    /// Heads of the chains in flight, in the order in which they were added.
    order: VecDeque<u16>,
    event: Option<u16>,
}

impl Driver {
    /// A driver that starts at `index` in both rings, and writes the indexes to memory.
    pub fn new(memory: &MockMemory, addrs: RingAddrs, size: u16, index: u16, events: bool) -> Self {
        memory.poke16(addrs.avail.0 + 2, index);
        memory.poke16(addrs.used.0 + 2, index);
        Self {
            size,
            addrs,
            event_idx: events,
            avail: index,
            published: index,
            last_used: index,
            free: (0..size).rev().collect(),
            taken: HashMap::new(),
            order: VecDeque::new(),
            event: None,
        }
    }

    /// Number of descriptors not in use.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Writes a descriptor of the table.
    pub fn write_desc(&self, memory: &MockMemory, index: u16, desc: Desc) {
        let at = self.addrs.desc.0 + u64::from(index) * DESC_SIZE;
        memory.poke(at, &desc_bytes(desc));
    }

    /// Puts `head` into the next entry of the available ring.
    pub fn push_head(&mut self, memory: &MockMemory, head: u16) {
        let position = self.avail % self.size;
        memory.poke16(self.addrs.avail.0 + 4 + 2 * u64::from(position), head);
        self.avail = self.avail.wrapping_add(1);
    }

    /// Adds a chain of descriptors of the table; `None` when too few are free.
    pub fn add(&mut self, memory: &MockMemory, bufs: &[Buf]) -> Option<u16> {
        let keep = self.free.len().checked_sub(bufs.len())?;
        let indexes = self.free.split_off(keep);
        for (position, buf) in bufs.iter().enumerate() {
            let next = indexes.get(position + 1).copied();
            self.write_desc(memory, indexes[position], buf.desc(next));
        }
        let head = *indexes.first()?;
        self.taken.insert(head, indexes);
        self.order.push_back(head);
        self.push_head(memory, head);
        Some(head)
    }

    /// Publishes the added chains; returns whether the device wants a kick for them.
    pub fn publish(&mut self, memory: &MockMemory) -> bool {
        let old = std::mem::replace(&mut self.published, self.avail);
        memory.poke16(self.addrs.avail.0 + 2, self.avail);
        if self.event_idx {
            let event = memory.peek16(self.addrs.used.0 + 4 + 8 * u64::from(self.size));
            passed(event, old, self.avail)
        } else {
            memory.peek16(self.addrs.used.0) & 1 == 0
        }
    }

    /// The device's used index.
    pub fn used_index(&self, memory: &MockMemory) -> u16 {
        memory.peek16(self.addrs.used.0 + 2)
    }

    /// Takes the next used element: head and length.
    ///
    /// # Panics
    ///
    /// When the device used a chain that is not in flight.
    pub fn poll(&mut self, memory: &MockMemory) -> Option<(u16, u32)> {
        let (head, len) = self.look(memory)?;
        self.give_back(head);
        // They may be used in any order.
        if self.order.front() == Some(&head) {
            self.order.pop_front();
        } else {
            self.order.retain(|other| *other != head);
        }
        Some((head, len))
    }

    /// The next used element: head and length.
    fn look(&self, memory: &MockMemory) -> Option<(u16, u32)> {
        if self.used_index(memory) == self.last_used {
            return None;
        }
        let position = u64::from(self.last_used % self.size);
        let bytes = memory.peek(self.addrs.used.0 + 4 + 8 * position, 8);
        let word = |from: usize| u32::from_le_bytes(bytes[from..from + 4].try_into().unwrap());
        Some((u16::try_from(word(0)).unwrap(), word(4)))
    }

    /// Takes the descriptors of a used chain back.
    fn give_back(&mut self, head: u16) {
        let descs = self.taken.remove(&head);
        self.free
            .extend(descs.expect("the device used a chain it was not given"));
        self.last_used = self.last_used.wrapping_add(1);
    }

    /// Asks for a call when the used index passes `event`, or without event indexes for any call.
    pub fn want_calls(&self, memory: &MockMemory, event: u16) {
        if self.event_idx {
            memory.poke16(self.addrs.avail.0 + 4 + 2 * u64::from(self.size), event);
        } else {
            memory.poke16(self.addrs.avail.0, 0);
        }
    }

    /// Asks for no calls.
    pub fn no_calls(&self, memory: &MockMemory) {
        if self.event_idx {
            // The event that is furthest away.
            self.want_calls(memory, self.last_used.wrapping_sub(1));
        } else {
            memory.poke16(self.addrs.avail.0, 1);
        }
    }
}

impl DriverSide for Driver {
    fn new(memory: &MockMemory, addrs: RingAddrs, size: u16, start: u16, event_idx: bool) -> Self {
        Self::new(memory, addrs, size, start, event_idx)
    }

    fn base(&self) -> u32 {
        u32::from(self.last_used)
    }

    fn free(&self) -> usize {
        self.free()
    }

    fn add(&mut self, memory: &MockMemory, bufs: &[Buf]) -> Option<u16> {
        self.add(memory, bufs)
    }

    fn add_desc(&mut self, memory: &MockMemory, desc: Desc) -> Option<u16> {
        let head = self.free.pop()?;
        self.write_desc(memory, head, desc);
        self.taken.insert(head, vec![head]);
        self.order.push_back(head);
        self.push_head(memory, head);
        Some(head)
    }

    fn table(bufs: &[Buf]) -> Vec<u8> {
        let bytes = |(position, buf): (usize, &Buf)| {
            let next = (position + 1 < bufs.len()).then_some(position as u16 + 1);
            desc_bytes(buf.desc(next))
        };
        bufs.iter().enumerate().flat_map(bytes).collect()
    }

    fn published(&self) -> u16 {
        self.published
    }

    fn known_by(&self, op: &Op) -> Option<u16> {
        matches!(op, Op::LoadAcquire(_)).then_some(self.published)
    }

    fn publish(&mut self, memory: &MockMemory) -> bool {
        self.publish(memory)
    }

    fn poll(&mut self, memory: &MockMemory) -> Option<(u16, u32)> {
        self.poll(memory)
    }

    fn poll_group(&mut self, memory: &MockMemory) -> Option<(Vec<u16>, u32)> {
        let (last, len) = self.look(memory)?;
        let mut heads = Vec::new();
        while heads.last() != Some(&last) {
            let head = self.order.pop_front();
            let head = head.expect("the device used a chain it was not given");
            self.give_back(head);
            heads.push(head);
        }
        Some((heads, len))
    }

    fn has_used(&self, memory: &MockMemory) -> bool {
        self.used_index(memory) != self.last_used
    }

    fn want_calls(&mut self, memory: &MockMemory, more: u16) {
        let more = if self.event_idx { more } else { 0 };
        let event = self.last_used.wrapping_add(more);
        Self::want_calls(self, memory, event);
        self.event = Some(event);
    }

    fn no_calls(&mut self, memory: &MockMemory) {
        Self::no_calls(self, memory);
        self.event = None;
    }

    fn is_due(&self, memory: &MockMemory) -> bool {
        let used = self.used_index(memory);
        self.event
            .is_some_and(|event| passed(event, self.last_used, used))
    }

    fn move_to(&mut self, addrs: RingAddrs, event_idx: bool) {
        self.addrs = addrs;
        self.event_idx = event_idx;
    }

    fn ask_for_no_kick(&self, memory: &MockMemory) {
        memory.poke16(self.addrs.used.0, 1);
        let event = self.addrs.used.0 + 4 + 8 * u64::from(self.size);
        memory.poke16(event, self.published.wrapping_sub(1));
    }
}

/// The descriptor of an indirect table of `count` descriptors.
pub fn indirect(table: u64, count: u32) -> Desc {
    Desc {
        addr: table,
        len: count * DESC_SIZE as u32,
        flags: DESC_F_INDIRECT,
        next: 0,
    }
}

/// Whether an index that moves from `old` to `new` passes `event`, checked step by step.
pub fn passed(event: u16, old: u16, new: u16) -> bool {
    let steps = new.wrapping_sub(old);
    (0..steps).any(|step| old.wrapping_add(step) == event)
}
