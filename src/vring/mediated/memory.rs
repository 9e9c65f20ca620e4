// SPDX-License-Identifier: GPL-2.0

//! The accesses of a ring to memory that is mediated.

use super::{GuestRanges, Mediated, OwnerAccess, Written};
use crate::addr::UserAddr;
use crate::desc::{
    raw_from_bytes, ByteOrder, RawDesc, RawUsed, AVAIL_ENTRY_SIZE, DESC_SIZE, USED_ENTRY_SIZE,
};
use crate::iotlb::IotlbEntry;
use crate::memory::{Memory, Unmapped};
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

    /// Stores one element of the used ring, and adds to `written` where.
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
                // One that failed may have been done in part.
                written.add(*piece, |run| self.log_ring(run));
                stored?;
                rest = later;
            }
            Ok(())
        })
    }
}

impl<M, T, S> Memory for &Mediated<'_, M, T, S>
where
    M: OwnerAccess,
    T: GuestRanges,
    S: AsRef<[IotlbEntry]>,
{
    fn load(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        let at = self.whole(addr, Access::Read)?;
        self.memory.load(at).map(|value| self.order.half(value))
    }

    fn load_acquire(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        let at = self.whole(addr, Access::Read)?;
        self.memory
            .load_acquire(at)
            .map(|value| self.order.half(value))
    }

    fn store(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped> {
        let at = self.whole(addr, Access::Write)?;
        self.memory.store(at, self.order.half(value))?;
        self.log_ring(Segment { addr: at, len: 2 });
        Ok(())
    }

    fn store_release(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped> {
        let at = self.whole(addr, Access::Write)?;
        self.memory.store_release(at, self.order.half(value))?;
        self.log_ring(Segment { addr: at, len: 2 });
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

    /// Those of an indirect table, whose address has been translated.
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
        // What lies before one that failed has been written.
        written.end(|run| self.log_ring(run));
        stored
    }

    fn full_barrier(&self) {
        self.memory.full_barrier();
    }
}
