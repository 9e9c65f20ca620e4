// SPDX-License-Identifier: GPL-2.0

//! A split ring: entry `i` of the available ring names descriptor `i` for ever, so that giving
//! buffers to the device is one store.

use super::{Buffer, Half};
use crate::driver::memory::GuestMemory;
use crate::driver::split::{Descriptor, SplitLayout, write_table};
use crate::driver::uapi::{
    AVAIL_NO_INTERRUPT, DESC_INDIRECT, DESC_NEXT, DESC_WRITE, VringAddr, feature,
};
use anyhow::{Result, bail};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// The driver's half of a split ring.
#[derive(Debug)]
pub struct Split {
    layout: SplitLayout,
    memory: Arc<GuestMemory>,
    events: bool,
    avail: u16,
    seen: u16,
}

impl Split {
    /// Makes an empty ring, as `features` ask for it.
    ///
    /// # Errors
    ///
    /// When the memory is full.
    pub fn new(memory: &Arc<GuestMemory>, size: u16, features: u64) -> Result<Self> {
        let layout = SplitLayout::alloc(memory, size)?;
        for index in 0..size {
            layout.write_avail(memory, index, index);
        }
        Ok(Self {
            layout,
            memory: memory.clone(),
            events: features & feature::EVENT_IDX != 0,
            avail: 0,
            seen: 0,
        })
    }
}

impl Half for Split {
    fn size(&self) -> u16 {
        self.layout.size
    }

    fn place(&self) -> VringAddr {
        self.layout.place(&self.memory)
    }

    fn set_buffer(&mut self, index: u16, buffer: Buffer<'_>) -> Result<()> {
        let access = if buffer.writable { DESC_WRITE } else { 0 };
        let mut descriptor = Descriptor {
            addr: buffer.addr,
            len: buffer.len()?,
            flags: access,
            next: 0,
        };
        if let Some(table) = buffer.table {
            for (i, part) in buffer.parts().enumerate() {
                let (addr, len) = part?;
                let more = i + 1 < buffer.pieces.len();
                let entry = Descriptor {
                    addr,
                    len,
                    flags: access | if more { DESC_NEXT } else { 0 },
                    next: if more { u16::try_from(i + 1)? } else { 0 },
                };
                write_table(&self.memory, table, i, entry);
            }
            descriptor = Descriptor {
                addr: table,
                len: buffer.table_len()?,
                flags: DESC_INDIRECT,
                next: 0,
            };
        }
        self.layout.write_desc(&self.memory, index, descriptor);
        Ok(())
    }

    fn next(&self) -> u16 {
        self.avail % self.layout.size
    }

    fn outstanding(&self) -> u16 {
        self.avail.wrapping_sub(self.seen)
    }

    fn publish(&mut self, count: u16) -> bool {
        let old = self.avail;
        self.avail = old.wrapping_add(count);
        self.layout.set_avail_index(&self.memory, self.avail);
        self.layout.wants_kick(&self.memory, self.events, old)
    }

    fn take(&mut self) -> Result<u16> {
        let index = self.layout.used_index(&self.memory);
        let new = index.wrapping_sub(self.seen);
        if new > self.outstanding() {
            bail!("{new} buffers used, {} given", self.outstanding());
        }
        self.seen = index;
        Ok(new)
    }

    fn arm(&mut self, after: u16) -> bool {
        if self.events {
            let event = self.seen.wrapping_add(after).wrapping_sub(1);
            let place = self.layout.avail + 4 + 2 * u64::from(self.layout.size);
            self.memory.store_u16(place, event, Ordering::Relaxed);
        } else {
            self.memory
                .store_u16(self.layout.avail, 0, Ordering::Relaxed);
        }
        // The wish before the look at whether it came too late.
        fence(Ordering::SeqCst);
        let index = self.layout.used_index(&self.memory);
        index.wrapping_sub(self.seen) >= if self.events { after } else { 1 }
    }

    fn disarm(&mut self) {
        // An event index that has passed asks for no call by itself.
        if !self.events {
            self.memory
                .store_u16(self.layout.avail, AVAIL_NO_INTERRUPT, Ordering::Relaxed);
        }
    }
}
