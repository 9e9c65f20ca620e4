// SPDX-License-Identifier: GPL-2.0

//! Where the parts of a packed ring lie in memory, and what they look like there.

use crate::driver::memory::GuestMemory;
use crate::driver::uapi::{DESC_AVAIL, DESC_USED, VringAddr, event};
use anyhow::Result;
use std::sync::atomic::Ordering;

/// A place in a ring, with the wrap counter that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of a descriptor.
    pub offset: u16,
    /// Changes with each turn; true in the first.
    pub wrap: bool,
}

impl Place {
    /// From the lower half of a base, or from the offset of an event.
    #[must_use]
    pub fn parse(half: u16) -> Self {
        Self {
            offset: half & 0x7fff,
            wrap: half >> 15 != 0,
        }
    }

    /// As in either half of a base, and in the offset of an event.
    #[must_use]
    pub fn half(self) -> u16 {
        self.offset | u16::from(self.wrap) << 15
    }

    /// The place `count` descriptors further in a ring of `size`, no more than one turn.
    #[must_use]
    pub fn after(self, count: u16, size: u16) -> Self {
        let sum = u32::from(self.offset) + u32::from(count);
        let size = u32::from(size);
        // CAST: below the size of a ring.
        match sum.checked_sub(size) {
            None => Self {
                offset: sum as u16,
                ..self
            },
            Some(over) => Self {
                offset: over as u16,
                wrap: !self.wrap,
            },
        }
    }

    /// How many descriptors after `earlier` this is in a ring of `size`: less than two turns. An
    /// offset beyond the ring, which a device must not write, counts as one before its end.
    #[must_use]
    pub fn since(self, earlier: Self, size: u16) -> u32 {
        let size = u32::from(size);
        let count = |place: Self| {
            let turn = if place.wrap { 0 } else { size };
            turn + u32::from(place.offset).min(size - 1)
        };
        (count(self) + 2 * size - count(earlier)) % (2 * size)
    }

    /// The flags of a descriptor that is available here.
    #[must_use]
    pub fn available(self) -> u16 {
        if self.wrap { DESC_AVAIL } else { DESC_USED }
    }

    /// The flags of a descriptor that was used here.
    #[must_use]
    pub fn used(self) -> u16 {
        if self.wrap { DESC_AVAIL | DESC_USED } else { 0 }
    }
}

/// A descriptor as it lies in the ring, or in an indirect table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackedDescriptor {
    /// Guest address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// Which chain this is; counts in the last descriptor of a chain, and in a used one.
    pub id: u16,
    /// `DESC_*` flags.
    pub flags: u16,
}

impl PackedDescriptor {
    fn bytes(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.addr.to_le_bytes());
        out[8..12].copy_from_slice(&self.len.to_le_bytes());
        out[12..14].copy_from_slice(&self.id.to_le_bytes());
        out[14..].copy_from_slice(&self.flags.to_le_bytes());
        out
    }
}

/// Where the three parts of a packed ring lie in guest memory.
#[derive(Clone, Copy, Debug)]
pub struct PackedLayout {
    /// Number of descriptors.
    pub size: u16,
    /// The descriptors.
    pub ring: u64,
    /// The driver's event suppression structure.
    pub driver: u64,
    /// The device's event suppression structure.
    pub device: u64,
}

impl PackedLayout {
    /// Sets room aside for a ring.
    ///
    /// # Errors
    ///
    /// When the memory is full.
    pub fn alloc(memory: &GuestMemory, size: u16) -> Result<Self> {
        Ok(Self {
            size,
            ring: memory.alloc(16 * usize::from(size), 16)?,
            // Apart, as Linux has them.
            driver: memory.alloc(4, 4096)?,
            device: memory.alloc(4, 4096)?,
        })
    }

    /// Guest address of a descriptor.
    #[must_use]
    pub fn slot(&self, offset: u16) -> u64 {
        self.ring + 16 * u64::from(offset)
    }

    /// Writes a descriptor but for its flags, which give it to the other side.
    pub fn prepare(&self, memory: &GuestMemory, offset: u16, descriptor: PackedDescriptor) {
        memory.write(self.slot(offset), &descriptor.bytes()[..14]);
    }

