// SPDX-License-Identifier: GPL-2.0

//! A virtqueue of a device: ring, backend and notifications, under the queue's mutex.

use kernel::prelude::*;
use kernel::sync::Arc;
use vring::{Fault, RawUsed, Segment, SplitRing, MAX_CHAIN_SEGMENTS};

use crate::backend::Backend;
use crate::features::{Features, Header, EVENT_IDX, IN_ORDER, NOTIFY_ON_EMPTY};
use crate::kapi::{self, EventFd, Frames, OwnerMemory, Poller, FRAMES, POLLIN, POLLOUT};
use crate::memory::Table;
use crate::stats::Stats;
use crate::worker::Waker;

/// Used buffers after which a batch is published (`VHOST_NET_BATCH`).
pub(crate) const BATCH: usize = FRAMES;
/// Packets after which a round ends, so that the other queue gets its turn
/// (`VHOST_NET_PKT_WEIGHT`).
pub(crate) const MAX_ROUND_PACKETS: usize = 256;
/// Bytes after which a round ends (`VHOST_NET_WEIGHT`).
pub(crate) const MAX_ROUND_BYTES: usize = 0x80000;

/// The most used entries of one batch: a full one, and the buffers of one more packet.
const USED: usize = BATCH + MAX_CHAIN_SEGMENTS;

/// Which queue of a pair, seen from the guest; its index in every ioctl.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Packets for the guest.
    Rx,
    /// Packets from the guest.
    Tx,
}

impl Direction {
    /// Name in logs and statistics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rx => "rx",
            Self::Tx => "tx",
        }
    }

    /// The event of the backend that lets the queue go on.
    pub(crate) const fn backend_event(self) -> u32 {
        match self {
            Self::Rx => POLLIN,
            Self::Tx => POLLOUT,
        }
    }
}

/// What a round of a queue ends with.
#[must_use]
#[derive(PartialEq, Eq)]
pub(crate) enum Next {
    /// A kick or the backend will wake the queue.
    Wait,
    /// There is more to do; the other queue comes first.
    Again,
}

/// One virtqueue.
pub(crate) struct Virtqueue {
    /// Thread id of the owner, for the log; its worker is named after it.
    pub(crate) owner: i32,
    pub(crate) ring: SplitRing,
    pub(crate) features: Features,
    pub(crate) header: Header,
    pub(crate) table: Option<Arc<Table>>,
    pub(crate) backend: Option<Backend>,
    pub(crate) kick: Option<Poller<Waker>>,
    pub(crate) call: Option<EventFd>,
    pub(crate) error: Option<EventFd>,
    pub(crate) scratch: Scratch,
}

/// Memory that a round needs, allocated once.
pub(crate) struct Scratch {
    /// Segments of the chains of one packet.
    pub(crate) segments: KVec<Segment>,
    pub(crate) used: UsedBatch,
    /// Frames on their way to the backend; transmit only.
    pub(crate) frames: Frames,
}

/// Used entries to be published together.
pub(crate) struct UsedBatch {
    entries: KVec<RawUsed>,
    /// How many chains each entry stands for; more than one only if in order.
    chains: KVec<u16>,
    len: usize,
    /// Chains that share another's entry.
    merged: usize,
    /// `VIRTIO_F_IN_ORDER`: chains taken one after the other may share an entry.
    in_order: bool,
}

