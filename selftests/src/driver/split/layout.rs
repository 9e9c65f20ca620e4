// SPDX-License-Identifier: GPL-2.0

//! Where the parts of a split ring lie in memory, and what they look like there.

use crate::driver::memory::GuestMemory;
use crate::driver::uapi::{USED_NO_NOTIFY, VringAddr};
use anyhow::Result;
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
    /// The descriptor whose bytes, little-endian, are those of this one in big-endian.
    #[must_use]
    pub fn swap_bytes(self) -> Self {
        Self {
            addr: self.addr.swap_bytes(),
            len: self.len.swap_bytes(),
            flags: self.flags.swap_bytes(),
            next: self.next.swap_bytes(),
        }
    }

    fn parse(bytes: [u8; 16]) -> Self {
        let [
            a0,
            a1,
            a2,
            a3,
            a4,
            a5,
            a6,
            a7,
            l0,
            l1,
            l2,
            l3,
            f0,
            f1,
            n0,
            n1,
        ] = bytes;
        Self {
            addr: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        }
    }

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
    /// Whether the driver is a legacy one on a big-endian machine.
    pub big_endian: bool,
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
            big_endian: false,
        })
    }

    /// Converts a field of two bytes between the driver's byte order and the processor's.
    #[must_use]
    pub fn half(&self, value: u16) -> u16 {
        if self.big_endian {
            value.swap_bytes()
        } else {
            value
        }
    }

    /// Writes an entry of the descriptor table.
    pub fn write_desc(&self, memory: &GuestMemory, index: u16, descriptor: Descriptor) {
        self.write_table(memory, self.desc, usize::from(index), descriptor);
    }

    /// An entry of the descriptor table.
    #[must_use]
    pub fn read_desc(&self, memory: &GuestMemory, index: u16) -> Descriptor {
        let mut bytes = [0; 16];
        memory.read(self.desc + 16 * u64::from(index), &mut bytes);
        let descriptor = Descriptor::parse(bytes);
        if self.big_endian {
            descriptor.swap_bytes()
        } else {
            descriptor
        }
    }

    /// Writes an entry of the descriptor table at `table`, the ring's own or an indirect one.
    pub(super) fn write_table(
        &self,
        memory: &GuestMemory,
        table: u64,
        index: usize,
        descriptor: Descriptor,
    ) {
        let descriptor = if self.big_endian {
            descriptor.swap_bytes()
        } else {
            descriptor
        };
        write_table(memory, table, index, descriptor);
    }

    /// Writes the entry of the available ring that index `at` names.
    pub fn write_avail(&self, memory: &GuestMemory, at: u16, head: u16) {
        let slot = u64::from(at % self.size);
        memory.store_u16(
            self.avail + 4 + 2 * slot,
            self.half(head),
            Ordering::Relaxed,
        );
    }

    /// The entry of the available ring that index `at` names.
    #[must_use]
    pub fn read_avail(&self, memory: &GuestMemory, at: u16) -> u16 {
        let slot = u64::from(at % self.size);
        self.half(memory.load_u16(self.avail + 4 + 2 * slot, Ordering::Relaxed))
    }

    /// Moves the available index.
    pub fn set_avail_index(&self, memory: &GuestMemory, index: u16) {
        memory.store_u16(self.avail + 2, self.half(index), Ordering::Release);
    }

    /// The available index.
    #[must_use]
    pub fn avail_index(&self, memory: &GuestMemory) -> u16 {
        self.half(memory.load_u16(self.avail + 2, Ordering::Relaxed))
    }

    /// Whether the device wants a kick now that the available index has moved from `old` to what it
    /// is: by the event index if `events`, else by its flags.
    #[must_use]
    pub fn wants_kick(&self, memory: &GuestMemory, events: bool, old: u16) -> bool {
        // The index must be visible before the device's wish for a kick is read.
        fence(Ordering::SeqCst);
        if events {
            let (new, event) = (self.avail_index(memory), self.avail_event(memory));
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            let flags = self.half(memory.load_u16(self.used, Ordering::Relaxed));
            flags & USED_NO_NOTIFY == 0
        }
    }

    /// Writes what a device writes that wants no kick at available index `at`, as stale flags and
    /// event index for a device that is about to use the ring.
    pub fn ask_no_kick(&self, memory: &GuestMemory, at: u16) {
        memory.store_u16(self.used, self.half(USED_NO_NOTIFY), Ordering::Relaxed);
        let event = self.used + 4 + 8 * u64::from(self.size);
        let passed = self.half(at.wrapping_sub(1));
        memory.store_u16(event, passed, Ordering::Relaxed);
    }

    /// The used index.
    #[must_use]
    pub fn used_index(&self, memory: &GuestMemory) -> u16 {
        self.half(memory.load_u16(self.used + 2, Ordering::Acquire))
    }

    /// The index at which the device asked for the next kick.
    #[must_use]
    pub fn avail_event(&self, memory: &GuestMemory) -> u16 {
        let at = self.used + 4 + 8 * u64::from(self.size);
        self.half(memory.load_u16(at, Ordering::Relaxed))
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
