// SPDX-License-Identifier: GPL-2.0

//! The driver's half of a packed ring (virtio 1.3, section 2.8).
//!
//! Descriptors lie in the ring in the order in which they are made available. The driver's and the
//! device's side each have a place in it, with a wrap counter that changes with each turn; the
//! flags of a descriptor say whose it is, by comparison with the counter. A used descriptor takes
//! the place of the first of its chain, the next one is behind the rest of that chain. With
//! `VIRTIO_F_IN_ORDER` it stands for all chains up to the one that it names, and has the place of
//! the first of them.

mod layout;

use crate::driver::memory::GuestMemory;
use crate::driver::ring::{Format, RingDriver, Segment, Used};
use crate::driver::uapi::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, VringAddr, event, feature};
use anyhow::{Context, Result, bail};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

pub use layout::{PackedDescriptor, PackedLayout, Place, write_entry};

/// What the driver remembers of a chain it gave away.
#[derive(Clone, Copy, Debug)]
struct Chain {
    token: u32,
    /// Descriptors in the ring.
    count: u16,
    /// Bytes the device may write.
    room: u32,
}

/// A batch of chains that were used in order, of which the device has said so once.
#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    /// Chains that were not taken yet.
    left: usize,
    /// Bytes written to the last of them.
    len: u32,
}

/// A packed ring seen from the driver.
#[derive(Debug)]
pub struct PackedDriver {
    memory: Arc<GuestMemory>,
    layout: PackedLayout,
    event_idx: bool,
    in_order: bool,
    /// Ids that no chain has.
    ids: Vec<u16>,
    /// The chains that are out, by their ids.
    chains: Vec<Option<Chain>>,
    /// Their ids, the oldest first.
    out: VecDeque<u16>,
    /// Free descriptors.
    free: u16,
    /// Where the next chain goes.
    avail: Place,
    /// Where the chains begin that are not published, and the flags that publish them.
    published: Place,
    first: Option<u16>,
    /// Where the next used descriptor will be.
    used: Place,
    batch: Batch,
    /// Places of used descriptors that were taken, if somebody asks.
    taken: Option<Vec<(u64, u32)>>,
    calls_wanted: bool,
}

impl PackedDriver {
    /// Makes an empty ring that starts after `count` descriptors, as `features` want it.
    #[must_use]
    pub fn new(memory: Arc<GuestMemory>, layout: PackedLayout, features: u64, count: u16) -> Self {
        let start = Place {
            offset: 0,
            wrap: true,
        };
        let mut ring = Self {
            memory,
            layout,
            event_idx: features & feature::EVENT_IDX != 0,
            in_order: features & feature::IN_ORDER != 0,
            ids: Vec::new(),
            chains: Vec::new(),
            out: VecDeque::new(),
            free: 0,
            avail: start,
            published: start,
            first: None,
            used: start,
            batch: Batch::default(),
            taken: None,
            calls_wanted: true,
        };
        ring.reset(count);
        ring
    }

    /// Puts a descriptor of a new chain in its place.
    fn put(&mut self, descriptor: PackedDescriptor) {
        let at = self.avail;
        self.layout.prepare(&self.memory, at.offset, descriptor);
        let flags = descriptor.flags | at.available();
        if at == self.published {
            // Whatever follows is not looked at until this is available.
            self.first = Some(flags);
        } else {
            let (memory, layout) = (&self.memory, &self.layout);
            layout.set_flags(memory, at.offset, flags, Ordering::Relaxed);
        }
        self.avail = at.after(1, self.layout.size);
        self.free -= 1;
    }

    fn add_direct(&mut self, chain: &[Segment], id: u16) {
        for (i, segment) in chain.iter().enumerate() {
            let last = i + 1 == chain.len();
            self.put(PackedDescriptor {
                addr: segment.addr,
                len: segment.len,
                // Only the last one has the chain's id.
                id: if last { id } else { !id },
                flags: access(*segment) | if last { 0 } else { DESC_NEXT },
            });
        }
    }

