// SPDX-License-Identifier: GPL-2.0

//! [`Memory`] through a [`Mediated`]: the ring's accesses.

use super::{GuestRanges, Mediated, OwnerAccess, Written, EVENT, HALF};
use crate::addr::UserAddr;
use crate::desc::{
    packed_used, raw_from_bytes, ByteOrder, RawDesc, RawUsed, AVAIL_ENTRY_SIZE, DESC_SIZE,
    USED_ENTRY_SIZE,
};
use crate::iotlb::IotlbEntry;
use crate::memory::{LoadMemory, Memory, Unmapped};
use crate::position::Position;
use crate::segment::{Access, Segment};

impl<M, T, S> Mediated<'_, M, T, S>
where
    M: OwnerAccess,
    T: GuestRanges,
    S: AsRef<[IotlbEntry]>,
{
    /// Loads descriptor `index` of the table at `table`.
    fn load_desc(&self, table: UserAddr, index: u16) -> Result<RawDesc, Unmapped> {
        let at = table.wrapping_add(u64::from(index).wrapping_mul(DESC_SIZE));
        let mut bytes = [0u8; DESC_SIZE as usize];
        self.with_pieces(at, DESC_SIZE, Access::Read, |pieces| {
            let mut rest = &mut bytes[..];
            for piece in pieces {
                // CAST: at most a descriptor.
                let (now, later) = rest
                    .split_at_mut_checked(piece.len as usize)
                    .ok_or(Unmapped(at))?;
                self.memory.load_bytes(piece.addr, now)?;
                rest = later;
            }
            Ok(())
        })?;
        Ok(self.order.desc(raw_from_bytes(&bytes)))
    }

    /// Marks the descriptor at `at` of a packed ring as used, and adds its memory to `written`.
    ///
    /// Earlier accesses are ordered before the store.
    fn publish_one(
        &self,
        ring: UserAddr,
        at: Position,
        used: RawUsed,
        written: &mut Written,
    ) -> Result<(), Unmapped> {
        // No wrap: at most 2^15 descriptors.
        let offset = u64::from(at.offset()).wrapping_mul(DESC_SIZE);
        let desc = self.whole(ring.wrapping_add(offset), DESC_SIZE, Access::Write)?;
        // The descriptor is passed as a ring of one, on the same lap.
        let stored = self.memory.publish_packed(desc, 1, at.lap(), &[used]);
        let piece = Segment {
            addr: desc,
            len: DESC_SIZE,
        };
        // A store that failed may have been done in part.
        written.add(piece, |run| self.log_desc(run));
        stored.map(|_| ())
    }

    /// Stores one element of the used ring, and adds its memory to `written`.
    fn store_one(
        &self,
        addr: UserAddr,
        used: RawUsed,
        written: &mut Written,
    ) -> Result<(), Unmapped> {
        let [id, len] = self.order.used(used).map(u32::to_ne_bytes);
        let ([a, b, c, d], [e, f, g, h]) = (id, len);
        let bytes = [a, b, c, d, e, f, g, h];
        self.with_pieces(addr, USED_ENTRY_SIZE, Access::Write, |pieces| {
            let mut rest = &bytes[..];
            for piece in pieces {
                // CAST: at most an element.
                let (now, later) = rest
                    .split_at_checked(piece.len as usize)
                    .ok_or(Unmapped(addr))?;
                let stored = self.memory.store_bytes(piece.addr, now);
                // A store that failed may have been done in part.
                written.add(*piece, |run| self.log_ring(run));
                stored?;
                rest = later;
            }
            Ok(())
        })
    }
}

impl<M, T, S> LoadMemory for &Mediated<'_, M, T, S>
where
    M: LoadMemory,
    T: GuestRanges,
    S: AsRef<[IotlbEntry]>,
{
    fn load(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        let at = self.whole(addr, HALF, Access::Read)?;
        self.memory.load(at).map(|value| self.order.half(value))
    }

    fn load_acquire(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        let at = self.whole(addr, HALF, Access::Read)?;
        self.memory
            .load_acquire(at)
            .map(|value| self.order.half(value))
    }

    /// The byte order does not apply: a packed ring implies `VIRTIO_F_VERSION_1`, which is
    /// little-endian.
    fn load_available(
        &self,
        addr: UserAddr,
        wrap: bool,
        out: &mut [RawDesc],
    ) -> Result<usize, Unmapped> {
        if self.iotlb.is_none() {
            return self.memory.load_available(addr, wrap, out);
        }
        let mut at = addr;
        let mut count = 0usize;
        for desc in out.chunks_mut(1) {
            let whole = self.whole(at, DESC_SIZE, Access::Read)?;
            if self.memory.load_available(whole, wrap, desc)? == 0 {
                break;
            }
            at = at.wrapping_add(DESC_SIZE);
            count = count.wrapping_add(1);
        }
        Ok(count)
    }

    fn load_event(&self, addr: UserAddr) -> Result<u32, Unmapped> {
        let at = self.whole(addr, EVENT, Access::Read)?;
        self.memory.load_event(at)
    }
}

