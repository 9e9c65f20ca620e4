// SPDX-License-Identifier: GPL-2.0

//! A packed ring: a used descriptor lies over the one that it answers, so the driver writes each
//! descriptor anew before it gives it to the device again.

use super::{Buffer, Half};
use crate::driver::memory::GuestMemory;
use crate::driver::packed::{PackedDescriptor, PackedLayout, Place, write_entry};
use crate::driver::uapi::{DESC_INDIRECT, DESC_WRITE, VringAddr, event, feature};
use anyhow::{Result, bail};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// The driver's half of a packed ring. The id of a buffer is the offset of its descriptor.
#[derive(Debug)]
pub struct Packed {
    layout: PackedLayout,
    memory: Arc<GuestMemory>,
    events: bool,
    in_order: bool,
    /// The descriptor of each buffer, without the flags that say whose it is.
    buffers: Vec<PackedDescriptor>,
    avail: Place,
    seen: Place,
}

impl Packed {
    /// Makes an empty ring, as `features` ask for it.
    ///
    /// # Errors
    ///
    /// When the memory is full.
    pub fn new(memory: &Arc<GuestMemory>, size: u16, features: u64) -> Result<Self> {
        let layout = PackedLayout::alloc(memory, size)?;
        let start = Place {
            offset: 0,
            wrap: true,
        };
        layout.clear(memory, start);
        Ok(Self {
            layout,
            memory: memory.clone(),
            events: features & feature::EVENT_IDX != 0,
            in_order: features & feature::IN_ORDER != 0,
            buffers: vec![PackedDescriptor::default(); usize::from(size)],
            avail: start,
            seen: start,
        })
    }
}

impl Half for Packed {
    fn size(&self) -> u16 {
        self.layout.size
    }

    fn place(&self) -> VringAddr {
        self.layout.place(&self.memory)
    }

    fn set_buffer(&mut self, index: u16, buffer: Buffer<'_>) -> Result<()> {
        let mut descriptor = PackedDescriptor {
            addr: buffer.addr,
            len: buffer.len()?,
            id: index,
            flags: if buffer.writable { DESC_WRITE } else { 0 },
        };
        if let Some(table) = buffer.table {
            for (i, part) in buffer.parts().enumerate() {
                let (addr, len) = part?;
                let entry = PackedDescriptor {
                    addr,
                    len,
                    id: 0,
                    ..descriptor
                };
                write_entry(&self.memory, table, i, entry);
            }
            descriptor = PackedDescriptor {
                addr: table,
                len: buffer.table_len()?,
                id: index,
                flags: DESC_INDIRECT,
            };
        }
        self.buffers[usize::from(index)] = descriptor;
        Ok(())
    }

    fn next(&self) -> u16 {
        self.avail.offset
    }

    fn outstanding(&self) -> u16 {
        // CAST: at most the size of the ring.
        self.avail.since(self.seen, self.layout.size) as u16
    }

    fn publish(&mut self, count: u16) -> bool {
        let old = self.avail;
        // A device goes on from one descriptor to the next, so the first one lets it see them all.
        for ahead in (0..count).rev() {
            let at = old.after(ahead, self.layout.size);
            let descriptor = self.buffers[usize::from(at.offset)];
            self.layout.prepare(&self.memory, at.offset, descriptor);
            let flags = descriptor.flags | at.available();
            self.layout
                .set_flags(&self.memory, at.offset, flags, Ordering::Release);
        }
        self.avail = old.after(count, self.layout.size);
        // The descriptors before the look at whether the device sleeps.
        fence(Ordering::SeqCst);
        self.layout
            .wants_kick(&self.memory, self.events, old, self.avail)
    }

    fn take(&mut self) -> Result<u16> {
        let size = self.layout.size;
        let mut taken = 0;
        while self.outstanding() > 0 && self.layout.is_used(&self.memory, self.seen) {
            let at = self.seen.offset;
            let id = self.layout.read(&self.memory, at).id;
            if id >= size {
                bail!("id {id} in a ring of {size}");
            }
            // In order, a used descriptor stands for all buffers up to its own.
            let count = 1 + if id >= at { id - at } else { size - at + id };
            if count > self.outstanding() || (count > 1 && !self.in_order) {
                bail!("buffer {id} used at {at}, {} given", self.outstanding());
            }
            self.seen = self.seen.after(count, size);
            taken += count;
        }
        Ok(taken)
    }

