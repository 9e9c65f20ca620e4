// SPDX-License-Identifier: GPL-2.0

//! The driver's memory as the device sees it.

use std::ops::Range;

use vring::{
    DESC_SIZE, LoadMemory, Memory, Position, RawDesc, RawUsed, RingAddrs, Unmapped, UserAddr,
    packed_availability, packed_used,
};

use crate::ffi::{self, Plain};

/// What this thread's drivers have allocated, at the driver's own addresses.
///
/// A chain's buffers are not part of it. An access elsewhere, or a store outside the device's parts of
/// the ring, fails as one to unmapped memory does.
pub struct Shared<F> {
    /// What the device may write.
    writable: [Range<u64>; 2],
    /// Called before each access.
    pause: F,
}

impl<F: Fn()> Shared<F> {
    /// Memory with a ring at `addrs` whose parts are as long as `extents` says, in bytes. The device
    /// may write the last part, and the first if the ring is `packed`.
    ///
    /// `pause` is called before each access of the device.
    pub fn new(addrs: RingAddrs, extents: [u64; 3], packed: bool, pause: F) -> Self {
        let [desc, _, used] = extents;
        let part = |addr: UserAddr, len: u64| addr.0..addr.0 + len;
        Self {
            writable: [
                part(addrs.used, used),
                part(addrs.desc, if packed { desc } else { 0 }),
            ],
            pause,
        }
    }

    fn get<T: Plain>(&self, addr: UserAddr) -> Result<T, Unmapped> {
        (self.pause)();
        ffi::load(addr.0).ok_or(Unmapped(addr))
    }

    fn put<T: Plain>(&self, addr: UserAddr, value: T) -> Result<(), Unmapped> {
        (self.pause)();
        let end = addr.0.checked_add(size_of::<T>() as u64);
        let is_within = |part: &Range<u64>| part.start <= addr.0 && end <= Some(part.end);
        if end.is_none() || !self.writable.iter().any(is_within) {
            return Err(Unmapped(addr));
        }
        ffi::store(addr.0, value).ok_or(Unmapped(addr))
    }

    /// Loads a descriptor.
    fn get_desc(&self, addr: UserAddr) -> Result<RawDesc, Unmapped> {
        Ok([self.get(addr)?, self.get(addr.wrapping_add(8))?])
    }
}

/// The address of the descriptor at `index` of a table.
fn desc_at(table: UserAddr, index: u16) -> UserAddr {
    table.wrapping_add(u64::from(index) * DESC_SIZE)
}

impl<F: Fn()> LoadMemory for Shared<F> {
    fn load(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        self.get(addr)
    }

    fn load_acquire(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        self.get(addr)
    }

    fn load_available(
        &self,
        addr: UserAddr,
        wrap: bool,
        out: &mut [RawDesc],
    ) -> Result<usize, Unmapped> {
        let (mask, bits) = packed_availability(wrap);
        let mut loaded = 0;
        for (at, desc) in (0..).step_by(16).zip(out) {
            let addr = addr.wrapping_add(at);
            let rest: u64 = self.get(addr.wrapping_add(8))?;
            if rest & mask != bits {
                break;
            }
            *desc = [self.get(addr)?, rest];
            loaded += 1;
        }
        Ok(loaded)
    }

    fn load_event(&self, addr: UserAddr) -> Result<u32, Unmapped> {
        self.get(addr)
    }
}

impl<F: Fn()> Memory for Shared<F> {
    fn store(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped> {
        self.put(addr, value)
    }

    fn store_release(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped> {
        self.put(addr, value)
    }

    fn load_entries(
        &self,
        ring: UserAddr,
        table: UserAddr,
        size: u16,
        indexes: &mut [u16],
        descs: &mut [RawDesc],
    ) -> Result<usize, Unmapped> {
        let mut loaded = 0;
        for (at, (index, desc)) in (0..).step_by(2).zip(indexes.iter_mut().zip(descs)) {
            *index = u16::from_le(self.get(ring.wrapping_add(at))?);
            if *index >= size {
                break;
            }
            *desc = self.get_desc(desc_at(table, *index))?;
            loaded += 1;
        }
        Ok(loaded)
    }

    fn gather_descs(
        &self,
        table: UserAddr,
        indexes: &[u16],
        out: &mut [RawDesc],
    ) -> Result<(), Unmapped> {
        for (desc, index) in out.iter_mut().zip(indexes) {
            *desc = self.get_desc(desc_at(table, *index))?;
        }
        Ok(())
    }

    fn load_descs(&self, addr: UserAddr, out: &mut [RawDesc]) -> Result<(), Unmapped> {
        for (at, desc) in (0..).step_by(16).zip(out) {
            *desc = self.get_desc(addr.wrapping_add(at))?;
        }
        Ok(())
    }

    fn load_bytes(&self, addr: UserAddr, out: &mut [u8]) -> Result<(), Unmapped> {
        for (at, byte) in (0..).zip(out) {
            *byte = self.get(addr.wrapping_add(at))?;
        }
        Ok(())
    }

    fn store_used(&self, addr: UserAddr, used: &[RawUsed]) -> Result<(), Unmapped> {
        for (at, word) in (0..).step_by(4).zip(used.iter().flatten()) {
            self.put(addr.wrapping_add(at), *word)?;
        }
        Ok(())
    }

    fn publish_packed(
        &self,
        ring: UserAddr,
        size: u16,
        at: Position,
        used: &[RawUsed],
    ) -> Result<Position, Unmapped> {
        let mut next = at;
        let mut first = None;
        for one in used {
            let (word, slots) = packed_used(*one, next.wrap());
            let place = desc_at(ring, next.offset()).wrapping_add(8);
            match first {
                None => first = Some((place, word)),
                Some(_) => self.put(place, word)?,
            }
            next = next.advance(size, slots);
        }
        if let Some((place, word)) = first {
            self.put(place, word)?;
        }
        Ok(next)
    }

    fn touch(&self, addr: UserAddr) -> Result<(), Unmapped> {
        let word: u64 = self.get(addr.wrapping_add(8))?;
        self.put(addr.wrapping_add(8), word)
    }

    fn store_event(&self, addr: UserAddr, value: u32) -> Result<(), Unmapped> {
        self.put(addr, value)
    }

    fn full_barrier(&self) {
        (self.pause)();
    }
}