impl<M, T, S> Memory for &Mediated<'_, M, T, S>
where
    M: OwnerAccess,
    T: GuestRanges,
    S: AsRef<[IotlbEntry]>,
{
    fn store(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped> {
        let at = self.whole(addr, HALF, Access::Write)?;
        self.memory.store(at, self.order.half(value))?;
        self.log_ring(Segment {
            addr: at,
            len: HALF,
        });
        Ok(())
    }

    fn store_release(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped> {
        let at = self.whole(addr, HALF, Access::Write)?;
        self.memory.store_release(at, self.order.half(value))?;
        self.log_ring(Segment {
            addr: at,
            len: HALF,
        });
        Ok(())
    }

    fn load_entries(
        &self,
        ring: UserAddr,
        table: UserAddr,
        size: u16,
        indexes: &mut [u16],
        descs: &mut [RawDesc],
    ) -> Result<usize, Unmapped> {
        let mut at = ring;
        let mut good = 0usize;
        for (index, desc) in indexes.iter_mut().zip(descs) {
            *index = u16::from_le((*self).load(at)?);
            if *index >= size {
                break;
            }
            *desc = self.load_desc(table, *index)?;
            at = at.wrapping_add(AVAIL_ENTRY_SIZE);
            good = good.wrapping_add(1);
        }
        Ok(good)
    }

    fn gather_descs(
        &self,
        table: UserAddr,
        indexes: &[u16],
        out: &mut [RawDesc],
    ) -> Result<(), Unmapped> {
        for (index, desc) in indexes.iter().zip(out) {
            *desc = self.load_desc(table, *index)?;
        }
        Ok(())
    }

    /// The descriptors are those of an indirect table, whose address is already translated.
    fn load_descs(&self, addr: UserAddr, out: &mut [RawDesc]) -> Result<(), Unmapped> {
        self.memory.load_descs(addr, out)?;
        for desc in out {
            *desc = self.order.desc(*desc);
        }
        Ok(())
    }

    fn load_bytes(&self, addr: UserAddr, out: &mut [u8]) -> Result<(), Unmapped> {
        self.memory.load_bytes(addr, out)
    }

    fn byte_order(&self) -> ByteOrder {
        self.order
    }

    fn store_used(&self, addr: UserAddr, used: &[RawUsed]) -> Result<(), Unmapped> {
        let mut at = addr;
        let mut written = Written::default();
        let stored = used.iter().try_for_each(|element| {
            self.store_one(at, *element, &mut written)?;
            at = at.wrapping_add(USED_ENTRY_SIZE);
            Ok(())
        });
        // Entries before a failed one have been written.
        written.end(|run| self.log_ring(run));
        stored
    }

    fn publish_packed(
        &self,
        ring: UserAddr,
        size: u16,
        at: Position,
        used: &[RawUsed],
    ) -> Result<Position, Unmapped> {
        let Some((first, later)) = used.split_first() else {
            return Ok(at);
        };
        let slots = |used: &RawUsed| packed_used(*used, false).1;
        let mut written = Written::default();
        let mut next = at.advance(size, slots(first));
        let stored = later.iter().try_for_each(|one| {
            self.publish_one(ring, next, *one, &mut written)?;
            next = next.advance(size, slots(one));
            Ok(())
        });
        let stored = stored.and_then(|()| self.publish_one(ring, at, *first, &mut written));
        // Entries before a failed one have been written.
        written.end(|run| self.log_desc(run));
        stored.map(|()| next)
    }

    fn touch(&self, addr: UserAddr) -> Result<(), Unmapped> {
        let desc = self.whole(addr, DESC_SIZE, Access::Write)?;
        self.memory.touch(desc)
    }

    fn store_event(&self, addr: UserAddr, value: u32) -> Result<(), Unmapped> {
        let at = self.whole(addr, EVENT, Access::Write)?;
        self.memory.store_event(at, value)?;
        self.log_ring(Segment {
            addr: at,
            len: EVENT,
        });
        Ok(())
    }

    fn full_barrier(&self) {
        self.memory.full_barrier();
    }
}
