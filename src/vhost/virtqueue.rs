// SPDX-License-Identifier: GPL-2.0

//! A virtqueue of a device: its ring, backend and notifications, under the queue's mutex.

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
use super::worker::Counted;
use crate::kapi::{self, trace, Counter, EventFd, OwnerMemory, Poller};

pub(crate) mod look;
mod running;
mod trouble;

/// How rounds access guest memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    /// There is no memory table or no ring, so rounds cannot run.
    Nowhere,
    /// The ring is split; ring and buffers are accessed directly in the owner's memory.
    Split,
    /// The ring is packed; otherwise as [`Path::Split`].
    Packed,
    /// There is an IOTLB, a dirty log or a change of byte order.
    Mediated,
}

/// One virtqueue.
pub(crate) struct Virtqueue<Q: Queues> {
    /// Thread id of the owner, for the kernel log; the worker is named after it, too.
    pub(crate) owner: i32,
    /// What trace events say of the queue.
    pub(crate) source: trace::Source,
    /// Id of the worker that runs the queue; other workers do not touch it.
    pub(crate) worker: u32,
    pub(crate) rings: Rings,
    pub(crate) features: Features,
    /// The state of the device class.
    pub(crate) state: Q::State,
    pub(crate) table: Option<Arc<Table>>,
    pub(crate) backend: Option<Backend<Q>>,
    pub(crate) kick: Option<Poller<Counted>>,
    pub(crate) call: Option<EventFd>,
    pub(crate) error: Option<EventFd>,
    mediation: Mediation,
    /// The translation that the queue needs from the owner before it can go on.
    missed: Option<Miss>,
    /// The fault to which the last round lost packets, if it went on after that.
    lost_to: Option<Fault>,
    /// A fault of the guest or the owner has stopped the queue, which has not run since.
    stopped: bool,
    /// The last round has stopped the queue, lost packets, or has to be retried.
    in_trouble: bool,
    /// The last round has left more to do, so that the next one begins without an event.
    pub(crate) again: bool,
    /// `VHOST_BACKEND_F_IOTLB_MSG_V2`: format of the messages about IO addresses.
    pub(crate) messages_v2: bool,
    /// `VHOST_SET_VRING_BUSYLOOP_TIMEOUT`: how long a round busy-polls before it ends, in
    /// microseconds.
    pub(crate) busy_timeout: u32,
    /// Derived by `choose_path()` from table, ring and mediation.
    path: Path,
    scratch: Scratch,
}

