// SPDX-License-Identifier: GPL-2.0

//! What an operator sees of a virtqueue.

use kernel::mm::MmWithUser;
use vring::{LoadMemory, Look, Offer, Progress, RingAddrs};

use super::{Path, Virtqueue};
use crate::kapi::{InterfaceName, Peek};
use crate::vhost::queues::{Queues, Target};

/// A virtqueue at one moment.
pub(crate) struct Looked {
    /// It has a backend.
    pub(crate) started: bool,
    /// A fault has stopped it.
    pub(crate) stopped: bool,
    pub(crate) is_packed: bool,
    /// Number of descriptors.
    pub(crate) size: u16,
    /// Where the ring lies, if that has been set.
    pub(crate) addrs: Option<RingAddrs>,
    /// It has an IOTLB: the addresses are IO addresses.
    pub(crate) iotlb: bool,
    /// Its writes are logged.
    pub(crate) log: bool,
    /// How far the device has come.
    pub(crate) progress: Progress,
    /// What the driver offers, if it can be read without waiting.
    pub(crate) offer: Option<Offer>,
    /// Whether the driver asks for calls, likewise.
    pub(crate) wants_calls: Option<bool>,
    pub(crate) waits_for: WaitsFor,
    /// The kind of backend.
    pub(crate) backend: Option<&'static str>,
    /// The backend's interface, if it is known.
    pub(crate) interface: Option<InterfaceName>,
}

/// What wakes the queue next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    /// It is not started, or has been woken.
    Nothing,
    /// The guest kicks.
    Kick,
    /// The backend has an event: a packet, or room.
    Backend,
    /// The owner translates an IO address.
    Translation,
    /// A timer expires, to retry what has failed.
    Retry,
}

impl<Q: Queues> Virtqueue<Q> {
    /// Looks at the queue, whose owner's memory is `mm`, without waiting for anything.
    ///
    /// `is_woken` tells whether the queue's worker has been woken for it, `is_missing` whether
    /// the owner has yet to answer a miss.
    pub(crate) fn look(
        &mut self,
        mm: Option<&MmWithUser>,
        is_woken: bool,
        is_missing: bool,
    ) -> Looked {
        let (offer, wants_calls) = mm.map_or((None, None), |mm| self.peek(Peek::new(mm)));
        let target = self.backend.as_ref().map(|backend| &backend.target);
        let (backend, interface) = (
            target.map(Q::Target::kind),
            target.and_then(Target::interface),
        );
        Looked {
            started: backend.is_some(),
            stopped: self.stopped,
            is_packed: self.rings.is_packed(),
            size: self.rings.size(),
            addrs: Some(self.rings.addrs()).filter(|addrs| *addrs != RingAddrs::default()),
            iotlb: self.mediation.iotlb.is_some(),
            log: self.mediation.is_logging(&self.features),
            progress: self.rings.progress(),
            offer,
            wants_calls,
            waits_for: self.waits_for(is_woken, is_missing),
            backend,
            interface,
        }
    }

    /// Reads what the driver has written, as far as that is possible.
    fn peek(&self, memory: Peek<'_>) -> (Option<Offer>, Option<bool>) {
        match (&self.table, self.path) {
            (Some(table), Path::Mediated) => {
                let addrs = self.rings.addrs();
                let memory = self.mediation.memory(memory, table, &self.features, addrs);
                self.read(&&memory)
            }
            (Some(_), Path::Split | Path::Packed) => self.read(&memory),
            _ => (None, None),
        }
    }

    fn read(&self, memory: &impl LoadMemory) -> (Option<Offer>, Option<bool>) {
        let offer = self.rings.offer(memory).ok();
        (offer, self.rings.wants_calls(memory).ok())
    }

    fn waits_for(&mut self, is_woken: bool, is_missing: bool) -> WaitsFor {
        let Some(backend) = self.backend.as_mut().filter(|_| !is_woken) else {
            return WaitsFor::Nothing;
        };
        if backend.is_retrying() {
            WaitsFor::Retry
        } else if is_missing {
            WaitsFor::Translation
        } else if backend.is_armed() {
            WaitsFor::Backend
        } else {
            WaitsFor::Kick
        }
    }
}
