// SPDX-License-Identifier: GPL-2.0

//! A virtqueue of a device: ring, backend and notifications, under the queue's mutex.

use kernel::prelude::*;
use kernel::sync::Arc;
use vring::{
    ByteOrder, Fault, GuestAddr, InForce, Miss, Ring, RingAddrs, Rings, Segment, Translate,
    UserAddr, MAX_CHAIN_SEGMENTS,
};

use super::access::{GuestMemory, Mediation};
use super::backend::Backend;
use super::features::{Features, EVENT_IDX, IN_ORDER, LOG_ALL, NOTIFY_ON_EMPTY, RING_PACKED};
use super::iotlb::Iotlb;
use super::memory::{self, Table};
use super::queues::{Queues, State};
use super::round::{Next, Round, Running, Scratch};
use super::used::UsedBatch;
use super::worker::Waker;
use crate::kapi::{self, EventFd, OwnerMemory, Poller};

mod running;
mod trouble;

/// How rounds reach guest memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    /// Not at all: there is no memory table, or no ring.
    Nowhere,
    /// Ring and buffers are simply the owner's memory; the ring is split.
    Split,
    /// As [`Path::Split`], but the ring is packed.
    Packed,
    /// There is an IOTLB, a dirty log or a change of byte order.
    Mediated,
}

/// One virtqueue.
pub(crate) struct Virtqueue<Q: Queues> {
    /// Thread id of the owner, for the log; its worker is named after it.
    pub(crate) owner: i32,
    /// Id of the worker that runs the queue; others leave it alone.
    pub(crate) worker: u32,
    pub(crate) rings: Rings,
    pub(crate) features: Features,
    /// What the class keeps.
    pub(crate) state: Q::State,
    pub(crate) table: Option<Arc<Table>>,
    pub(crate) backend: Option<Backend<Q>>,
    pub(crate) kick: Option<Poller<Waker>>,
    pub(crate) call: Option<EventFd>,
    pub(crate) error: Option<EventFd>,
    mediation: Mediation,
    /// What the owner has to translate before the queue can go on.
    missed: Option<Miss>,
    /// Why the last round lost packets and went on.
    lost_to: Option<Fault>,
    /// The queue has stopped for a fault of the guest or the owner, and has not run since.
    stopped: bool,
    /// The last round has stopped the queue, lost packets, or has to be tried again.
    in_trouble: bool,
    /// `VHOST_BACKEND_F_IOTLB_MSG_V2`: format of the messages about IO addresses.
    pub(crate) messages_v2: bool,
    /// `VHOST_SET_VRING_BUSYLOOP_TIMEOUT`: how long a round waits for more before it ends, in
    /// microseconds.
    pub(crate) busy_timeout: u32,
    /// Derived by `choose_path()` from table, ring and mediation.
    path: Path,
    scratch: Scratch,
}