    fn arm(&mut self, after: u16) -> bool {
        let (at, flags) = if self.events {
            (self.seen.after(after - 1, self.layout.size), event::DESC)
        } else {
            (self.seen, event::ENABLE)
        };
        self.layout.set_driver_event(&self.memory, at, flags);
        // The wish before the look at whether it came too late.
        fence(Ordering::SeqCst);
        self.layout.is_used(&self.memory, self.seen)
    }

    fn disarm(&mut self) {
        // An offset that has passed is reached again in the next turn, so the flags say it.
        self.layout
            .set_driver_event(&self.memory, self.seen, event::DISABLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::setup::GUEST_BASE;

    const SIZE: u16 = 6;

    fn ring(features: u64) -> Packed {
        let memory = Arc::new(GuestMemory::new(&[(GUEST_BASE, 1 << 16)]).expect("memory"));
        let mut ring = Packed::new(&memory, SIZE, features).expect("room");
        for index in 0..SIZE {
            let buffer = Buffer {
                addr: GUEST_BASE + 0x8000 + u64::from(index),
                writable: true,
                pieces: &[100],
                table: None,
            };
            ring.set_buffer(index, buffer).expect("short");
        }
        ring
    }

    /// Writes a used descriptor over the one at a place.
    fn answer(ring: &Packed, at: Place, id: u16) {
        let used = PackedDescriptor {
            id,
            ..PackedDescriptor::default()
        };
        ring.layout.prepare(&ring.memory, at.offset, used);
        ring.layout
            .set_flags(&ring.memory, at.offset, at.used(), Ordering::Release);
    }

    #[test]
    fn buffers_come_back_turn_after_turn() {
        let mut ring = ring(0);
        for _ in 0..7 {
            let first = ring.seen;
            assert!(ring.publish(4));
            for ahead in 0..4 {
                let at = first.after(ahead, SIZE);
                assert!(ring.layout.is_available(&ring.memory, at));
                let given = ring.layout.read(&ring.memory, at.offset);
                assert_eq!((given.len, given.id), (100, at.offset));
                assert_eq!(given.flags & DESC_WRITE, DESC_WRITE);
                answer(&ring, at, at.offset);
            }
            assert!(!ring.layout.is_available(&ring.memory, ring.avail));
            assert_eq!(ring.take().expect("fair"), 4);
            assert_eq!((ring.outstanding(), ring.next()), (0, ring.seen.offset));
        }
    }

    #[test]
    fn one_descriptor_stands_for_many_in_order_only() {
        for features in [feature::IN_ORDER, 0] {
            let mut ring = ring(features);
            for round in 0..4 {
                let first = ring.seen;
                let _ = ring.publish(5);
                assert!(!ring.arm(5));
                answer(&ring, first, first.after(4, SIZE).offset);
                assert!(ring.arm(5), "round {round}");
                let taken = ring.take();
                if features == 0 {
                    taken.expect_err("out of order");
                    break;
                }
                assert_eq!(taken.expect("fair"), 5);
            }
        }
    }

    #[test]
    fn more_than_was_given_is_refused() {
        let mut ring = ring(feature::IN_ORDER);
        let _ = ring.publish(2);
        answer(&ring, ring.seen, 2);
        ring.take().expect_err("two were given");
        answer(&ring, ring.seen, SIZE);
        ring.take().expect_err("no such id");
    }

    #[test]
    fn events_name_the_last_buffer_of_those_waited_for() {
        let mut ring = ring(feature::EVENT_IDX);
        let _ = ring.publish(4);
        let word = |ring: &Packed| ring.memory.load_u32(ring.layout.driver, Ordering::Relaxed);
        assert!(!ring.arm(4));
        assert_eq!(word(&ring), 0x0002_8003);
        for offset in 0..4 {
            answer(&ring, ring.seen.after(offset, SIZE), offset);
        }
        assert_eq!(ring.take().expect("fair"), 4);
        let _ = ring.publish(4);
        assert!(!ring.arm(4));
        assert_eq!(word(&ring), 0x0002_0001);
        ring.disarm();
        assert_eq!(word(&ring) >> 16, 1);
    }
}
