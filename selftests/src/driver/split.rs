// SPDX-License-Identifier: GPL-2.0

//! The driver's half of a split ring.
//!
//! With `VIRTIO_F_IN_ORDER` (virtio 1.3, section 2.7.8) chains lie in the table in the order in
//! which they are made available, over its end and on from its start, and a used element stands for
//! all chains up to the one that it names.

mod layout;

use crate::driver::memory::GuestMemory;
use crate::driver::ring::{RingDriver, Segment, Used};
use crate::driver::uapi::{
    AVAIL_NO_INTERRUPT, DESC_INDIRECT, DESC_NEXT, DESC_WRITE, VringAddr, feature,
};
use anyhow::{Context, Result, bail};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

pub use layout::{Descriptor, SplitLayout, write_table};

/// What the driver remembers of a chain it gave away.
#[derive(Clone, Debug)]
struct Chain {
    token: u32,
    descriptors: Vec<u16>,
    /// Bytes the device may write.
    room: u32,
}

/// What the driver knows beside the ring itself when chains are used in order.
#[derive(Debug, Default)]
struct Order {
    /// Heads of the chains that are out, the oldest first.
    heads: VecDeque<u16>,
    /// Chains left of the group that is being taken.
    left: usize,
    /// Bytes written to the last of them.
    len: u32,
}

/// A split ring seen from the driver.
#[derive(Debug)]
pub struct SplitDriver {
    memory: Arc<GuestMemory>,
    layout: SplitLayout,
    event_idx: bool,
    /// Descriptors to be used next, from the end; from the start if in order.
    free: VecDeque<u16>,
    /// Only if in order.
    order: Option<Order>,
    chains: Vec<Option<Chain>>,
    /// Vectors of finished chains, kept to save allocations.
    spare: Vec<Vec<u16>>,
    pending: usize,
    /// Places of used elements that were taken, if somebody asks.
    taken: Option<Vec<(u64, u32)>>,
    /// Available index including what is not published yet.
    avail: u16,
    published: u16,
    last_used: u16,
    calls_wanted: bool,
}

impl SplitDriver {
    /// Makes an empty ring that starts at index `base`, as `features` want it.
    #[must_use]
    pub fn new(memory: Arc<GuestMemory>, layout: SplitLayout, features: u64, base: u16) -> Self {
        let mut ring = Self {
            memory,
            layout,
            event_idx: features & feature::EVENT_IDX != 0,
            free: VecDeque::new(),
            order: (features & feature::IN_ORDER != 0).then(Order::default),
            chains: Vec::new(),
            spare: Vec::new(),
            pending: 0,
            taken: None,
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
        self.memory.store_u16(
            self.layout.avail,
            self.layout.half(flags),
            Ordering::Relaxed,
        );
    }

    fn used_slot(&self, at: u16) -> u64 {
        self.layout.used + 4 + 8 * u64::from(at % self.layout.size)
    }

    fn used_entry(&self, at: u16) -> (u32, u32) {
        let mut entry = [0u8; 8];
        self.memory.read(self.used_slot(at), &mut entry);
        let word = |i: usize| {
            let bytes = [entry[i], entry[i + 1], entry[i + 2], entry[i + 3]];
            if self.layout.big_endian {
                u32::from_be_bytes(bytes)
            } else {
                u32::from_le_bytes(bytes)
            }
        };
        (word(0), word(4))
    }

    fn put(&self, index: u16, segment: Segment, next: Option<u16>, extra: u16) {
        self.layout
            .write_desc(&self.memory, index, describe(segment, next, extra));
    }

    fn take_free(&mut self, count: usize, owned: &mut Vec<u16>) {
        let start = match self.order {
            Some(_) => 0,
            None => self.free.len() - count,
        };
        owned.extend(self.free.drain(start..start + count));
    }

    fn add_direct(&mut self, chain: &[Segment], owned: &mut Vec<u16>) {
        self.take_free(chain.len(), owned);
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
            self.layout
                .write_table(&self.memory, table, i, describe(*segment, next, 0));
        }
        self.take_free(1, owned);
        let index = owned[0];
        let len = u32::try_from(16 * chain.len())?;
        let whole = Segment {
            addr: table,
            len,
            writable: false,
        };
        self.put(index, whole, None, DESC_INDIRECT);
        Ok(())
    }

    /// The head of the next used chain, and the bytes written to it.
    fn next_used(&mut self, new: usize) -> Result<(u16, u32)> {
        if self.order.as_ref().is_some_and(|order| order.left > 0) {
            return self.next_of_group();
        }
        let (id, len) = self.used_entry(self.last_used);
        let slot = self.used_slot(self.last_used);
        if let Some(taken) = &mut self.taken {
            taken.push((slot, 8));
        }
        let Some(order) = &mut self.order else {
            let head = u16::try_from(id).ok();
            let head = head.filter(|head| *head < self.layout.size);
            return head
                .map(|head| (head, len))
                .with_context(|| format!("used entry {} names chain {id}", self.last_used));
        };
        let mut heads = order.heads.iter().take(new);
        let Some(before) = heads.position(|head| u32::from(*head) == id) else {
            bail!(
                "used entry {} names chain {id}, none of the {new} oldest",
                self.last_used
            );
        };
        order.left = before + 1;
        order.len = len;
        // A stale element would otherwise look like a new one when the ring has wrapped.
        self.memory.write(slot, &STALE);
        self.next_of_group()
    }