    fn add_indirect(&mut self, chain: &[Segment], table: u64, id: u16) -> Result<()> {
        for (i, segment) in chain.iter().enumerate() {
            let entry = PackedDescriptor {
                addr: segment.addr,
                len: segment.len,
                id: 0,
                flags: access(*segment),
            };
            write_entry(&self.memory, table, i, entry);
        }
        self.put(PackedDescriptor {
            addr: table,
            len: u32::try_from(16 * chain.len())?,
            id,
            flags: DESC_INDIRECT,
        });
        Ok(())
    }

    /// Descriptors of the chain with an id, if it is out.
    fn count(&self, id: u16) -> Option<u16> {
        let chain = self.chains.get(usize::from(id))?.as_ref();
        chain.map(|chain| chain.count)
    }

    /// The place behind `chains` of the chains that are out, the oldest first.
    fn behind(&self, chains: usize) -> Place {
        let ids = self.out.iter().take(chains);
        let count = ids.filter_map(|id| self.count(*id)).sum();
        self.used.after(count, self.layout.size)
    }

    /// How many chains were used and not taken, and the place behind them.
    fn progress(&self) -> (usize, Place) {
        let mut ready = self.batch.left;
        let mut at = self.behind(ready);
        while ready < self.out.len() && self.layout.is_used(&self.memory, at) {
            let id = self.layout.read(&self.memory, at.offset).id;
            let batch = if self.in_order {
                let mut rest = self.out.iter().skip(ready);
                rest.position(|other| *other == id).map(|before| before + 1)
            } else {
                Some(1)
            };
            // Else poll() says what is wrong.
            let (Some(batch), Some(mut count)) = (batch, self.count(id)) else {
                break;
            };
            let before = self.out.iter().skip(ready).take(batch - 1);
            count += before.filter_map(|id| self.count(*id)).sum::<u16>();
            at = at.after(count, self.layout.size);
            ready += batch;
        }
        (ready, at)
    }

    /// The id of the next used chain, and the bytes written to it.
    fn next_used(&mut self) -> Result<Option<(u16, u32)>> {
        if self.batch.left > 0 {
            return self.next_of_batch().map(Some);
        }
        let at = self.used;
        if !self.layout.is_used(&self.memory, at) {
            return Ok(None);
        }
        let used = self.layout.read(&self.memory, at.offset);
        if let Some(taken) = &mut self.taken {
            taken.push((self.layout.slot(at.offset), 16));
        }
        // Without this flag the length means nothing.
        let len = if used.flags & DESC_WRITE == 0 {
            0
        } else {
            used.len
        };
        let Some(before) = self.out.iter().position(|id| *id == used.id) else {
            bail!(
                "used descriptor {at:?} names chain {}, which is not out",
                used.id
            );
        };
        if self.in_order {
            self.batch = Batch {
                left: before + 1,
                len,
            };
            return self.next_of_batch().map(Some);
        }
        self.out.remove(before);
        Ok(Some((used.id, len)))
    }

    /// Takes the oldest chain; all but the last of a batch have been written in full.
    fn next_of_batch(&mut self) -> Result<(u16, u32)> {
        let id = self.out.pop_front().context("no chain is out")?;
        self.batch.left -= 1;
        if self.batch.left == 0 {
            return Ok((id, self.batch.len));
        }
        let chain = self.chains[usize::from(id)].as_ref();
        Ok((id, chain.context("the oldest chain is not out")?.room))
    }
}

/// The flag that says who accesses a buffer.
fn access(segment: Segment) -> u16 {
    if segment.writable { DESC_WRITE } else { 0 }
}

impl RingDriver for PackedDriver {
    fn size(&self) -> u16 {
        self.layout.size
    }

    fn place(&self) -> VringAddr {
        self.layout.place(&self.memory)
    }

    fn base(&self) -> u32 {
        let half = u32::from(self.progress().1.half());
        half | half << 16
    }

    fn free(&self) -> usize {
        self.free.into()
    }

    fn pending(&self) -> usize {
        self.out.len()
    }

