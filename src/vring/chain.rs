// SPDX-License-Identifier: GPL-2.0

//! Descriptor chains: the buffers of one request, in the ring or in an indirect table.

use crate::addr::GuestAddr;
use crate::desc::{
    raw_from_bytes, Desc, RawDesc, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_SIZE,
};
use crate::fault::Fault;
use crate::memory::Memory;
use crate::segment::{Access, Hint, Segments, Translate};

/// The most segments that one chain may have: `UIO_MAXIOV`, the limit of the in-tree vhost.
pub const MAX_CHAIN_SEGMENTS: usize = 1024;

/// The most descriptors that one chain may have, indirect ones included.
///
/// The limit is higher than that on segments, since a descriptor may be empty. It bounds the time
/// that a chain can cost before it is refused.
pub const MAX_CHAIN_DESCS: u32 = 2048;

/// The most descriptors of an indirect table: as many as the 16-bit `next` can address.
const MAX_TABLE: u32 = 1 << 16;

/// Descriptors of an indirect table read at once, a power of two.
const WINDOW: usize = 16;

/// A descriptor chain that the driver made available.
///
/// Its segments are in the list passed to [`GetWork::next_chain`](crate::GetWork::next_chain),
/// readable ones first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// The id to complete the chain with: in a split ring the index of its first descriptor, in a
    /// packed ring the buffer id of its last descriptor.
    pub id: u16,
    /// Number of descriptors that the chain occupies in the ring or descriptor table itself: one
    /// for a single buffer or an indirect table.
    pub slots: u16,
    /// Number of descriptors that were read for the chain, as a measure of its cost, including
    /// those in indirect tables, those that refer to such tables and those of empty buffers.
    pub descs: u32,
    /// Number of segments that the device reads.
    pub readable: usize,
    /// Number of segments that the device writes.
    pub writable: usize,
    /// Length of all segments together, in bytes.
    pub len: u64,
}

impl Chain {
    /// A chain of one descriptor, without buffers yet.
    #[inline]
    pub(crate) fn new(id: u16) -> Self {
        Self {
            id,
            slots: 1,
            descs: 1,
            ..Self::default()
        }
    }

    /// Appends the buffer of one descriptor.
    #[inline(always)]
    pub(crate) fn append<T: Translate>(
        &mut self,
        table: &T,
        hint: &mut Hint,
        desc: &Desc,
        out: &mut Segments<'_>,
    ) -> Result<(), Fault> {
        let writable = desc.has(DESC_F_WRITE);
        if !writable && self.writable > 0 {
            return Err(Fault::ReadableAfterWritable);
        }
        let access = if writable {
            Access::Write
        } else {
            Access::Read
        };
        let before = out.len();
        table.translate(hint, GuestAddr(desc.addr), desc.len, access, out)?;
        let count = out.len().wrapping_sub(before);
        let side = if writable {
            &mut self.writable
        } else {
            &mut self.readable
        };
        *side = side.wrapping_add(count);
        // No wrap: at most MAX_CHAIN_DESCS lengths of 32 bits.
        self.len = self.len.wrapping_add(u64::from(desc.len));
        Ok(())
    }
}

/// A buffer for descriptors read ahead from an indirect table; a ring keeps it from chain to chain.
pub(crate) type Window = [RawDesc; WINDOW];

/// A chain under construction, descriptor by descriptor.
pub(crate) struct Walk<'a, 'b, M, T> {
    pub(crate) memory: &'a M,
    pub(crate) table: &'a T,
    pub(crate) hint: &'a mut Hint,
    pub(crate) window: &'a mut Window,
    pub(crate) out: &'a mut Segments<'b>,
    /// The chain so far.
    chain: Chain,
    /// Number of descriptors that may still be read.
    left: u32,
}

impl<'a, 'b, M: Memory, T: Translate> Walk<'a, 'b, M, T> {
    /// An empty chain.
    #[inline]
    pub(crate) fn new(
        memory: &'a M,
        table: &'a T,
        hint: &'a mut Hint,
        window: &'a mut Window,
        out: &'a mut Segments<'b>,
    ) -> Self {
        Self {
            memory,
            table,
            hint,
            window,
            out,
            chain: Chain::default(),
            left: MAX_CHAIN_DESCS,
        }
    }

    /// The finished chain, which occupies `slots` descriptors of the ring itself.
    #[inline]
    pub(crate) fn end(self, id: u16, slots: u16) -> Chain {
        Chain {
            id,
            slots,
            // No wrap: `left` starts there and only decreases.
            descs: MAX_CHAIN_DESCS.wrapping_sub(self.left),
            ..self.chain
        }
    }

    /// Appends the buffer or the indirect table of a split ring's descriptor.
    #[inline]
    pub(crate) fn append(&mut self, desc: &Desc) -> Result<(), Fault> {
        if desc.has(DESC_F_INDIRECT) {
            self.take_one()?;
            self.append_table(desc)
        } else {
            self.append_buffer(desc)
        }
    }

    /// Appends the buffer or the indirect table of a packed ring's descriptor.
    #[inline]
    pub(crate) fn append_packed(&mut self, desc: &Desc) -> Result<(), Fault> {
        if desc.has(DESC_F_INDIRECT) {
            self.take_one()?;
            self.append_list(desc)
        } else {
            self.append_buffer(desc)
        }
    }

    #[inline]
    fn take_one(&mut self) -> Result<(), Fault> {
        self.left = self.left.checked_sub(1).ok_or(Fault::ChainTooLong)?;
        Ok(())
    }