    /// Writes the flags of a descriptor.
    pub fn set_flags(&self, memory: &GuestMemory, offset: u16, flags: u16, order: Ordering) {
        memory.store_u16(self.slot(offset) + 14, flags, order);
    }

    /// The flags of a descriptor.
    #[must_use]
    pub fn flags(&self, memory: &GuestMemory, offset: u16) -> u16 {
        memory.load_u16(self.slot(offset) + 14, Ordering::Acquire)
    }

    /// A descriptor, whose flags are read first.
    #[must_use]
    pub fn read(&self, memory: &GuestMemory, offset: u16) -> PackedDescriptor {
        let flags = self.flags(memory, offset);
        let mut bytes = [0; 16];
        memory.read(self.slot(offset), &mut bytes);
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, i0, i1, ..] = bytes;
        PackedDescriptor {
            addr: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            id: u16::from_le_bytes([i0, i1]),
            flags,
        }
    }

    /// Whether the descriptor at a place is available.
    #[must_use]
    pub fn is_available(&self, memory: &GuestMemory, at: Place) -> bool {
        self.flags(memory, at.offset) & (DESC_AVAIL | DESC_USED) == at.available()
    }

    /// Whether the descriptor at a place was used.
    #[must_use]
    pub fn is_used(&self, memory: &GuestMemory, at: Place) -> bool {
        self.flags(memory, at.offset) & (DESC_AVAIL | DESC_USED) == at.used()
    }

    /// Whether the device has written a descriptor last, in whatever turn.
    #[must_use]
    pub fn looks_used(&self, memory: &GuestMemory, offset: usize) -> bool {
        // CAST: within a ring.
        let flags = self.flags(memory, offset as u16);
        (flags & DESC_AVAIL == 0) == (flags & DESC_USED == 0)
    }

    /// What the device wants to be kicked for: a place, and one of [`event`].
    #[must_use]
    pub fn device_event(&self, memory: &GuestMemory) -> (Place, u16) {
        let word = memory.load_u32(self.device, Ordering::Relaxed);
        // CAST: the lower half, and the upper one.
        (Place::parse(word as u16), (word >> 16) as u16)
    }

    /// Writes what the driver wants to be called for: a place, and one of [`event`].
    pub fn set_driver_event(&self, memory: &GuestMemory, at: Place, flags: u16) {
        let word = u32::from(at.half()) | u32::from(flags) << 16;
        memory.store_u32(self.driver, word, Ordering::Relaxed);
    }

    /// Whether the device wants a kick now that descriptors up to `new` are available, from `old`
    /// on.
    #[must_use]
    pub fn wants_kick(&self, memory: &GuestMemory, events: bool, old: Place, new: Place) -> bool {
        let (at, flags) = self.device_event(memory);
        match flags {
            event::DISABLE => false,
            event::DESC if events => {
                let moved = new.since(old, self.size);
                // The named descriptor is one of those that have become available.
                (1..=moved).contains(&new.since(at, self.size))
            }
            _ => true,
        }
    }

    /// Writes what a device writes that wants no kick, as a stale wish for a device that is about
    /// to use the ring.
    pub fn ask_no_kick(&self, memory: &GuestMemory) {
        let word = u32::from(event::DISABLE) << 16;
        memory.store_u32(self.device, word, Ordering::Relaxed);
    }

    /// Empties the ring, at a place: all before it was used in this turn, the rest in the one
    /// before.
    pub fn clear(&self, memory: &GuestMemory, start: Place) {
        memory.fill(self.ring, 16 * usize::from(self.size), 0);
        for offset in 0..self.size {
            let wrap = start.wrap == (offset < start.offset);
            let flags = Place { offset, wrap }.used();
            self.set_flags(memory, offset, flags, Ordering::Release);
        }
        for part in [self.driver, self.device] {
            memory.store_u32(part, 0, Ordering::Release);
        }
    }

    /// The parts as addresses of the process.
    #[must_use]
    pub fn place(&self, memory: &GuestMemory) -> VringAddr {
        VringAddr {
            desc: memory.user(self.ring),
            avail: memory.user(self.driver),
            used: memory.user(self.device),
            ..VringAddr::default()
        }
    }
}

/// Writes entry `index` of an indirect table.
pub fn write_entry(memory: &GuestMemory, table: u64, index: usize, entry: PackedDescriptor) {
    memory.write(table + 16 * index as u64, &entry.bytes());
}