impl<Q: Queues> Virtqueue<Q> {
    /// A queue as after open.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<impl Init<Self>> {
        let scratch = Scratch {
            segments: KVec::from_elem(Segment::default(), MAX_CHAIN_SEGMENTS, GFP_KERNEL)?,
            used: UsedBatch::new()?,
        };
        let state = Q::State::new()?;
        // In place: the kernel's stack has no room for queues.
        Ok(init!(Self {
            owner: 0,
            worker: 0,
            rings: Rings::default(),
            features: Features::default(),
            state,
            table: None,
            backend: None,
            kick: None,
            call: None,
            error: None,
            mediation: Mediation::default(),
            missed: None,
            lost_to: None,
            stopped: false,
            in_trouble: false,
            messages_v2: false,
            busy_timeout: 0,
            path: Path::Nowhere,
            scratch,
        }))
    }

    /// Takes over negotiated features.
    pub(crate) fn set_features(&mut self, features: Features) {
        if self.mediation.order(&features) != self.mediation.order(&self.features) {
            // The same bytes mean something else.
            self.rings.forget_memory();
        }
        self.features = features;
        self.state.set_features(&features);
        self.rings.set_features(
            features.has(RING_PACKED),
            features.has(EVENT_IDX),
            features.has(NOTIFY_ON_EMPTY),
        );
        self.scratch.used.set_in_order(features.has(IN_ORDER));
        self.choose_path();
    }

    /// Replaces the memory table.
    pub(crate) fn set_table(&mut self, table: Option<Arc<Table>>) {
        self.table = table;
        self.rings.forget_hint();
        self.choose_path();
    }

    /// Moves the ring, and the address of its used part in the log, if that is logged.
    pub(crate) fn set_addrs(&mut self, addrs: RingAddrs, log_used: Option<GuestAddr>) {
        self.rings.set_addrs(addrs);
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
        self.rings.forget_memory();
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
        if self.mediation.iotlb.is_some() || iotlb.is_some() {
            self.rings.forget_memory();
        }
        self.mediation.iotlb = iotlb;
        self.rings.forget_hint();
        self.choose_path();
    }

    /// What a start that ended with [`Next::Translate`] is about, once.
    pub(crate) fn take_miss(&mut self) -> Option<Miss> {
        self.missed.take()
    }

    fn choose_path(&mut self) {
        self.path = if self.table.is_none() || self.rings.addrs() == RingAddrs::default() {
            Path::Nowhere
        } else if self.mediation.is_needed(&self.features) {
            Path::Mediated
        } else {
            match self.rings.is_packed() {
                false => Path::Split,
                true => Path::Packed,
            }
        };
    }

    /// Starts the ring: a split one at what the used index in memory says, a packed one at its base.
    ///
    /// With [`Next::Translate`] it has not been started. A dirty log that cannot be written stops the
    /// first round, not this one, as with vhost.
    ///
    /// # Errors
    ///
    /// A [`Fault`] when the device area cannot be accessed, or the ring does not have its base.
    pub(crate) fn start(&mut self, owner: OwnerMemory<'_>) -> Result<Next, Fault> {
        match (&self.table, self.path) {
            (Some(table), Path::Mediated) => {
                let addrs = self.rings.addrs();
                let memory = self.mediation.memory(owner, table, &self.features, addrs);
                let started = self.rings.start(&&memory);
                match self.mediation.conclude(&memory, started, &mut self.missed) {
                    Ok(Some(())) => Ok(Next::Wait),
                    Ok(None) => Ok(Next::Translate),
                    Err(Fault::Unlogged(_)) if started.is_ok() => Ok(Next::Wait),
                    Err(fault) => Err(fault),
                }
            }
            _ => self.rings.start(&owner).map(|()| Next::Wait),
        }
    }

    /// Whether the queue can go on with these features: a running queue keeps its format.
    pub(crate) fn accepts_features(&self, features: &Features) -> bool {
        self.backend.is_none() || features.has(RING_PACKED) == self.rings.is_packed()
    }

    /// Whether a backend may be set: there is a memory table, and it, the ring and the dirty log lie
    /// where user space can have memory (`vhost_vq_access_ok()`).
    pub(crate) fn is_accessible(&self) -> bool {
        let accessible = |table: &Arc<Table>| table.is_accessible();
        self.table.as_ref().is_some_and(accessible)
            && self.log_is_accessible(self.mediation.log_base)
            && self.ring_is_accessible(self.rings.addrs())
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
        let [_, _, len] = self.rings.extents();
        self.mediation.iotlb.is_some()
            || used.is_none_or(|addr| memory::log_access_ok(base, addr, len))
    }

    /// Whether a ring of this size may lie at `addrs`. With an IOTLB that is found out by
    /// translation.
    pub(crate) fn ring_is_accessible(&self, addrs: RingAddrs) -> bool {
        if self.mediation.iotlb.is_some() {
            return true;
        }
        let [desc, avail, used] = self.rings.extents();
        kapi::access_ok(addrs.desc, desc)
            && kapi::access_ok(addrs.avail, avail)
            && kapi::access_ok(addrs.used, used)
    }

    /// Replaces the backend; gives the old one, to be dropped without the queue's mutex.
    pub(crate) fn set_backend(
        &mut self,
        owner: OwnerMemory<'_>,
        new: Option<Backend<Q>>,
    ) -> Option<Backend<Q>> {
        if new.is_none() {
            self.give_back(owner);
            self.state.release();
        }
        self.stopped = false;
        core::mem::replace(&mut self.backend, new)
    }

    /// Gives the guest what a round could not, for want of its used ring, and the owner's log what it
    /// lacks. If the ring is still away, the chains are available again, as after
    /// [`GetWork::rewind`](vring::GetWork::rewind).
    fn give_back(&mut self, owner: OwnerMemory<'_>) {
        if self.scratch.used.len() == 0 && !self.mediation.is_owing() {
            return;
        }
        let given = self.run(owner, GiveBack);
        if given.is_err() && self.scratch.used.len() != 0 {
            match self.rings.in_force() {
                InForce::Split(ring) => self.scratch.used.rewind(ring),
                InForce::Packed(ring) => self.scratch.used.rewind(ring),
            }
        }
    }

    /// The backend no longer wakes the queue.
    fn disarm(&mut self) {
        if let Some(backend) = &mut self.backend {
            backend.disarm();
        }
    }

    /// Whether the queue has to look at its log before it waits for anything.
    pub(crate) fn is_owing(&self) -> bool {
        self.mediation.is_owing()
    }

    /// Whether the queue waits until guest or owner have mended something.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Back to the state after open.
    pub(crate) fn reset(&mut self) -> Detached<Q> {
        // All of them named, so that none is forgotten.
        let Self {
            // The next owner sets them.
            owner: _,
            worker: _,
            rings,
            features,
            state,
            table,
            backend,
            kick,
            call,
            error,
            mediation,
            missed,
            lost_to,
            stopped,
            in_trouble,
            messages_v2,
            busy_timeout,
            path,
            scratch,
        } = self;
        rings.reset();
        *features = Features::default();
        state.reset();
        *table = None;
        *mediation = Mediation::default();
        *missed = None;
        *lost_to = None;
        *stopped = false;
        *in_trouble = false;
        *messages_v2 = false;
        *busy_timeout = 0;
        *path = Path::Nowhere;
        scratch.used.forget();
        scratch.used.set_in_order(false);
        Detached {
            _backend: backend.take(),
            _kick: kick.take(),
            _call: call.take(),
            _error: error.take(),
        }
    }
}

/// What a queue had open, to be dropped when its mutex is no longer held.
#[must_use]
pub(crate) struct Detached<Q: Queues> {
    _backend: Option<Backend<Q>>,
    _kick: Option<Poller<Waker>>,
    _call: Option<EventFd>,
    _error: Option<EventFd>,
}

/// Publishes used buffers that an earlier round could not.
struct GiveBack;

impl<Q: Queues> Round<Q> for GiveBack {
    fn run<R: Ring, M: GuestMemory, T: Translate>(
        self,
        queue: Running<'_, Q, R>,
        memory: M,
        _table: &T,
    ) -> Result<Next, Fault> {
        if queue.scratch.used.len() != 0 {
            queue.scratch.used.publish(&memory, queue.ring)?;
            if let Some(guest) = queue.call.filter(|_| queue.ring.needs_call(&memory)) {
                guest.signal();
            }
        }
        Ok(Next::Wait)
    }
}