    /// Appends the buffer of one descriptor.
    #[inline]
    fn append_buffer(&mut self, desc: &Desc) -> Result<(), Fault> {
        self.take_one()?;
        let chain = &mut self.chain;
        chain.append(self.table, self.hint, desc, self.out)?;
        if chain.readable.wrapping_add(chain.writable) > MAX_CHAIN_SEGMENTS {
            return Err(Fault::TooManySegments);
        }
        Ok(())
    }

    /// Appends the buffers of a split ring's indirect table (virtio 1.3, section 2.7.5.3).
    fn append_table(&mut self, indirect: &Desc) -> Result<(), Fault> {
        let count = table_len(indirect)?;
        let mut index = 0u32;
        // The index of the first descriptor in the window.
        let mut shown = None;
        // More steps than the table has descriptors are a loop.
        for _ in 0..count {
            let raw = self.table_desc(indirect, count, index, &mut shown)?;
            let desc = Desc::from_raw(raw);
            if desc.has(DESC_F_INDIRECT) {
                return Err(Fault::NestedIndirect);
            }
            self.append_buffer(&desc)?;
            if !desc.has(DESC_F_NEXT) {
                return Ok(());
            }
            index = u32::from(desc.next);
            if index >= count {
                return Err(Fault::DescIndex { index, size: count });
            }
        }
        Err(Fault::ChainTooLong)
    }

    /// Appends all buffers of a packed ring's indirect table in order; the write flag is the only
    /// flag that has a meaning there (virtio 1.3, section 2.8.7).
    fn append_list(&mut self, indirect: &Desc) -> Result<(), Fault> {
        let count = table_len(indirect)?;
        let mut shown = None;
        for index in 0..count {
            let raw = self.table_desc(indirect, count, index, &mut shown)?;
            let (desc, _) = Desc::from_packed(raw);
            self.append_buffer(&desc)?;
        }
        Ok(())
    }

    /// Descriptor `index` of an indirect table of `count` descriptors; `shown` is the index of the
    /// first descriptor in the window.
    #[inline(always)]
    fn table_desc(
        &mut self,
        indirect: &Desc,
        count: u32,
        index: u32,
        shown: &mut Option<u32>,
    ) -> Result<RawDesc, Fault> {
        // CAST: widens, and constants that fit. There is no bounds check for a processor to
        // speculate past and load from an address that the guest chooses (Spectre v1): every value
        // of `slot` is in bounds.
        let slot = index as usize % WINDOW;
        let first = index.wrapping_sub(slot as u32);
        if *shown != Some(first) {
            // No wrap: index < count.
            let len = count.wrapping_sub(first).min(WINDOW as u32);
            self.read_window(indirect.addr, first, len)?;
            *shown = Some(first);
        }
        Ok(self.window.get(slot).copied().unwrap_or_default())
    }

    /// Reads into the window `count` descriptors, from index `first` on, of the table at guest
    /// address `table`.
    fn read_window(&mut self, table: u64, first: u32, count: u32) -> Result<(), Fault> {
        // No wrap: at most 2^16 descriptors.
        let bytes = count.wrapping_mul(DESC_SIZE as u32);
        let at = table.checked_add(u64::from(first).wrapping_mul(DESC_SIZE));
        let at = at.ok_or(Fault::outside(table, u64::from(bytes)))?;
        let before = self.out.len();
        let read = self.read_at(GuestAddr(at), bytes, before);
        self.out.truncate(before);
        read
    }

    /// Reads `bytes` bytes into the window, with the list of segments behind its first `before` as
    /// scratch memory.
    fn read_at(&mut self, at: GuestAddr, bytes: u32, before: usize) -> Result<(), Fault> {
        self.table
            .translate(self.hint, at, bytes, Access::Read, self.out)?;
        // CAST: `bytes` is at most the size of the window.
        let count = (bytes >> DESC_SIZE.trailing_zeros()) as usize;
        let window = self.window.get_mut(..count).unwrap_or_default();
        let pieces = self.out.from(before);
        if let [whole] = pieces {
            self.memory.load_descs(whole.addr, window)?;
            return Ok(());
        }
        // The table crosses a region boundary, perhaps within a descriptor.
        let mut buffer = [0u8; WINDOW * DESC_SIZE as usize];
        let mut rest = &mut buffer[..];
        for piece in pieces {
            let len = usize::try_from(piece.len).unwrap_or(usize::MAX);
            let (now, later) = rest
                .split_at_mut_checked(len)
                .ok_or(Fault::TooManySegments)?;
            self.memory.load_bytes(piece.addr, now)?;
            rest = later;
        }
        let order = self.memory.byte_order();
        for (slot, desc) in window.iter_mut().zip(buffer.chunks_exact(16)) {
            *slot = order.desc(raw_from_bytes(desc.first_chunk().unwrap_or(&[0; 16])));
        }
        Ok(())
    }
}

/// The number of descriptors of an indirect table.
#[inline]
fn table_len(indirect: &Desc) -> Result<u32, Fault> {
    let count = indirect.len >> DESC_SIZE.trailing_zeros();
    // CAST: constants that fit.
    let odd = indirect.len & (DESC_SIZE as u32).wrapping_sub(1);
    if count == 0 || odd != 0 || count > MAX_TABLE {
        return Err(Fault::IndirectLength { len: indirect.len });
    }
    Ok(count)
}
