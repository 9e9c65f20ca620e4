// SPDX-License-Identifier: GPL-2.0

//! How a round reaches guest memory.
//!
//! Most queues have their ring in the owner's memory, and report none of their writes. They use
//! [`OwnerMemory`], and nothing else is compiled into their path. Queues with IO addresses, a dirty
//! log or big-endian rings use [`Mediated`](vring::Mediated).

use core::cell::Cell;

use kernel::sync::Arc;
use vring::{
    ByteOrder, DirtyLog, Fault, GuestAddr, Memory, Miss, Notes, Owed, RingAddrs, Segment, UserAddr,
};

use super::features::{Features, LOG_ALL};
use super::iotlb::{Entries, Iotlb};
use super::memory::Table;
use crate::kapi::{EventFd, OwnerMemory};

/// Guest memory behind an IOTLB, a dirty log or a change of byte order.
pub(crate) type Mediated<'a> = vring::Mediated<'a, OwnerMemory<'a>, Table, Entries>;

/// Guest memory, during a round of a queue.
pub(crate) trait GuestMemory: Memory {
    /// The owner's memory, which contains it.
    fn owner(&self) -> OwnerMemory<'_>;

    /// Records that the first `len` bytes of `segments` have been written, or may have been.
    fn wrote(&self, segments: &[Segment], len: usize);

    /// Converts a field of a packet header between its value and its form in memory, either way.
    fn field(&self, value: u16) -> u16;
}

impl GuestMemory for OwnerMemory<'_> {
    #[inline(always)]
    fn owner(&self) -> OwnerMemory<'_> {
        *self
    }

    #[inline(always)]
    fn wrote(&self, _segments: &[Segment], _len: usize) {}

    #[inline(always)]
    fn field(&self, value: u16) -> u16 {
        value.to_le()
    }
}

impl GuestMemory for &Mediated<'_> {
    fn owner(&self) -> OwnerMemory<'_> {
        self.memory
    }

    fn wrote(&self, segments: &[Segment], len: usize) {
        self.log_segments(segments, len as u64);
    }

    fn field(&self, value: u16) -> u16 {
        Mediated::field(self, value)
    }
}

/// What makes a queue's memory [`Mediated`].
#[derive(Default)]
pub(crate) struct Mediation {
    /// `VHOST_SET_LOG_BASE`.
    pub(crate) log_base: UserAddr,
    /// `VHOST_VRING_F_LOG`: the address of the used ring in the log.
    pub(crate) log_used: Option<GuestAddr>,
    /// `VHOST_SET_LOG_FD`.
    pub(crate) log_call: Option<Arc<EventFd>>,
    /// The IOTLB, which exists with `VIRTIO_F_ACCESS_PLATFORM`.
    pub(crate) iotlb: Option<Iotlb>,
    /// `VHOST_SET_VRING_ENDIAN`; of no effect with `VIRTIO_F_VERSION_1`.
    pub(crate) order: ByteOrder,
    /// Writes that have to be logged before the queue goes on.
    pub(crate) owed: Cell<Option<Owed>>,
}

impl Mediation {
    /// Whether the queue cannot use [`OwnerMemory`] directly.
    pub(crate) fn is_needed(&self, features: &Features) -> bool {
        self.iotlb.is_some()
            || self.log_used.is_some()
            || features.has(LOG_ALL)
            || self.order(features) != ByteOrder::Little
    }

    /// The byte order of ring and packet headers with these features.
    pub(crate) fn order(&self, features: &Features) -> ByteOrder {
        match features.is_modern() {
            true => ByteOrder::Little,
            false => self.order,
        }
    }

    /// The memory of a queue whose ring is at `ring` in the owner's memory.
    pub(crate) fn memory<'a, M>(
        &'a self,
        owner: M,
        table: &'a Table,
        features: &Features,
        ring: RingAddrs,
    ) -> vring::Mediated<'a, M, Table, Entries> {
        vring::Mediated {
            memory: owner,
            table,
            iotlb: self.iotlb.as_ref(),
            log: DirtyLog {
                base: self.log_base,
                buffers: features.has(LOG_ALL),
                used: self.log_used,
            },
            order: self.order(features),
            ring,
            notes: Notes::default(),
        }
    }

    /// Whether writes of the queue are logged.
    pub(crate) fn is_logging(&self, features: &Features) -> bool {
        self.log_used.is_some() || features.has(LOG_ALL)
    }

    /// Whether there are writes that could not be logged yet.
    pub(crate) fn is_owing(&self) -> bool {
        self.owed.get().is_some()
    }

    /// Logs the writes that earlier rounds could not log.
    ///
    /// A page that is written but not logged is lost in a migration.
    ///
    /// # Errors
    ///
    /// [`Fault::Unlogged`] while it cannot be logged.
    pub(crate) fn log_owed(&self, memory: &Mediated<'_>) -> Result<(), Fault> {
        let logs = memory.log.buffers || memory.log.used.is_some();
        if let Some(owed) = self.owed.take().filter(|_| logs) {
            memory.log_owed(owed)?;
        }
        Ok(())
    }

    /// Finishes an access to guest memory that ended with `outcome`, and signals the owner if it
    /// logged any writes.
    ///
    /// Returns `None` if a translation was missing, and stores the miss in `missed`.
    ///
    /// # Errors
    ///
    /// [`Fault::Unlogged`] when a write could not be logged, else the error of `outcome`.
    pub(crate) fn conclude<T>(
        &self,
        memory: &Mediated<'_>,
        outcome: Result<T, Fault>,
        missed: &mut Option<Miss>,
    ) -> Result<Option<T>, Fault> {
        if memory.notes.logged() {
            if let Some(call) = &self.log_call {
                call.signal();
            }
        }
        if let Some(owed) = memory.notes.owed() {
            self.owed.set(Some(owed.and(self.owed.get())));
        }
        if let Some(fault) = memory.notes.unlogged() {
            return Err(fault);
        }
        match outcome {
            Ok(outcome) => Ok(Some(outcome)),
            Err(fault) => {
                *missed = Some(memory.notes.missed(fault).ok_or(fault)?);
                Ok(None)
            }
        }
    }
}
