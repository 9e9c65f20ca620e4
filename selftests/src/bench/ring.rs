// SPDX-License-Identifier: GPL-2.0

//! A split ring whose descriptors never change.
//!
//! Descriptor `i` has buffer `i`, and entry `i` of the available ring names descriptor `i`. Devices
//! use buffers in order here, since there is one worker per ring, so giving and taking back are
//! counters.

use crate::driver::memory::GuestMemory;
use crate::driver::split::{Descriptor, SplitLayout, write_table};
use crate::driver::uapi::{
    AVAIL_NO_INTERRUPT, DESC_INDIRECT, DESC_NEXT, DESC_WRITE, USED_NO_NOTIFY,
};
use crate::eventfd::EventFd;
use crate::wait::{Deadline, PATIENCE};
use anyhow::{Result, bail};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

/// A ring and its notifications.
#[derive(Debug)]
pub struct Ring {
    /// Where it lies.
    pub layout: SplitLayout,
    /// Rung when buffers were added.
    pub kick: EventFd,
    /// Signalled by the device when it has used buffers.
    pub call: EventFd,
    /// How often the device was kicked.
    pub kicks: u64,
    /// How often the device called, as far as was looked.
    pub calls: u64,
    memory: Arc<GuestMemory>,
    events: bool,
    avail: u16,
    seen: u16,
}

impl Ring {
    /// Makes a ring of `size` descriptors that have no buffers yet.
    ///
    /// # Errors
    ///
    /// When the memory is full, or the process has too many descriptors.
    pub fn new(memory: &Arc<GuestMemory>, size: u16, events: bool) -> Result<Self> {
        let layout = SplitLayout::alloc(memory, size)?;
        for index in 0..size {
            layout.write_avail(memory, index, index);
        }
        Ok(Self {
            layout,
            kick: EventFd::new()?,
            call: EventFd::new()?,
            kicks: 0,
            calls: 0,
            memory: memory.clone(),
            events,
            avail: 0,
            seen: 0,
        })
    }

    /// Gives descriptor `index` its buffer, in `pieces` if there is a table for them.
    ///
    /// # Errors
    ///
    /// When a piece is too long to describe.
    pub fn set_buffer(
        &self,
        index: u16,
        addr: u64,
        writable: bool,
        (table, pieces): (Option<u64>, &[usize]),
    ) -> Result<()> {
        let access = if writable { DESC_WRITE } else { 0 };
        let Some(table) = table else {
            let descriptor = Descriptor {
                addr,
                len: u32::try_from(pieces.iter().sum::<usize>())?,
                flags: access,
                next: 0,
            };
            self.layout.write_desc(&self.memory, index, descriptor);
            return Ok(());
        };
        let mut at = addr;
        for (i, piece) in pieces.iter().enumerate() {
            let more = i + 1 < pieces.len();
            let descriptor = Descriptor {
                addr: at,
                len: u32::try_from(*piece)?,
                flags: access | if more { DESC_NEXT } else { 0 },
                next: if more { u16::try_from(i + 1)? } else { 0 },
            };
            write_table(&self.memory, table, i, descriptor);
            at += *piece as u64;
        }
        let whole = Descriptor {
            addr: table,
            len: u32::try_from(16 * pieces.len())?,
            flags: DESC_INDIRECT,
            next: 0,
        };
        self.layout.write_desc(&self.memory, index, whole);
        Ok(())
    }

    /// The descriptor that is given to the device next.
    #[must_use]
    pub fn next(&self) -> u16 {
        self.avail % self.layout.size
    }

    /// Buffers that the device has.
    #[must_use]
    pub fn outstanding(&self) -> u16 {
        self.avail.wrapping_sub(self.seen)
    }

    /// Gives the next `count` buffers to the device, and kicks it if it wants that.
    ///
    /// # Errors
    ///
    /// When the kick fails.
    pub fn post(&mut self, count: u16) -> Result<()> {
        let (old, new) = (self.avail, self.avail.wrapping_add(count));
        self.avail = new;
        self.layout.set_avail_index(&self.memory, new);
        // The index must be visible before the device's wish for a kick is read.
        fence(Ordering::SeqCst);
        let wanted = if self.events {
            let event = self.layout.avail_event(&self.memory);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            let flags = self.memory.load_u16(self.layout.used, Ordering::Relaxed);
            flags & USED_NO_NOTIFY == 0
        };
        if wanted {
            self.kicks += 1;
            self.kick.signal()?;
        }
        Ok(())
    }

    /// Takes back what the device has used since the last look.
    pub fn take(&mut self) -> u16 {
        let index = self.layout.used_index(&self.memory);
        let new = index.wrapping_sub(self.seen);
        self.seen = index;
        new
    }

    /// Asks for a call once `after` more buffers are used, as far as the ring can say that; true
    /// if something was used already.
    pub fn arm(&mut self, after: u16) -> bool {
        let after = after.max(1);
        if self.events {
            let event = self.seen.wrapping_add(after).wrapping_sub(1);
            let place = self.layout.avail + 4 + 2 * u64::from(self.layout.size);
            self.memory.store_u16(place, event, Ordering::Relaxed);
        } else {
            self.memory
                .store_u16(self.layout.avail, 0, Ordering::Relaxed);
        }
        // The request must be visible before the used index is read: it may have come too late.
        fence(Ordering::SeqCst);
        let index = self.layout.used_index(&self.memory);
        index.wrapping_sub(self.seen) >= if self.events { after } else { 1 }
    }

    /// Asks for no calls. An event index that has passed asks for none by itself.
    pub fn disarm(&mut self) {
        if !self.events {
            self.memory
                .store_u16(self.layout.avail, AVAIL_NO_INTERRUPT, Ordering::Relaxed);
        }
    }

    /// Sleeps until the device has used `after` buffers, as far as the ring can say that; false
    /// if it has not within `time`.
    ///
    /// # Errors
    ///
    /// When the call descriptor is broken.
    pub fn nap(&mut self, after: u16, time: Duration) -> Result<bool> {
        self.calls += self.call.take()?;
        let called = self.arm(after) || Deadline::after(time).readable(&[&self.call])?;
        self.calls += self.call.take()?;
        Ok(called)
    }

    /// Waits until `count` buffers are back; `patient` to be called for the last one only.
    ///
    /// # Errors
    ///
    /// When the device does not answer, or uses more than it was given.
    pub fn complete(&mut self, count: u16, patient: bool) -> Result<()> {
        let mut left = count;
        loop {
            let used = self.take();
            left = match left.checked_sub(used) {
                Some(0) => return Ok(()),
                Some(left) => left,
                None => bail!("{used} buffers used, {left} given"),
            };
            if !self.nap(if patient { left } else { 1 }, PATIENCE)? {
                bail!("no call from the device, which has {left} buffers");
            }
        }
    }
}
