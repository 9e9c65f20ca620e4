// SPDX-License-Identifier: GPL-2.0

//! Descriptor chains: the buffers of one request, direct or in an indirect table.

use crate::addr::GuestAddr;
use crate::desc::{
    raw_from_bytes, Desc, RawDesc, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_SIZE,
};
use crate::fault::Fault;
use crate::memory::Memory;
use crate::segment::{Access, Hint, Segments, Translate};

/// The most segments that one chain may have, as `UIO_MAXIOV` limits the in-tree vhost.
pub const MAX_CHAIN_SEGMENTS: usize = 1024;

/// The most descriptors that one chain may have, indirect ones included.
///
/// More than segments, since a descriptor may be empty; bounded, since following one costs time. A
/// chain that is refused has cost no more than this.
pub const MAX_CHAIN_DESCS: u32 = 2048;

/// The most descriptors of an indirect table: as many as `next` can name.
const MAX_TABLE: u32 = 1 << 16;

/// Descriptors of an indirect table read at once, a power of two.
const WINDOW: usize = 16;

/// A descriptor chain that the driver made available.
///
/// Its segments are in the list given to [`GetWork::next_chain`](crate::GetWork::next_chain), readable ones first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// What the driver knows it by, to complete it with: in a split ring the index of its first
    /// descriptor, in a packed one what its last descriptor says.
    pub id: u16,
    /// Number of descriptors that it occupies in the ring itself: one for a single buffer and for an
    /// indirect table.
    pub slots: u16,
    /// Number of descriptors that were visited for it, as a measure of its cost: those of indirect
    /// tables, those that name such tables and those of empty buffers included.
    pub descs: u32,
    /// Number of segments that the device reads.
    pub readable: usize,
    /// Number of segments that the device writes.
    pub writable: usize,
    /// Length of all segments together, in bytes.
    pub len: u64,
}

impl Chain {
    /// A chain without buffers; of one descriptor, unless it is told otherwise.
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

/// Descriptors of an indirect table, read ahead; memory that a ring keeps from chain to chain.
pub(crate) type Window = [RawDesc; WINDOW];

/// A chain being put together, descriptor by descriptor.
pub(crate) struct Walk<'a, 'b, M, T> {
    pub(crate) memory: &'a M,
    pub(crate) table: &'a T,
    pub(crate) hint: &'a mut Hint,
    pub(crate) window: &'a mut Window,
    pub(crate) out: &'a mut Segments<'b>,
    /// What there is of the chain.
    chain: Chain,
    /// How many descriptors it may still take.
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

    /// The whole chain, which had `slots` descriptors in the ring's own table.
    #[inline]
    pub(crate) fn end(self, id: u16, slots: u16) -> Chain {
        Chain {
            id,
            slots,
            // No wrap: it only goes down.
            descs: MAX_CHAIN_DESCS.wrapping_sub(self.left),
            ..self.chain
        }
    }

    /// Appends what a descriptor of a split ring names, a buffer or a table of buffers.
    #[inline]
    pub(crate) fn append(&mut self, desc: &Desc) -> Result<(), Fault> {
        if desc.has(DESC_F_INDIRECT) {
            self.take_one()?;
            self.append_table(desc)
        } else {
            self.append_buffer(desc)
        }
    }

    /// Appends what a descriptor of a packed ring names, a buffer or a table of buffers.
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
        // The first of the descriptors that the window shows.
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

    /// Appends the buffers of a packed ring's indirect table: all of them, one after the other, and of
    /// their flags only one has a meaning (virtio 1.3, section 2.8.7).
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

    /// Descriptor `index` of an indirect table of `count`. `shown` is the first of those that the window
    /// shows.
    #[inline(always)]
    fn table_desc(
        &mut self,
        indirect: &Desc,
        count: u32,
        index: u32,
        shown: &mut Option<u32>,
    ) -> Result<RawDesc, Fault> {
        // CAST: widens, and constants that fit. No check, which a processor may take for passed and then
        // load from wherever the guest likes (Spectre v1): each place is there.
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

    /// Reads `count` descriptors from number `first` on of the table at guest address `table`.
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

    /// Reads `bytes` bytes into the window; the list of segments serves as scratch memory behind
    /// its first `before`.
    fn read_at(&mut self, at: GuestAddr, bytes: u32, before: usize) -> Result<(), Fault> {
        self.table
            .translate(self.hint, at, bytes, Access::Read, self.out)?;
        // CAST: `bytes` is that of at most a window.
        let count = (bytes >> DESC_SIZE.trailing_zeros()) as usize;
        let window = self.window.get_mut(..count).unwrap_or_default();
        let pieces = self.out.from(before);
        if let [whole] = pieces {
            self.memory.load_descs(whole.addr, window)?;
            return Ok(());
        }
        // Cut by regions, perhaps within a descriptor.
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
