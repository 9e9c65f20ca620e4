// SPDX-License-Identifier: GPL-2.0

//! A virtqueue of a device: ring, backend and notifications, under the queue's mutex.

use kernel::prelude::*;
use kernel::sync::Arc;
use vring::{
    ByteOrder, Fault, GuestAddr, Memory, Miss, RawUsed, RingAddrs, Segment, SplitRing, Translate,
    UserAddr, MAX_CHAIN_SEGMENTS,
};

use crate::access::{GuestMemory, Mediation};
use crate::backend::Backend;
use crate::features::{Features, Header, EVENT_IDX, IN_ORDER, LOG_ALL, NOTIFY_ON_EMPTY};
use crate::iotlb::Iotlb;
use crate::kapi::{self, EventFd, Frames, OwnerMemory, Poller, FRAMES, POLLIN, POLLOUT};
use crate::memory::{self, Table};
use crate::stats::Stats;
use crate::worker::Waker;

/// Used buffers after which a batch is published (`VHOST_NET_BATCH`).
pub(crate) const BATCH: usize = FRAMES;
/// Packets after which a round ends, so that the other queue gets its turn
/// (`VHOST_NET_PKT_WEIGHT`).
pub(crate) const MAX_ROUND_PACKETS: usize = 256;
/// Bytes after which a round ends (`VHOST_NET_WEIGHT`).
pub(crate) const MAX_ROUND_BYTES: usize = 0x80000;

/// The longest busy wait, in microseconds, whatever the owner wants: the queue's mutex is held.
const MAX_BUSY_MICROS: u32 = 100_000;

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
    /// The owner has to translate an IO address, and wakes the queue when it has.
    Translate,
}

/// How rounds reach guest memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    /// Not at all: there is no memory table, or no ring.
    Nowhere,
    /// Ring and buffers are simply the owner's memory.
    Direct,
    /// There is an IOTLB, a dirty log or a change of byte order.
    Mediated,
}

/// One virtqueue.
pub(crate) struct Virtqueue {
    /// Thread id of the owner, for the log; its worker is named after it.
    pub(crate) owner: i32,
    /// Id of the worker that runs the queue; others leave it alone.
    pub(crate) worker: u32,
    pub(crate) ring: SplitRing,
    pub(crate) features: Features,
    pub(crate) header: Header,
    pub(crate) table: Option<Arc<Table>>,
    pub(crate) backend: Option<Backend>,
    pub(crate) kick: Option<Poller<Waker>>,
    pub(crate) call: Option<EventFd>,
    pub(crate) error: Option<EventFd>,
    mediation: Mediation,
    /// What the owner has to translate before the queue can go on.
    missed: Option<Miss>,
    /// `VHOST_BACKEND_F_IOTLB_MSG_V2`: format of the messages about IO addresses.
    pub(crate) messages_v2: bool,
    /// `VHOST_SET_VRING_BUSYLOOP_TIMEOUT`: how long a round waits for more before it ends, in
    /// microseconds.
    pub(crate) busy_timeout: u32,
    /// Follows from all else.
    path: Path,
    scratch: Scratch,
}

/// A queue that has all it needs for a round.
pub(crate) struct Running<'a> {
    pub(crate) ring: &'a mut SplitRing,
    pub(crate) features: Features,
    pub(crate) header: Header,
    pub(crate) backend: &'a mut Backend,
    pub(crate) call: Option<&'a EventFd>,
    pub(crate) busy_timeout: u32,
    pub(crate) scratch: &'a mut Scratch,
}

/// A round of a queue, whatever its memory is.
pub(crate) trait Round {
    /// Runs the queue.
    ///
    /// # Errors
    ///
    /// A [`Fault`] of the guest.
    fn run<M: GuestMemory, T: Translate>(
        self,
        queue: Running<'_>,
        memory: M,
        table: &T,
    ) -> Result<Next, Fault>;
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
    pub(crate) fn new() -> Result<impl Init<Self>> {
        let scratch = Scratch {
            segments: KVec::from_elem(Segment::default(), MAX_CHAIN_SEGMENTS, GFP_KERNEL)?,
            used: UsedBatch {
                entries: KVec::from_elem(RawUsed::default(), USED, GFP_KERNEL)?,
                chains: KVec::from_elem(1, USED, GFP_KERNEL)?,
                len: 0,
                merged: 0,
                in_order: false,
            },
            frames: Frames::new()?,
        };
        // In place: the kernel's stack has no room for queues.
        Ok(init!(Self {
            owner: 0,
            worker: 0,
            ring: SplitRing::default(),
            features: Features::default(),
            header: Header::default(),
            table: None,
            backend: None,
            kick: None,
            call: None,
            error: None,
            mediation: Mediation::default(),
            missed: None,
            messages_v2: false,
            busy_timeout: 0,
            path: Path::Nowhere,
            scratch,
        }))
    }

