// SPDX-License-Identifier: GPL-2.0

//! Guest memory behind an IOTLB, with a dirty log, or with rings in big-endian byte order.
//!
//! The ring code is not aware of these: it uses a [`Mediated`] in place of the owner's memory.

mod memory;

use core::cell::Cell;

use crate::addr::{GuestAddr, UserAddr};
use crate::desc::{ByteOrder, DESC_SIZE, USED_ENTRY_SIZE};
use crate::fault::Fault;
use crate::iotlb::{Iotlb, IotlbEntry, Miss, Untranslated};
use crate::log::for_each_log_word;
use crate::memory::{Memory, Unmapped};
use crate::ring::RingAddrs;
use crate::segment::{Access, Hint, Segment, Segments, Translate};

/// The most pieces that a descriptor or an element of the used ring may be cut into: one for each
/// of its bytes.
const PIECES: usize = DESC_SIZE as usize;

/// Length of a field of a split ring that is accessed at once, in bytes.
const HALF: u64 = 2;
/// Length of an event of a packed ring, in bytes.
const EVENT: u64 = 4;

// A descriptor is the longest field that is accessed in pieces.
const _: () = assert!(USED_ENTRY_SIZE <= DESC_SIZE);

/// The accesses to the owner's memory that mediation needs in addition to those of [`Memory`].
pub trait OwnerAccess: Memory {
    /// Stores bytes.
    ///
    /// # Errors
    ///
    /// [`Unmapped`].
    fn store_bytes(&self, addr: UserAddr, from: &[u8]) -> Result<(), Unmapped>;

    /// Sets bits of an aligned little-endian 32-bit word atomically, since the owner may clear bits
    /// at any time.
    ///
    /// Earlier accesses are ordered before it.
    ///
    /// # Errors
    ///
    /// [`Unmapped`].
    fn set_bits(&self, addr: UserAddr, bits: u32) -> Result<(), Unmapped>;
}

/// The reverse translation, from user memory to guest-physical addresses, as
/// [`MemTable`](crate::MemTable) has it.
pub trait GuestRanges {
    /// As [`MemTable::guest_ranges`](crate::MemTable::guest_ranges).
    ///
    /// # Errors
    ///
    /// Those that `visit` returns.
    fn guest_ranges<E>(
        &self,
        user: UserAddr,
        len: u64,
        visit: impl FnMut(GuestAddr, u64) -> Result<(), E>,
    ) -> Result<bool, E>;
}

/// The dirty log: a bitmap in the owner's memory with one bit for each page of guest memory.
#[derive(Clone, Copy, Debug)]
pub struct DirtyLog {
    /// The byte with the bit of guest page 0 (`VHOST_SET_LOG_BASE`).
    pub base: UserAddr,
    /// Whether writes to buffers are logged (`VHOST_F_LOG_ALL`).
    pub buffers: bool,
    /// Whether writes to the ring are logged (`VHOST_VRING_F_LOG`), and the guest address of the
    /// device area in the log.
    ///
    /// With an IOTLB the guest address is looked up instead, and for the descriptors of a packed
    /// ring always.
    pub used: Option<GuestAddr>,
}

/// The owner's memory `M`, seen through an IOTLB with entries in `S`, logging writes to memory that
/// `T` describes.
///
/// It translates the addresses of the ring as well as those of buffers: with an IOTLB both are IO
/// virtual addresses. Nothing that it refers to may change while it exists.
pub struct Mediated<'a, M, T, S> {
    /// The owner's memory.
    pub memory: M,
    /// Guest-physical memory.
    pub table: &'a T,
    /// The IOTLB that translates all addresses of the guest, if it has a virtual IOMMU.
    pub iotlb: Option<&'a Iotlb<S>>,
    /// Where writes are logged, and which.
    pub log: DirtyLog,
    /// Byte order of the ring and of packet headers.
    pub order: ByteOrder,
    /// Where the ring lies.
    pub ring: RingAddrs,
    /// What the accesses leave for the owner.
    pub notes: Notes,
}

/// What the owner has to be told after a round.
#[derive(Debug, Default)]
pub struct Notes {
    hint: Cell<Hint>,
    missed: Cell<Option<Miss>>,
    logged: Cell<bool>,
    unlogged: Cell<Option<UserAddr>>,
    owed: Cell<Option<Owed>>,
}

/// A range of guest memory that covers all writes that could not be logged, to be logged when the
/// log is accessible again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owed {
    first: GuestAddr,
    last: GuestAddr,
}