impl<Q: Queues> Virtqueue<Q> {
    /// Makes a queue in the state after open, which counts in `kept` the pages that it keeps for
    /// later rounds.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(kept: Arc<Counter>) -> Result<impl Init<Self>> {
        let scratch = Scratch {
            segments: KVec::from_elem(Segment::default(), MAX_CHAIN_SEGMENTS, GFP_KERNEL)?,
            used: UsedBatch::new()?,
        };
        let state = Q::State::new(kept)?;
        // Initialized in place, since the kernel's stack has no room for queues.
        Ok(init!(Self {
            owner: 0,
            source: trace::Source::default(),
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
            again: false,
            messages_v2: false,
            busy_timeout: 0,
            path: Path::Nowhere,
            scratch,
        }))
    }

    /// Sets the negotiated features.
    pub(crate) fn set_features(&mut self, features: Features) {
        if self.mediation.order(&features) != self.mediation.order(&self.features) {
            // The ring's bytes are to be interpreted differently.
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

    /// Moves the ring; `log_used` is the address of its used part in the dirty log, if that is
    /// logged.
    pub(crate) fn set_addrs(&mut self, addrs: RingAddrs, log_used: Option<GuestAddr>) {
        self.rings.set_addrs(addrs);
        self.mediation.log_used = log_used;
        self.choose_path();
    }

    /// Moves the dirty log.
    ///
    /// # Errors
    ///
    /// `EFAULT`, and no change, when the queue runs and its log would exceed the range of user
    /// addresses.
    pub(crate) fn set_log_base(&mut self, base: UserAddr) -> Result {
        if self.backend.is_some() && !self.log_is_accessible(base) {
            return Err(EFAULT);
        }
        self.mediation.log_base = base;
        Ok(())
    }

    /// Sets the eventfd to signal when writes have been logged; returns the old one.
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

    /// The IOTLB, which exists with `VIRTIO_F_ACCESS_PLATFORM`.
    pub(crate) fn iotlb(&mut self) -> Option<&mut Iotlb> {
        self.mediation.iotlb.as_mut()
    }

    /// Replaces the IOTLB by an empty one, or by none.
    ///
    /// If that adds or removes the IOTLB, the ring has no address until it is set again.
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

    /// Takes the miss of a start that ended with [`Next::Translate`].
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

    /// Starts a split ring at the used index in memory, a packed ring at its base.
    ///
    /// With [`Next::Translate`] the ring has not been started. As with vhost, a dirty log that
    /// cannot be written stops the first round, not this call.
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

    /// Whether the queue accepts these features; while it runs, its ring format must not change.
    pub(crate) fn accepts_features(&self, features: &Features) -> bool {
        self.backend.is_none() || features.has(RING_PACKED) == self.rings.is_packed()
    }

    /// Whether a backend may be set (`vhost_vq_access_ok()`).
    ///
    /// There has to be a memory table; it, the ring and the dirty log have to lie in the range of
    /// user addresses.
    pub(crate) fn is_accessible(&self) -> bool {
        let accessible = |table: &Arc<Table>| table.is_accessible();
        self.table.as_ref().is_some_and(accessible)
            && self.log_is_accessible(self.mediation.log_base)
            && self.ring_is_accessible(self.rings.addrs())
    }

    /// Whether a log at `base` can record the queue's writes (`vq_log_access_ok()`).
    fn log_is_accessible(&self, base: UserAddr) -> bool {
        let all = self.features.has(LOG_ALL);
        (!all || self.table_can_be_logged(base))
            && self.used_can_be_logged(base, self.mediation.log_used)
    }

    /// Whether the queue, if it runs, can go on with `table` (`memory_access_ok()`).
    pub(crate) fn accepts(&self, table: &Table) -> bool {
        let loggable = !self.features.has(LOG_ALL) || table.can_be_logged(self.mediation.log_base);
        self.backend.is_none() || (table.is_accessible() && loggable)
    }

    /// Whether a log at `base` can cover the memory table.
    fn table_can_be_logged(&self, base: UserAddr) -> bool {
        let can_be_logged = |table: &Arc<Table>| table.can_be_logged(base);
        self.table.as_ref().is_some_and(can_be_logged)
    }

    /// Whether the queue, if it runs, can log writes to all memory (`vhost_log_access_ok()`).
    pub(crate) fn can_log_all(&self) -> bool {
        self.backend.is_none() || self.table_can_be_logged(self.mediation.log_base)
    }

    /// Whether the used ring can be logged at the address `used` of the log.
    pub(crate) fn used_is_loggable(&self, used: Option<GuestAddr>) -> bool {
        self.used_can_be_logged(self.mediation.log_base, used)
    }

    /// Whether a log at `base` can cover a used ring at address `used` of it.
    ///
    /// With an IOTLB, that address is not used.
    fn used_can_be_logged(&self, base: UserAddr, used: Option<GuestAddr>) -> bool {
        let [_, _, len] = self.rings.extents();
        self.mediation.iotlb.is_some()
            || used.is_none_or(|addr| memory::log_access_ok(base, addr, len))
    }

    /// Whether a ring of this size can lie at `addrs`.
    ///
    /// With an IOTLB, only a translation can tell.
    pub(crate) fn ring_is_accessible(&self, addrs: RingAddrs) -> bool {
        if self.mediation.iotlb.is_some() {
            return true;
        }
        let [desc, avail, used] = self.rings.extents();
        kapi::access_ok(addrs.desc, desc)
            && kapi::access_ok(addrs.avail, avail)
            && kapi::access_ok(addrs.used, used)
    }

    /// Replaces the backend; returns the old one, which has to be dropped without the queue's
    /// mutex.
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

    /// Publishes used buffers and logs writes that earlier rounds could not.
    ///
    /// If the used ring is still inaccessible, the chains become available again, as after
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

    /// Stops the backend from waking the queue.
    fn disarm(&mut self) {
        if let Some(backend) = &mut self.backend {
            backend.disarm();
        }
    }

    /// Whether there are writes that the queue has to log before it waits for anything.
    pub(crate) fn is_owing(&self) -> bool {
        self.mediation.is_owing()
    }

    /// Whether the queue is stopped until the guest or the owner repairs something.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Returns to the state after open.
    pub(crate) fn reset(&mut self) -> Detached<Q> {
        // All fields are named, so that none is forgotten.
        let Self {
            // The next owner sets them.
            owner: _,
            source: _,
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
            again,
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
        *again = false;
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

/// The files that a queue had open, to be dropped without its mutex.
#[must_use]
pub(crate) struct Detached<Q: Queues> {
    _backend: Option<Backend<Q>>,
    _kick: Option<Poller<Counted>>,
    _call: Option<EventFd>,
    _error: Option<EventFd>,
}

/// A round that publishes used buffers which an earlier round could not publish.
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
