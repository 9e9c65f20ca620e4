// SPDX-License-Identifier: GPL-2.0

//! The driver's half of a split ring.

use crate::memory::GuestMemory;
use crate::ring::{RingDriver, Segment, Used};
use crate::uapi::{
    AVAIL_NO_INTERRUPT, DESC_INDIRECT, DESC_NEXT, DESC_WRITE, USED_NO_NOTIFY, VringAddr,
};
use anyhow::{Context, Result, bail};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// A descriptor as it lies in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// `DESC_*` flags.
    pub flags: u16,
    /// Index of the next one of the chain.
    pub next: u16,
}

impl Descriptor {
    fn bytes(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.addr.to_le_bytes());
        out[8..12].copy_from_slice(&self.len.to_le_bytes());
        out[12..14].copy_from_slice(&self.flags.to_le_bytes());
        out[14..].copy_from_slice(&self.next.to_le_bytes());
        out
    }
}

/// Where the three parts of a split ring lie in guest memory.
#[derive(Clone, Copy, Debug)]
pub struct SplitLayout {
    /// Number of descriptors.
    pub size: u16,
    /// Descriptor table.
    pub desc: u64,
    /// Available ring.
    pub avail: u64,
    /// Used ring.
    pub used: u64,
}

impl SplitLayout {
    /// Sets room aside for a ring.
    ///
    /// # Errors
    ///
    /// When the memory is full.
    pub fn alloc(memory: &GuestMemory, size: u16) -> Result<Self> {
        let n = usize::from(size);
        Ok(Self {
            size,
            desc: memory.alloc(16 * n, 16)?,
            avail: memory.alloc(6 + 2 * n, 4096)?,
            used: memory.alloc(6 + 8 * n, 4096)?,
        })
    }

    /// Writes an entry of the descriptor table.
    pub fn write_desc(&self, memory: &GuestMemory, index: u16, descriptor: Descriptor) {
        write_table(memory, self.desc, usize::from(index), descriptor);
    }

    /// Writes the entry of the available ring that index `at` names.
    pub fn write_avail(&self, memory: &GuestMemory, at: u16, head: u16) {
        let slot = u64::from(at % self.size);
        memory.store_u16(self.avail + 4 + 2 * slot, head, Ordering::Relaxed);
    }

    /// Moves the available index.
    pub fn set_avail_index(&self, memory: &GuestMemory, index: u16) {
        memory.store_u16(self.avail + 2, index, Ordering::Release);
    }

    /// The used index.
    #[must_use]
    pub fn used_index(&self, memory: &GuestMemory) -> u16 {
        memory.load_u16(self.used + 2, Ordering::Acquire)
    }

    /// The index at which the device asked for the next kick.
    #[must_use]
    pub fn avail_event(&self, memory: &GuestMemory) -> u16 {
        memory.load_u16(self.used + 4 + 8 * u64::from(self.size), Ordering::Relaxed)
    }

    /// The parts as addresses of the process.
    #[must_use]
    pub fn place(&self, memory: &GuestMemory) -> VringAddr {
        VringAddr {
            desc: memory.user(self.desc),
            avail: memory.user(self.avail),
            used: memory.user(self.used),
            ..VringAddr::default()
        }
    }
}

/// Writes entry `index` of a descriptor table, the ring's own or an indirect one.
pub fn write_table(memory: &GuestMemory, table: u64, index: usize, descriptor: Descriptor) {
    memory.write(table + 16 * index as u64, &descriptor.bytes());
}

/// What the driver remembers of a chain it gave away.
#[derive(Clone, Debug)]
struct Chain {
    token: u32,
    descriptors: Vec<u16>,
}

/// A split ring seen from the driver.
#[derive(Debug)]
pub struct SplitDriver {
    memory: Arc<GuestMemory>,
    layout: SplitLayout,
    event_idx: bool,
    free: Vec<u16>,
    chains: Vec<Option<Chain>>,
    /// Vectors of finished chains, kept to save allocations.
    spare: Vec<Vec<u16>>,
    pending: usize,
    /// Available index including what is not published yet.
    avail: u16,
    published: u16,
    last_used: u16,
    calls_wanted: bool,
}

impl SplitDriver {
    /// Makes an empty ring that starts at index `base`.
    #[must_use]
    pub fn new(memory: Arc<GuestMemory>, layout: SplitLayout, events: bool, base: u16) -> Self {
        let mut ring = Self {
            memory,
            layout,
            event_idx: events,
            free: Vec::new(),
            chains: Vec::new(),
            spare: Vec::new(),
            pending: 0,
            avail: 0,
            published: 0,
            last_used: 0,
            calls_wanted: true,
        };
        ring.reset(base);
        ring
    }

    fn used_event(&self) -> u64 {
        self.layout.avail + 4 + 2 * u64::from(self.layout.size)
    }

    fn set_flags(&self, flags: u16) {
        self.memory
            .store_u16(self.layout.avail, flags, Ordering::Relaxed);
    }