impl Owed {
    /// The smallest range that covers both; logging a page too many only costs a useless copy.
    #[must_use]
    pub fn and(self, other: Option<Self>) -> Self {
        match other {
            Some(other) => Self {
                first: GuestAddr(self.first.0.min(other.first.0)),
                last: GuestAddr(self.last.0.max(other.last.0)),
            },
            None => self,
        }
    }
}

impl Notes {
    /// The IO virtual address to ask the owner for, if a missing translation caused `fault`.
    #[must_use]
    pub fn missed(&self, fault: Fault) -> Option<Miss> {
        // A later access, made to end the round, may have succeeded: the noted miss need not be the
        // cause.
        let missed = self.missed.take();
        match fault {
            Fault::OutsideMemory { addr, .. } => missed.filter(|miss| miss.addr.0 == addr),
            Fault::Unmapped(_) => missed,
            _ => None,
        }
    }

    /// Whether anything has been logged.
    #[must_use]
    pub fn logged(&self) -> bool {
        self.logged.get()
    }

    /// Writes that could not be logged, to be retried later.
    #[must_use]
    pub fn owed(&self) -> Option<Owed> {
        self.owed.get()
    }

    /// The fault of a write that could not be logged, if there was one.
    #[must_use]
    pub fn unlogged(&self) -> Option<Fault> {
        self.unlogged.get().map(Fault::Unlogged)
    }
}

/// Collects pieces of memory written one after the other, so that contiguous ones are logged as one
/// run.
#[derive(Default)]
struct Written {
    /// The current run, not logged yet.
    run: Segment,
}

impl Written {
    /// Adds a piece; if it does not start where the run ends, that run is logged and a new one
    /// begins.
    fn add(&mut self, piece: Segment, log: impl FnOnce(Segment)) {
        if self.run.addr.0.checked_add(self.run.len) == Some(piece.addr.0) {
            self.run.len = self.run.len.wrapping_add(piece.len);
        } else {
            core::mem::replace(self, Self { run: piece }).end(log);
        }
    }

    /// Logs the last run.
    fn end(self, log: impl FnOnce(Segment)) {
        if self.run.len > 0 {
            log(self.run);
        }
    }
}

impl<M, T, S> Mediated<'_, M, T, S>
where
    T: GuestRanges,
    S: AsRef<[IotlbEntry]>,
{
    /// Records the address that a translation missed.
    fn note(&self, translated: Result<(), Untranslated>) -> Result<(), Fault> {
        if let Err(Untranslated::Miss(miss)) = translated {
            self.notes.missed.set(Some(miss));
        }
        translated.map_err(Fault::from)
    }

    /// Calls `f` with the pieces of the owner's memory that hold `len` bytes of the ring at `addr`.
    fn with_pieces<R>(
        &self,
        addr: UserAddr,
        len: u64,
        access: Access,
        f: impl FnOnce(&[Segment]) -> Result<R, Unmapped>,
    ) -> Result<R, Unmapped> {
        let Some(iotlb) = self.iotlb else {
            return f(&[Segment { addr, len }]);
        };
        let mut storage = [Segment::default(); PIECES];
        let mut pieces = Segments::new(&mut storage);
        let mut hint = self.notes.hint.get();
        let iova = GuestAddr(addr.0);
        let translated = iotlb.translate_range(&mut hint, iova, len, access, &mut pieces);
        self.notes.hint.set(hint);
        self.note(translated).map_err(|_| Unmapped(addr))?;
        f(pieces.as_slice())
    }

    /// The user address of a field of the ring that is `len` bytes long and must be contiguous,
    /// since one access covers it.
    fn whole(&self, addr: UserAddr, len: u64, access: Access) -> Result<UserAddr, Unmapped> {
        self.with_pieces(addr, len, access, |pieces| match pieces {
            [whole] => Ok(whole.addr),
            _ => Err(Unmapped(addr)),
        })
    }
}