    /// Takes over negotiated features.
    pub(crate) fn set_features(&mut self, features: Features) {
        self.features = features;
        self.header = Header::new(&features);
        self.ring
            .set_features(features.has(EVENT_IDX), features.has(NOTIFY_ON_EMPTY));
        self.scratch.used.in_order = features.has(IN_ORDER);
        self.choose_path();
    }

    /// Replaces the memory table.
    pub(crate) fn set_table(&mut self, table: Option<Arc<Table>>) {
        self.table = table;
        self.choose_path();
    }

    /// Moves the ring, and the address of its used part in the log, if that is logged.
    pub(crate) fn set_addrs(&mut self, addrs: RingAddrs, log_used: Option<GuestAddr>) {
        self.ring.set_addrs(addrs);
        self.mediation.log_used = log_used;
        self.choose_path();
    }

    /// Moves the dirty log.
    ///
    /// # Errors
    ///
    /// `EFAULT`, and no change, when the queue is running and needs more than there can be.
    pub(crate) fn set_log_base(&mut self, base: UserAddr) -> Result {
        if self.backend.is_some() && !self.log_is_accessible(base) {
            return Err(EFAULT);
        }
        self.mediation.log_base = base;
        Ok(())
    }

    /// Sets what is signalled when something has been logged.
    pub(crate) fn set_log_call(&mut self, call: Option<Arc<EventFd>>) -> Option<Arc<EventFd>> {
        core::mem::replace(&mut self.mediation.log_call, call)
    }

    /// Sets the byte order of a legacy ring.
    pub(crate) fn set_order(&mut self, order: ByteOrder) {
        self.mediation.order = order;
        self.choose_path();
    }

    /// The byte order of a legacy ring.
    pub(crate) fn order(&self) -> ByteOrder {
        self.mediation.order
    }

    /// The IOTLB, with `VIRTIO_F_ACCESS_PLATFORM`.
    pub(crate) fn iotlb(&mut self) -> Option<&mut Iotlb> {
        self.mediation.iotlb.as_mut()
    }

    /// Starts with an empty IOTLB, or goes on without one. The ring is nowhere until it is set
    /// again, unless there was an IOTLB and still is.
    pub(crate) fn set_iotlb(&mut self, iotlb: Option<Iotlb>) {
        if self.mediation.iotlb.is_some() != iotlb.is_some() {
            self.set_addrs(RingAddrs::default(), None);
        }
        self.mediation.iotlb = iotlb;
        self.choose_path();
    }

    /// What [`Next::Translate`] is about, once.
    pub(crate) fn take_miss(&mut self) -> Option<Miss> {
        self.missed.take()
    }

    fn choose_path(&mut self) {
        self.path = if self.table.is_none() || self.ring.addrs() == RingAddrs::default() {
            Path::Nowhere
        } else if self.mediation.is_needed(&self.features) {
            Path::Mediated
        } else {
            Path::Direct
        };
    }

    /// Starts the ring at what the used index in memory says.
    ///
    /// With [`Next::Translate`] it has not been started. A dirty log that cannot be written stops the
    /// first round, not this one, as with vhost.
    ///
    /// # Errors
    ///
    /// A [`Fault`] when the used ring cannot be accessed.
    pub(crate) fn start(&mut self) -> Result<Next, Fault> {
        match (&self.table, self.path) {
            (Some(table), Path::Mediated) => {
                let addrs = self.ring.addrs();
                let memory = self.mediation.memory(table, &self.features, addrs);
                let started = self.ring.start(&&memory);
                let next = started.map(|()| Next::Wait);
                match self.mediation.conclude(&memory, next, &mut self.missed) {
                    Err(Fault::Unlogged(_)) if started.is_ok() => Ok(Next::Wait),
                    concluded => concluded,
                }
            }
            _ => self.ring.start(&OwnerMemory).map(|()| Next::Wait),
        }
    }

    /// Runs a round of the queue, if it has all that it needs.
    ///
    /// # Errors
    ///
    /// A [`Fault`] of the guest, or of the owner's dirty log.
    #[inline(always)]
    pub(crate) fn run(&mut self, round: impl Round) -> Result<Next, Fault> {
        match self.path {
            Path::Direct => match self.parts() {
                Some((queue, table, ..)) => round.run(queue, OwnerMemory, table),
                None => Ok(Next::Wait),
            },
            Path::Nowhere => Ok(Next::Wait),
            Path::Mediated => self.run_mediated(round),
        }
    }

