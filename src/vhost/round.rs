// SPDX-License-Identifier: GPL-2.0

//! A round of a queue: one run of it by its worker.

use kernel::prelude::*;
use vring::{CompleteWork, Fault, Memory, Ring, Segment, Translate};

use super::access::GuestMemory;
use super::backend::Backend;
use super::features::Features;
use super::queues::Queues;
use super::stats::Stats;
use super::used::UsedBatch;
use crate::kapi::{BusyTime, EventFd};

/// What has to happen after a round of a queue.
#[must_use]
#[derive(PartialEq, Eq)]
pub(crate) enum Next {
    /// A kick or the backend will wake the queue.
    Wait,
    /// A failed operation will succeed later, but no event announces it: a timer wakes the queue.
    Retry,
    /// There is more to do, after a round of the other queue.
    Again,
    /// The owner has to translate an IO address, and wakes the queue by its answer.
    Translate,
}

/// A queue that has everything that a round needs.
pub(crate) struct Running<'a, Q: Queues, R> {
    pub(crate) ring: &'a mut R,
    pub(crate) features: Features,
    pub(crate) state: &'a mut Q::State,
    pub(crate) backend: &'a mut Backend<Q>,
    pub(crate) call: Option<&'a EventFd>,
    pub(crate) busy: BusyTime,
    /// The round begins since the worker was woken, not since the last one has left more to do.
    pub(crate) woken: bool,
    pub(crate) scratch: &'a mut Scratch,
    /// The fault to which a round lost packets, if it went on after that.
    pub(crate) lost_to: &'a mut Option<Fault>,
}

/// A round of a queue, for any ring format and any kind of guest memory.
pub(crate) trait Round<Q: Queues> {
    /// Runs the queue.
    ///
    /// # Errors
    ///
    /// A [`Fault`] of the guest.
    fn run<R: Ring, M: GuestMemory, T: Translate>(
        self,
        queue: Running<'_, Q, R>,
        memory: M,
        table: &T,
    ) -> Result<Next, Fault>;
}

/// Buffers of a round, allocated once for all rounds.
pub(crate) struct Scratch {
    /// Storage for the segments of the chains of one packet.
    pub(crate) segments: KVec<Segment>,
    pub(crate) used: UsedBatch,
}

/// Calls the guest if it has asked for a call since the last one, for what has been published.
#[inline(always)]
pub(crate) fn call<M: Memory>(
    memory: &M,
    ring: &mut impl CompleteWork,
    call: Option<&EventFd>,
    stats: &Stats,
) {
    if let Some(call) = call {
        if ring.needs_call(memory) {
            call.signal();
            stats.calls.add(1);
        } else {
            stats.unwanted_calls.add(1);
        }
    }
}
