// SPDX-License-Identifier: GPL-2.0

//! The driver's side, with the barriers of virtio 1.3, sections 2.7.13 and 2.7.14.

use loom::sync::atomic::fence;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use vring::Desc;

use crate::memory::SIZE;
use crate::Shared;

/// A driver that gives each descriptor to the device once.
pub struct Driver<'a> {
    /// What it shares with the device.
    pub shared: &'a Shared,
    /// Whether event indexes were negotiated.
    pub event_idx: bool,
    /// Chains made available.
    pub avail: u16,
    /// The index that the device can see.
    published: u16,
    /// Used buffers seen.
    pub last_used: u16,
}

/// The buffer of the chain that starts at `head`.
pub fn buffer(head: u16) -> Desc {
    Desc {
        addr: 0x100 * (1 + u64::from(head)),
        len: 0x10 + u32::from(head),
        flags: 0,
        next: 0,
    }
}

impl<'a> Driver<'a> {
    /// A driver before anything happened.
    pub fn new(shared: &'a Shared, event_idx: bool) -> Self {
        Self {
            shared,
            event_idx,
            avail: 0,
            published: 0,
            last_used: 0,
        }
    }

    /// Makes the next chain available; whether the device has to be kicked.
    pub fn add(&mut self) -> bool {
        self.write(self.avail, buffer(self.avail));
        self.offer()
    }

    /// Writes the descriptor of the chain that starts at `head`.
    pub fn write(&self, head: u16, desc: Desc) {
        let words = &self.shared.desc[usize::from(head)];
        for (word, value) in words.iter().zip(desc.to_raw()) {
            word.store(value, Relaxed);
        }
    }

    /// Makes the next chain available, whose descriptor is there; whether the device has to be
    /// kicked.
    pub fn offer(&mut self) -> bool {
        let head = self.avail;
        self.shared.avail[usize::from(head)].store(head.to_le(), Relaxed);
        self.avail = head + 1;
        self.publish(self.avail)
    }

    /// Moves the index; whether the device has to be kicked.
    pub fn publish(&mut self, index: u16) -> bool {
        let shared = self.shared;
        let old = std::mem::replace(&mut self.published, index);
        shared.avail_index.store(index.to_le(), Release);
        // The index is visible before the device's wish is read. Pairs with `enable_kick` and
        // `await_kick`.
        fence(SeqCst);
        if self.event_idx {
            let event = u16::from_le(shared.avail_event.load(Relaxed));
            // Virtio 1.3, section 2.7.10.
            index.wrapping_sub(event).wrapping_sub(1) < index.wrapping_sub(old)
        } else {
            u16::from_le(shared.used_flags.load(Relaxed)) & 1 == 0
        }
    }

    /// Looks at all used buffers that there are.
    ///
    /// # Panics
    ///
    /// When one is not what the device completed.
    pub fn poll(&mut self) {
        let index = u16::from_le(self.shared.used_index.load(Acquire));
        while self.last_used != index {
            let raw = self.shared.used[usize::from(self.last_used % SIZE)].load(Relaxed);
            let expect = u64::from(u32::from(self.last_used).to_le()) << 32;
            assert_eq!(raw, expect, "a used element that the device did not write");
            self.last_used += 1;
        }
    }

    /// Asks not to be called.
    pub fn disable_calls(&self) {
        if self.event_idx {
            let far = self.last_used.wrapping_sub(1);
            self.shared.used_event.store(far.to_le(), Relaxed);
        } else {
            self.shared.avail_flags.store(1u16.to_le(), Relaxed);
        }
    }

    /// Asks to be called for the next used buffer; whether there already is one.
    pub fn enable_calls(&self) -> bool {
        if self.event_idx {
            let next = self.last_used.to_le();
            self.shared.used_event.store(next, Relaxed);
        } else {
            self.shared.avail_flags.store(0, Relaxed);
        }
        // The wish is visible before the index is read. Pairs with `needs_call`.
        fence(SeqCst);
        u16::from_le(self.shared.used_index.load(Acquire)) != self.last_used
    }
}