    /// Takes the oldest chain; all but the last of a group have been written in full.
    fn next_of_group(&mut self) -> Result<(u16, u32)> {
        let order = self.order.as_mut().context("no order")?;
        let head = order.heads.pop_front().context("no chain is out")?;
        order.left -= 1;
        if order.left == 0 {
            return Ok((head, order.len));
        }
        let chain = self.chains[usize::from(head)].as_ref();
        Ok((head, chain.context("the oldest chain is not out")?.room))
    }
}

/// The id of a used element that is none.
const STALE: [u8; 4] = [0xff; 4];

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

    fn ready(&self) -> usize {
        let used = self.layout.used_index(&self.memory);
        usize::from(used.wrapping_sub(self.last_used))
    }

    fn used_entries(&self) -> usize {
        let Some(order) = &self.order else {
            return self.ready();
        };
        let places = (order.left..self.ready()).map(|ahead| {
            // CAST: no more than a ring has.
            self.last_used.wrapping_add(ahead as u16)
        });
        let stale = u32::from_le_bytes(STALE);
        places.filter(|at| self.used_entry(*at).0 != stale).count()
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
        if let Some(order) = &mut self.order {
            order.heads.push_back(head);
        }
        self.layout.write_avail(&self.memory, self.avail, head);
        self.avail = self.avail.wrapping_add(1);
        self.chains[usize::from(head)] = Some(Chain {
            token,
            descriptors: owned,
            room: chain.iter().filter(|s| s.writable).map(|s| s.len).sum(),
        });
        self.pending += 1;
        Ok(())
    }

    fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.avail);
        if old == new {
            return false;
        }
        // Publishes the descriptors together with the index (release).
        self.layout.set_avail_index(&self.memory, new);
        self.published = new;
        self.wants_kick(old)
    }

    fn wants_kick(&self, old: u16) -> bool {
        self.layout.wants_kick(&self.memory, self.event_idx, old)
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
        let (head, len) = self.next_used(new)?;
        let Some(mut chain) = self.chains[usize::from(head)].take() else {
            bail!(
                "used entry {} names chain {head}, which is not out",
                self.last_used
            );
        };
        self.free.extend(chain.descriptors.drain(..));
        self.spare.push(chain.descriptors);
        self.pending -= 1;
        self.last_used = self.last_used.wrapping_add(1);
        if self.event_idx && !self.calls_wanted {
            // The event index must stay out of reach, or it would be met after 32768 chains.
            self.disarm_call();
        }
        Ok(Some(Used {
            token: chain.token,
            len,
        }))
    }

    fn taken_entries(&mut self) -> Vec<(u64, u32)> {
        self.taken.replace(Vec::new()).unwrap_or_default()
    }

    fn arm_call(&mut self, after: u16) -> bool {
        self.calls_wanted = true;
        let after = after.max(1);
        if self.event_idx {
            let event = self.last_used.wrapping_add(after).wrapping_sub(1);
            self.memory.store_u16(
                self.used_event(),
                self.layout.half(event),
                Ordering::Relaxed,
            );
        } else {
            self.set_flags(0);
        }
        // The request must be visible before the used index is read: it may have come too late.
        fence(Ordering::SeqCst);
        self.layout
            .used_index(&self.memory)
            .wrapping_sub(self.last_used)
            >= after
    }

    fn disarm_call(&mut self) {
        self.calls_wanted = false;
        if self.event_idx {
            // Farther from the used index than the device can get before it reads this.
            let event = self.last_used.wrapping_sub(1 << 15);
            self.memory.store_u16(
                self.used_event(),
                self.layout.half(event),
                Ordering::Relaxed,
            );
        } else {
            self.set_flags(AVAIL_NO_INTERRUPT);
        }
    }

    fn set_event_index(&mut self, events: bool) {
        self.event_idx = events;
        if self.calls_wanted {
            let _ = self.arm_call(1);
        } else {
            self.disarm_call();
        }
    }

    fn reset(&mut self, count: u16) {
        // A chain of one descriptor or of several is one step of the indexes.
        let base = count;
        let n = self.layout.size;
        self.memory.fill(self.layout.desc, 16 * usize::from(n), 0);
        self.memory
            .fill(self.layout.avail, 6 + 2 * usize::from(n), 0);
        self.memory
            .fill(self.layout.used, 6 + 8 * usize::from(n), 0);
        self.free = (0..n).rev().collect();
        if let Some(order) = &mut self.order {
            *order = Order::default();
            for slot in 0..n {
                self.memory.write(self.used_slot(slot), &STALE);
            }
            // From the start of the table for a fresh ring. At any other base vhost-net expects the
            // first chain there: it never looks at the entries of the available ring.
            let start = base % n;
            self.free = (start..n).chain(0..start).collect();
        }
        self.layout.set_avail_index(&self.memory, base);
        self.memory
            .store_u16(self.layout.used + 2, base, Ordering::Release);
        self.chains = vec![None; usize::from(n)];
        self.pending = 0;
        self.avail = base;
        self.published = base;
        self.last_used = base;
        let _ = self.arm_call(1);
    }
}

#[cfg(test)]
mod tests;