impl Virtqueue {
    /// A queue as after open.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            owner: 0,
            ring: SplitRing::default(),
            features: Features::default(),
            header: Header::default(),
            table: None,
            backend: None,
            kick: None,
            call: None,
            error: None,
            scratch: Scratch {
                segments: KVec::from_elem(Segment::default(), MAX_CHAIN_SEGMENTS, GFP_KERNEL)?,
                used: UsedBatch {
                    entries: KVec::from_elem(RawUsed::default(), USED, GFP_KERNEL)?,
                    chains: KVec::from_elem(1, USED, GFP_KERNEL)?,
                    len: 0,
                    merged: 0,
                    in_order: false,
                },
                frames: Frames::new()?,
            },
        })
    }

    /// Takes over negotiated features.
    pub(crate) fn set_features(&mut self, features: Features) {
        self.features = features;
        self.header = Header::new(&features);
        self.ring
            .set_features(features.has(EVENT_IDX), features.has(NOTIFY_ON_EMPTY));
        self.scratch.used.in_order = features.has(IN_ORDER);
    }

    /// Whether a backend may be set: there is a memory table, and it and the ring lie where user
    /// space can have memory (`vhost_vq_access_ok()`).
    pub(crate) fn is_accessible(&self) -> bool {
        self.table
            .as_ref()
            .is_some_and(|table| table.is_accessible())
            && self.ring_is_accessible(self.ring.addrs())
    }

    /// Whether a ring of this size may lie at `addrs`.
    pub(crate) fn ring_is_accessible(&self, addrs: vring::RingAddrs) -> bool {
        let [desc, avail, used] = self.ring.extents();
        kapi::access_ok(addrs.desc, desc)
            && kapi::access_ok(addrs.avail, avail)
            && kapi::access_ok(addrs.used, used)
    }

    /// Replaces the backend; gives the old one, to be dropped without the queue's mutex.
    pub(crate) fn set_backend(&mut self, new: Option<Backend>) -> Option<Backend> {
        if new.is_none() {
            self.scratch.frames.release();
        }
        core::mem::replace(&mut self.backend, new)
    }

    /// Tells the owner, and the kernel log, why the guest stopped the queue.
    ///
    /// The queue stays as it is until the guest kicks again or the owner sets a backend, which is
    /// how vhost-net treats a broken ring.
    pub(crate) fn report(&self, fault: Fault, direction: Direction) {
        if let Some(error) = &self.error {
            error.signal();
        }
        if kapi::log_allowed() {
            pr_warn!(
                "vhost-{}: {} queue stopped: {}\n",
                self.owner,
                direction.name(),
                Reason(fault)
            );
        }
    }

    /// Back to the state after open.
    pub(crate) fn reset(&mut self) -> Detached {
        self.ring = SplitRing::default();
        self.features = Features::default();
        self.header = Header::default();
        self.scratch.used.in_order = false;
        self.table = None;
        Detached {
            _backend: self.set_backend(None),
            _kick: self.kick.take(),
            _call: self.call.take(),
            _error: self.error.take(),
        }
    }
}

/// What a queue had open, to be dropped when its mutex is no longer held.
#[must_use]
pub(crate) struct Detached {
    _backend: Option<Backend>,
    _kick: Option<Poller<Waker>>,
    _call: Option<EventFd>,
    _error: Option<EventFd>,
}

impl UsedBatch {
    /// Adds the chain starting at `head`, into which `len` bytes were written. `false` if full.
    #[inline]
    #[must_use]
    pub(crate) fn push(&mut self, head: u16, len: u32) -> bool {
        match self.entries.get_mut(self.len) {
            Some(entry) => {
                *entry = SplitRing::used_entry(head, len);
                self.len = self.len.wrapping_add(1);
                true
            }
            None => false,
        }
    }

    /// Lets the last `count` chains, one after the other and all complete, share an entry, if in
    /// order; of the others' lengths the driver assumes that they are full.
    #[inline]
    pub(crate) fn merge(&mut self, count: usize) {
        if !self.in_order || count < 2 {
            return;
        }
        let last = self
            .len
            .checked_sub(1)
            .and_then(|last| self.entries.get(last));
        let (Some(last), Some(first)) = (last.copied(), self.len.checked_sub(count)) else {
            return;
        };
        if let (Some(entry), Some(chains)) =
            (self.entries.get_mut(first), self.chains.get_mut(first))
        {
            *entry = last;
            // CAST: at most a batch and a packet's chains.
            *chains = count as u16;
            self.merged = self.merged.wrapping_add(count).wrapping_sub(1);
            self.len = first.wrapping_add(1);
        }
    }

    /// Number of entries.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Number of chains.
    #[inline]
    pub(crate) fn chains(&self) -> usize {
        self.len.wrapping_add(self.merged)
    }

    /// Drops all but the first `len` entries; those dropped must not be shared.
    #[inline]
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Gives all chains back to the guest; [`call`] tells it.
    ///
    /// # Errors
    ///
    /// [`Fault::Unmapped`] when the used ring cannot be written.
    #[inline]
    pub(crate) fn publish(&mut self, ring: &mut SplitRing, stats: &Stats) -> Result<(), Fault> {
        let len = core::mem::replace(&mut self.len, 0);
        self.merged = 0;
        let Some(used) = self.entries.get(..len).filter(|used| !used.is_empty()) else {
            return Ok(());
        };
        if self.in_order {
            let chains = self.chains.get_mut(..len).unwrap_or_default();
            let completed = ring.complete_in_order(&OwnerMemory, used, chains);
            chains.fill(1);
            completed?;
        } else {
            ring.complete(&OwnerMemory, used)?;
        }
        stats.batches.add(1);
        Ok(())
    }
}

/// Calls the guest if it wants to be called for what has been published since the last time.
#[inline(always)]
pub(crate) fn call(ring: &mut SplitRing, call: Option<&EventFd>, stats: &Stats) {
    if let Some(call) = call {
        if ring.needs_call(&OwnerMemory) {
            call.signal();
            stats.calls.add(1);
        }
    }
}

/// A fault, for the kernel log.
struct Reason(Fault);

impl kernel::fmt::Display for Reason {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        core::fmt::Display::fmt(&self.0, f)
    }
}