    fn ready(&self) -> usize {
        self.progress().0
    }

    fn used_entries(&self) -> usize {
        let size = self.layout.size;
        let (start, end) = (self.behind(self.batch.left), self.progress().1);
        // CAST: no more than a ring has.
        let ahead = 0..end.since(start, size) as u16;
        let places = ahead.map(|ahead| start.after(ahead, size));
        places
            .filter(|at| self.layout.is_used(&self.memory, *at))
            .count()
    }

    fn add(&mut self, chain: &[Segment], table: Option<u64>, token: u32) -> Result<()> {
        let needed = if table.is_some() { 1 } else { chain.len() };
        if chain.is_empty() || needed > self.free() {
            bail!("{needed} descriptors wanted, {} free", self.free);
        }
        let id = self.ids.pop().context("no id is free")?;
        match table {
            Some(table) => self.add_indirect(chain, table, id)?,
            None => self.add_direct(chain, id),
        }
        self.chains[usize::from(id)] = Some(Chain {
            token,
            count: u16::try_from(needed)?,
            room: chain.iter().filter(|s| s.writable).map(|s| s.len).sum(),
        });
        self.out.push_back(id);
        Ok(())
    }

    fn publish(&mut self) -> bool {
        let Some(flags) = self.first.take() else {
            return false;
        };
        let old = self.published;
        self.published = self.avail;
        // Publishes the descriptors together with the first of them (release).
        let (memory, layout) = (&self.memory, &self.layout);
        layout.set_flags(memory, old.offset, flags, Ordering::Release);
        // The descriptor must be visible before the device's wish for a kick is read.
        fence(Ordering::SeqCst);
        layout.wants_kick(memory, self.event_idx, old, self.avail)
    }

    fn wants_kick(&self, old: u16) -> bool {
        // The descriptors must be visible before the device's wish for a kick is read.
        fence(Ordering::SeqCst);
        let (old, size) = (Place::parse(old), self.layout.size);
        let places = (0..size).map(|count| old.after(count, size));
        let moved = places.take_while(|at| self.layout.is_available(&self.memory, *at));
        // CAST: no more than a ring has.
        let new = old.after(moved.count() as u16, size);
        self.layout
            .wants_kick(&self.memory, self.event_idx, old, new)
    }

    fn poll(&mut self) -> Result<Option<Used>> {
        let Some((id, len)) = self.next_used()? else {
            return Ok(None);
        };
        let chain = self.chains[usize::from(id)].take();
        let chain = chain.with_context(|| format!("chain {id} is not out"))?;
        self.used = self.used.after(chain.count, self.layout.size);
        self.free += chain.count;
        self.ids.push(id);
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
        let after = usize::from(after.max(1));
        if self.event_idx {
            // Those that are not added yet have one descriptor each, as far as is known.
            let more = (after - 1).saturating_sub(self.out.len());
            let at = self.behind(after - 1);
            // CAST: a driver waits for no more than a ring has.
            let at = at.after(more as u16, self.layout.size);
            self.layout.set_driver_event(&self.memory, at, event::DESC);
        } else {
            self.layout
                .set_driver_event(&self.memory, self.used, event::ENABLE);
        }
        // The request must be visible before the ring is read: it may have come too late.
        fence(Ordering::SeqCst);
        self.ready() >= after
    }

    fn disarm_call(&mut self) {
        self.calls_wanted = false;
        self.layout
            .set_driver_event(&self.memory, self.used, event::DISABLE);
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
        let size = self.layout.size;
        // CAST: the lower half of a base.
        let base = Format::Packed.base(size, count.into()) as u16;
        let start = Place::parse(base);
        self.layout.clear(&self.memory, start);
        self.ids = (0..size).collect();
        self.chains = vec![None; usize::from(size)];
        self.out.clear();
        self.free = size;
        (self.avail, self.published, self.used) = (start, start, start);
        self.first = None;
        self.batch = Batch::default();
        let _ = self.arm_call(1);
    }
}

#[cfg(test)]
mod tests;
