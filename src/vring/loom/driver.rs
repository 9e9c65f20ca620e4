// SPDX-License-Identifier: GPL-2.0

//! The driver side, with the barriers of virtio 1.3, sections 2.7.13, 2.7.14 and 2.8.

use loom::sync::atomic::fence;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use vring::{packed_availability, Desc};

use crate::memory::{is_used, SIZE};
use crate::{Kind, Shared};

/// A driver that gives each descriptor to the device once.
pub struct Driver<'a> {
    /// The memory that it shares with the device.
    pub shared: &'a Shared,
    /// The ring's kind.
    pub kind: Kind,
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

/// The word of a packed ring's event as it lies in memory.
fn event(flags: u16, at: u16) -> u32 {
    // All positions are on the first lap.
    (u32::from(flags) << 16 | u32::from(at | 1 << 15)).to_le()
}

impl<'a> Driver<'a> {
    /// A driver that has made nothing available yet.
    pub fn new(shared: &'a Shared, kind: Kind) -> Self {
        Self {
            shared,
            kind,
            avail: 0,
            published: 0,
            last_used: 0,
        }
    }

    /// Makes the next chain available; returns whether the device has to be kicked.
    pub fn add(&mut self) -> bool {
        self.write(self.avail, buffer(self.avail));
        self.offer()
    }

    /// Writes the descriptor of the chain that starts at `head`.
    pub fn write(&self, head: u16, desc: Desc) {
        let words = if self.kind.packed {
            let [addr, rest] = desc.to_packed(head, true);
            // The availability bits are left clear until the descriptor is published.
            let (available, _) = packed_availability(true);
            let hidden = if head < self.avail { 0 } else { available };
            [addr, rest & !hidden]
        } else {
            desc.to_raw()
        };
        let slot = &self.shared.desc[usize::from(head)];
        for (word, value) in slot.iter().zip(words) {
            word.store(value, Relaxed);
        }
    }

    /// Makes the next chain available, whose descriptor is written; returns whether the device has
    /// to be kicked.
    pub fn offer(&mut self) -> bool {
        let head = self.avail;
        self.avail = head + 1;
        if self.kind.packed {
            let [_, rest] = &self.shared.desc[usize::from(head)];
            let (_, bits) = packed_availability(true);
            rest.store(rest.load(Relaxed) | bits, Release);
        } else {
            self.shared.avail[usize::from(head)].store(head.to_le(), Relaxed);
        }
        self.publish(self.avail)
    }

    /// Publishes the index; returns whether the device has to be kicked.
    pub fn publish(&mut self, index: u16) -> bool {
        let shared = self.shared;
        let old = std::mem::replace(&mut self.published, index);
        if !self.kind.packed {
            shared.avail_index.store(index.to_le(), Release);
        }
        // The chain is visible before the device's request is read. Pairs with `enable_kick` and
        // `await_kick`.
        fence(SeqCst);
        if self.kind.packed {
            let wish = u32::from_le(shared.device_event.load(Relaxed));
            return match wish >> 16 {
                0 => true,
                1 => false,
                _ => (old..index).any(|at| wish as u16 == at | 1 << 15),
            };
        }
        if self.kind.event_idx {
            let event = u16::from_le(shared.avail_event.load(Relaxed));
            // Virtio 1.3, section 2.7.10.
            index.wrapping_sub(event).wrapping_sub(1) < index.wrapping_sub(old)
        } else {
            u16::from_le(shared.used_flags.load(Relaxed)) & 1 == 0
        }
    }

    /// Whether there is a used buffer.
    fn has_used(&self) -> bool {
        let shared = self.shared;
        if self.kind.packed {
            let desc = shared.desc.get(usize::from(self.last_used));
            return desc.is_some_and(|[_, rest]| is_used(rest.load(Acquire)));
        }
        u16::from_le(shared.used_index.load(Acquire)) != self.last_used
    }

    /// Takes all used buffers.
    ///
    /// # Panics
    ///
    /// When one is not as the device completed it.
    pub fn poll(&mut self) {
        while self.has_used() {
            let place = usize::from(self.last_used % SIZE);
            let id = if self.kind.packed {
                let rest = u64::from_le(self.shared.desc[place][1].load(Relaxed));
                (rest >> 32) as u16
            } else {
                let raw = self.shared.used[place].load(Relaxed);
                u32::from_le((raw >> 32) as u32) as u16
            };
            let data = self.shared.data[place].load(Relaxed);
            let (expect, written) = (self.last_used, 1 + self.last_used);
            assert_eq!(
                (id, data),
                (expect, written),
                "a used buffer that the device did not write"
            );
            self.last_used += 1;
        }
    }

    /// Asks not to be called.
    pub fn disable_calls(&self) {
        let shared = self.shared;
        if self.kind.packed {
            shared.driver_event.store(event(1, 0), Relaxed);
        } else if self.kind.event_idx {
            let far = self.last_used.wrapping_sub(1);
            shared.used_event.store(far.to_le(), Relaxed);
        } else {
            shared.avail_flags.store(1u16.to_le(), Relaxed);
        }
    }

    /// Asks to be called for the next used buffer; returns whether there already is one.
    pub fn enable_calls(&self) -> bool {
        let shared = self.shared;
        if self.kind.packed {
            let flags = if self.kind.event_idx { 2 } else { 0 };
            let wish = event(flags, self.last_used);
            shared.driver_event.store(wish, Relaxed);
        } else if self.kind.event_idx {
            let next = self.last_used.to_le();
            shared.used_event.store(next, Relaxed);
        } else {
            shared.avail_flags.store(0, Relaxed);
        }
        // The request is visible before used buffers are looked for. Pairs with `needs_call`.
        fence(SeqCst);
        self.has_used()
    }
}