impl<M, T, S> Mediated<'_, M, T, S>
where
    M: OwnerAccess,
    T: GuestRanges,
    S: AsRef<[IotlbEntry]>,
{
    /// Checks that a ring of these extents is translated as a whole, so that a round does not stop
    /// between sending a packet and completing its chain.
    ///
    /// `descs` is how the device accesses descriptors: those that it writes it also reads.
    ///
    /// # Errors
    ///
    /// [`Fault::OutsideMemory`] or another fault of the translation.
    pub fn prefetch(&self, extents: [u64; 3], descs: Access) -> Result<(), Fault> {
        let Some(iotlb) = self.iotlb else {
            return Ok(());
        };
        let [desc, avail, used] = extents;
        // After the write access, so that the owner is asked for write permission first.
        let read_as_well = (descs == Access::Write).then_some((self.ring.desc, desc, Access::Read));
        let parts = [
            (self.ring.desc, desc, descs),
            (self.ring.avail, avail, Access::Read),
            (self.ring.used, used, Access::Write),
        ];
        for (addr, len, access) in parts.into_iter().chain(read_as_well) {
            let mut hint = self.notes.hint.get();
            self.note(iotlb.check_range(&mut hint, GuestAddr(addr.0), len, access))?;
        }
        Ok(())
    }

    /// Logs the first `len` bytes of `segments`.
    pub fn log_segments(&self, segments: &[Segment], len: u64) {
        if !self.log.buffers {
            return;
        }
        let mut left = len;
        for segment in segments {
            if left == 0 {
                break;
            }
            let len = segment.len.min(left);
            self.log_user(Segment { len, ..*segment });
            left = left.wrapping_sub(len);
        }
    }

    /// A 16-bit field of a packet header, converted to how it lies in memory.
    #[must_use]
    pub fn field(&self, value: u16) -> u16 {
        self.order.half(value.to_le())
    }

    /// Logs a write to a piece of the owner's memory that is part of the device area.
    fn log_ring(&self, piece: Segment) {
        let Some(used) = self.log.used else {
            return;
        };
        if self.iotlb.is_some() {
            self.log_user(piece);
            return;
        }
        // Wraps only if the ring or the log address wraps.
        let offset = piece.addr.0.wrapping_sub(self.ring.used.0);
        let logged = self.log_range(GuestAddr(used.0.wrapping_add(offset)), piece.len);
        if let Err(Unmapped(at)) = logged {
            self.notes.unlogged.set(Some(at));
        }
    }

    /// Logs a write to a piece of the owner's memory that is part of a packed ring.
    ///
    /// The owner sets the log address of the device area only, so the descriptors' guest address is
    /// looked up.
    fn log_desc(&self, piece: Segment) {
        if self.log.used.is_some() {
            self.log_user(piece);
        }
    }

    /// Logs a write to a piece of user memory, at every guest address that maps to it.
    fn log_user(&self, piece: Segment) {
        let log = |addr, len| self.log_range(addr, len);
        match self.table.guest_ranges(piece.addr, piece.len, log) {
            Ok(true) => {}
            Ok(false) => self.notes.unlogged.set(Some(piece.addr)),
            Err(Unmapped(at)) => self.notes.unlogged.set(Some(at)),
        }
    }

    fn log_range(&self, addr: GuestAddr, len: u64) -> Result<(), Unmapped> {
        self.notes.logged.set(true);
        let set = |word, bits| self.memory.set_bits(word, bits);
        let logged = for_each_log_word(self.log.base, addr, len, set);
        // A range that wraps cannot be logged later either.
        let last = len.checked_sub(1).and_then(|len| addr.0.checked_add(len));
        if let (Err(_), Some(last)) = (&logged, last) {
            let owed = Owed {
                first: addr,
                last: GuestAddr(last),
            };
            self.notes.owed.set(Some(owed.and(self.notes.owed.get())));
        }
        logged
    }

    /// Retries writes that could not be logged before.
    ///
    /// # Errors
    ///
    /// [`Fault::Unlogged`]; the range then has to be retried again.
    pub fn log_owed(&self, owed: Owed) -> Result<(), Fault> {
        // No wrap: `last` is not below `first`, and the range is never the whole address space.
        let len = owed.last.0.wrapping_sub(owed.first.0).wrapping_add(1);
        self.log_range(owed.first, len).map_err(|Unmapped(at)| {
            self.notes.unlogged.set(Some(at));
            Fault::Unlogged(at)
        })
    }
}

impl<M, T, S> Translate for Mediated<'_, M, T, S>
where
    M: OwnerAccess,
    T: Translate + GuestRanges,
    S: AsRef<[IotlbEntry]>,
{
    fn translate(
        &self,
        hint: &mut Hint,
        addr: GuestAddr,
        len: u32,
        access: Access,
        out: &mut Segments<'_>,
    ) -> Result<(), Fault> {
        match self.iotlb {
            Some(iotlb) => {
                let len = u64::from(len);
                self.note(iotlb.translate_range(hint, addr, len, access, out))
            }
            None => self.table.translate(hint, addr, len, access, out),
        }
    }
}