    fn used_entry(&self, at: u16) -> (u32, u32) {
        let mut entry = [0u8; 8];
        let slot = u64::from(at % self.layout.size);
        self.memory
            .read(self.layout.used + 4 + 8 * slot, &mut entry);
        let word =
            |i: usize| u32::from_le_bytes([entry[i], entry[i + 1], entry[i + 2], entry[i + 3]]);
        (word(0), word(4))
    }

    fn put(&self, index: u16, segment: Segment, next: Option<u16>, extra: u16) {
        self.layout
            .write_desc(&self.memory, index, describe(segment, next, extra));
    }

    fn add_direct(&mut self, chain: &[Segment], owned: &mut Vec<u16>) {
        let start = self.free.len() - chain.len();
        owned.extend(self.free.drain(start..));
        for (i, segment) in chain.iter().enumerate() {
            self.put(owned[i], *segment, owned.get(i + 1).copied(), 0);
        }
    }

    fn add_indirect(&mut self, chain: &[Segment], table: u64, owned: &mut Vec<u16>) -> Result<()> {
        for (i, segment) in chain.iter().enumerate() {
            let next = if i + 1 < chain.len() {
                Some(u16::try_from(i + 1)?)
            } else {
                None
            };
            write_table(&self.memory, table, i, describe(*segment, next, 0));
        }
        let index = self.free.pop().context("no free descriptor")?;
        owned.push(index);
        let len = u32::try_from(16 * chain.len())?;
        let whole = Segment {
            addr: table,
            len,
            writable: false,
        };
        self.put(index, whole, None, DESC_INDIRECT);
        Ok(())
    }
}

fn describe(segment: Segment, next: Option<u16>, extra: u16) -> Descriptor {
    let mut flags = extra;
    if segment.writable {
        flags |= DESC_WRITE;
    }
    if next.is_some() {
        flags |= DESC_NEXT;
    }
    Descriptor {
        addr: segment.addr,
        len: segment.len,
        flags,
        next: next.unwrap_or(0),
    }
}

impl RingDriver for SplitDriver {
    fn size(&self) -> u16 {
        self.layout.size
    }

    fn place(&self) -> VringAddr {
        self.layout.place(&self.memory)
    }

    fn base(&self) -> u32 {
        u32::from(self.layout.used_index(&self.memory))
    }

    fn free(&self) -> usize {
        self.free.len()
    }

    fn pending(&self) -> usize {
        self.pending
    }

    fn add(&mut self, chain: &[Segment], table: Option<u64>, token: u32) -> Result<()> {
        let needed = if table.is_some() { 1 } else { chain.len() };
        if chain.is_empty() || needed > self.free.len() {
            bail!("{needed} descriptors wanted, {} free", self.free.len());
        }
        let mut owned = self.spare.pop().unwrap_or_default();
        match table {
            Some(table) => self.add_indirect(chain, table, &mut owned)?,
            None => self.add_direct(chain, &mut owned),
        }
        let head = owned[0];
        self.layout.write_avail(&self.memory, self.avail, head);
        self.avail = self.avail.wrapping_add(1);
        self.chains[usize::from(head)] = Some(Chain {
            token,
            descriptors: owned,
        });
        self.pending += 1;
        Ok(())
    }

    fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.avail);
        if old == new {
            return false;
        }
        // Descriptors before the index that gives them away.
        self.layout.set_avail_index(&self.memory, new);
        self.published = new;
        // The index before the look at whether the device sleeps.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = self.layout.avail_event(&self.memory);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            let flags = self.memory.load_u16(self.layout.used, Ordering::Relaxed);
            flags & USED_NO_NOTIFY == 0
        }
    }

    fn poll(&mut self) -> Result<Option<Used>> {
        let index = self.layout.used_index(&self.memory);
        if index == self.last_used {
            return Ok(None);
        }
        let new = usize::from(index.wrapping_sub(self.last_used));
        if new > self.pending {
            bail!(
                "used index {index} claims {new} chains, {} are out",
                self.pending
            );
        }
        let (id, len) = self.used_entry(self.last_used);
        let chain = usize::try_from(id)
            .ok()
            .and_then(|id| self.chains.get_mut(id)?.take());
        let Some(mut chain) = chain else {
            bail!(
                "used entry {} names chain {id}, which is not out",
                self.last_used
            );
        };
        self.free.append(&mut chain.descriptors);
        self.spare.push(chain.descriptors);
        self.pending -= 1;
        self.last_used = self.last_used.wrapping_add(1);
        if self.event_idx && !self.calls_wanted {
            // The event index must stay behind, or it would be met after 65536 chains.
            self.disarm_call();
        }
        Ok(Some(Used {
            token: chain.token,
            len,
        }))
    }

    fn arm_call(&mut self, after: u16) -> bool {
        self.calls_wanted = true;
        let after = after.max(1);
        if self.event_idx {
            let event = self.last_used.wrapping_add(after).wrapping_sub(1);
            self.memory
                .store_u16(self.used_event(), event, Ordering::Relaxed);
        } else {
            self.set_flags(0);
        }
        // The wish before the look at whether it came too late.
        fence(Ordering::SeqCst);
        self.layout
            .used_index(&self.memory)
            .wrapping_sub(self.last_used)
            >= after
    }

    fn disarm_call(&mut self) {
        self.calls_wanted = false;
        if self.event_idx {
            let event = self.last_used.wrapping_sub(1);
            self.memory
                .store_u16(self.used_event(), event, Ordering::Relaxed);
        } else {
            self.set_flags(AVAIL_NO_INTERRUPT);
        }
    }

    fn reset(&mut self, base: u16) {
        let n = self.layout.size;
        self.memory.fill(self.layout.desc, 16 * usize::from(n), 0);
        self.memory
            .fill(self.layout.avail, 6 + 2 * usize::from(n), 0);
        self.memory
            .fill(self.layout.used, 6 + 8 * usize::from(n), 0);
        self.layout.set_avail_index(&self.memory, base);
        self.memory
            .store_u16(self.layout.used + 2, base, Ordering::Release);
        self.free = (0..n).rev().collect();
        self.chains = vec![None; usize::from(n)];
        self.pending = 0;
        self.avail = base;
        self.published = base;
        self.last_used = base;
        let _ = self.arm_call(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u16 = 8;

    fn ring(events: bool, base: u16) -> (Arc<GuestMemory>, SplitLayout, SplitDriver) {
        let memory = Arc::new(GuestMemory::new(&[(0x1000, 1 << 16)]).expect("memory"));
        let layout = SplitLayout::alloc(&memory, SIZE).expect("room for a ring");
        let driver = SplitDriver::new(memory.clone(), layout, events, base);
        (memory, layout, driver)
    }

    fn segment() -> Segment {
        Segment {
            addr: 0x2000,
            len: 64,
            writable: false,
        }
    }

    /// Plays the device: returns chain `id`.
    fn give_back(memory: &GuestMemory, layout: &SplitLayout, id: u32) {
        let index = layout.used_index(memory);
        let slot = layout.used + 4 + 8 * u64::from(index % SIZE);
        memory.write(slot, &id.to_le_bytes());
        memory.write(slot + 4, &[0; 4]);
        memory.store_u16(layout.used + 2, index.wrapping_add(1), Ordering::Release);
    }

    #[test]
    fn chains_come_back_over_the_wrap() {
        let (memory, layout, mut driver) = ring(false, 65533);
        for token in 0..10 {
            driver
                .add(&[segment(), segment()], None, token)
                .expect("room");
            assert!(driver.publish());
            let at = layout.avail + 4 + 2 * u64::from(layout.used_index(&memory) % SIZE);
            let head = memory.load_u16(at, Ordering::Relaxed);
            give_back(&memory, &layout, u32::from(head));
            assert_eq!(driver.poll().expect("fair"), Some(Used { token, len: 0 }));
            assert_eq!(driver.free(), usize::from(SIZE));
        }
        assert_eq!(driver.base(), u32::from(65533u16.wrapping_add(10)));
    }

    #[test]
    fn a_chain_given_back_twice_is_noticed() {
        let (memory, layout, mut driver) = ring(false, 0);
        driver.add(&[segment()], None, 1).expect("room");
        driver.add(&[segment()], None, 2).expect("room");
        let _ = driver.publish();
        let head = memory.load_u16(layout.avail + 4, Ordering::Relaxed);
        give_back(&memory, &layout, u32::from(head));
        give_back(&memory, &layout, u32::from(head));
        assert!(driver.poll().expect("fair").is_some());
        assert!(driver.poll().is_err());
    }

    #[test]
    fn more_chains_than_are_out_are_noticed() {
        let (memory, layout, mut driver) = ring(false, 0);
        driver.add(&[segment()], None, 1).expect("room");
        let _ = driver.publish();
        memory.store_u16(layout.used + 2, 2, Ordering::Release);
        assert!(driver.poll().is_err());
    }

    #[test]
    fn a_kick_is_due_when_the_event_index_is_passed() {
        let (memory, layout, mut driver) = ring(true, 65535);
        let event = layout.used + 4 + 8 * u64::from(SIZE);
        for (wanted, due) in [(65535, true), (65535, false), (2, false), (2, true)] {
            memory.store_u16(event, wanted, Ordering::Relaxed);
            driver.add(&[segment()], None, 0).expect("room");
            assert_eq!(driver.publish(), due, "event index {wanted}");
        }
        assert!(!driver.publish(), "nothing new");
    }

    #[test]
    fn a_call_wish_that_comes_late_is_told() {
        let (memory, layout, mut driver) = ring(true, 65534);
        for token in 0..3 {
            driver.add(&[segment()], None, token).expect("room");
        }
        let _ = driver.publish();
        assert!(!driver.arm_call(1));
        memory.store_u16(layout.used + 2, 0, Ordering::Release);
        assert!(driver.arm_call(2));
        assert!(!driver.arm_call(3));
    }

    #[test]
    fn a_full_ring_refuses() {
        let (_memory, _layout, mut driver) = ring(false, 0);
        let chain = vec![segment(); 9];
        assert!(driver.add(&chain, None, 0).is_err());
        assert!(driver.add(&chain[..8], None, 0).is_ok());
        assert!(driver.add(&chain[..1], None, 0).is_err());
    }
}