    /// Runs a round on memory that is not simply the owner's.
    #[cold]
    #[inline(never)]
    fn run_mediated(&mut self, round: impl Round) -> Result<Next, Fault> {
        let Some((queue, table, mediation, missed)) = self.parts() else {
            return Ok(Next::Wait);
        };
        let memory = mediation.memory(table, &queue.features, queue.ring.addrs());
        let next = memory
            .prefetch(queue.ring.extents())
            .and_then(|()| round.run(queue, &memory, &memory));
        mediation.conclude(&memory, next, missed)
    }

    /// What a round needs, and memory is reached by, if it is all there.
    #[inline(always)]
    fn parts(&mut self) -> Option<(Running<'_>, &Table, &Mediation, &mut Option<Miss>)> {
        let queue = Running {
            ring: &mut self.ring,
            features: self.features,
            header: self.header,
            backend: self.backend.as_mut()?,
            call: self.call.as_ref(),
            busy_timeout: self.busy_timeout.min(MAX_BUSY_MICROS),
            scratch: &mut self.scratch,
        };
        let table = &**self.table.as_ref()?;
        Some((queue, table, &self.mediation, &mut self.missed))
    }

    /// Whether a backend may be set: there is a memory table, and it, the ring and the dirty log lie
    /// where user space can have memory (`vhost_vq_access_ok()`).
    pub(crate) fn is_accessible(&self) -> bool {
        let accessible = |table: &Arc<Table>| table.is_accessible();
        self.table.as_ref().is_some_and(accessible)
            && self.log_is_accessible(self.mediation.log_base)
            && self.ring_is_accessible(self.ring.addrs())
    }

    /// Whether the queue may log at `base` what it has to (`vq_log_access_ok()`).
    fn log_is_accessible(&self, base: UserAddr) -> bool {
        let all = self.features.has(LOG_ALL);
        (!all || self.table_can_be_logged(base))
            && self.used_can_be_logged(base, self.mediation.log_used)
    }

    /// Whether the queue, if it runs, could go on with `table` (`memory_access_ok()`).
    pub(crate) fn accepts(&self, table: &Table) -> bool {
        let loggable = !self.features.has(LOG_ALL) || table.can_be_logged(self.mediation.log_base);
        self.backend.is_none() || (table.is_accessible() && loggable)
    }

    /// Whether a log at `base` may have room for the memory table.
    fn table_can_be_logged(&self, base: UserAddr) -> bool {
        let can_be_logged = |table: &Arc<Table>| table.can_be_logged(base);
        self.table.as_ref().is_some_and(can_be_logged)
    }

    /// Whether writes to all memory may be logged (`vhost_log_access_ok()`); asked of a running queue.
    pub(crate) fn can_log_all(&self) -> bool {
        self.backend.is_none() || self.table_can_be_logged(self.mediation.log_base)
    }

    /// Whether the used ring may have the address `used` in the log.
    pub(crate) fn used_is_loggable(&self, used: Option<GuestAddr>) -> bool {
        self.used_can_be_logged(self.mediation.log_base, used)
    }

    /// Whether a log at `base` may have room for a used ring at address `used` of it. With an IOTLB
    /// that address is not used.
    fn used_can_be_logged(&self, base: UserAddr, used: Option<GuestAddr>) -> bool {
        let [_, _, len] = self.ring.extents();
        self.mediation.iotlb.is_some()
            || used.is_none_or(|addr| memory::log_access_ok(base, addr, len))
    }

    /// Whether a ring of this size may lie at `addrs`. With an IOTLB that is found out by
    /// translation.
    pub(crate) fn ring_is_accessible(&self, addrs: RingAddrs) -> bool {
        if self.mediation.iotlb.is_some() {
            return true;
        }
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
        self.ring.reset();
        self.features = Features::default();
        self.header = Header::default();
        self.scratch.used.in_order = false;
        self.table = None;
        self.mediation = Mediation::default();
        self.messages_v2 = false;
        self.busy_timeout = 0;
        self.choose_path();
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
    pub(crate) fn publish<M: Memory>(
        &mut self,
        memory: &M,
        ring: &mut SplitRing,
        stats: &Stats,
    ) -> Result<(), Fault> {
        let len = core::mem::replace(&mut self.len, 0);
        self.merged = 0;
        let Some(used) = self.entries.get(..len).filter(|used| !used.is_empty()) else {
            return Ok(());
        };
        if self.in_order {
            let chains = self.chains.get_mut(..len).unwrap_or_default();
            let completed = ring.complete_in_order(memory, used, chains);
            chains.fill(1);
            completed?;
        } else {
            ring.complete(memory, used)?;
        }
        stats.batches.add(1);
        Ok(())
    }
}

/// Calls the guest if it wants to be called for what has been published since the last time.
#[inline(always)]
pub(crate) fn call<M: Memory>(
    memory: &M,
    ring: &mut SplitRing,
    call: Option<&EventFd>,
    stats: &Stats,
) {
    if let Some(call) = call {
        if ring.needs_call(memory) {
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
