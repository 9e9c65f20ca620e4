// SPDX-License-Identifier: GPL-2.0

//! A round of a queue: what it gets, what bounds it, and what it ends with.

use kernel::prelude::*;
use vring::{CompleteWork, Fault, Memory, Ring, Segment, Translate};

use super::access::GuestMemory;
use super::backend::Backend;
use super::features::Features;
use super::queues::Queues;
use super::stats::Stats;
use super::used::UsedBatch;
use crate::kapi::{BusyTime, EventFd};

/// What a round of a queue ends with.
#[must_use]
#[derive(PartialEq, Eq)]
pub(crate) enum Next {
    /// A kick or the backend will wake the queue.
    Wait,
    /// What was tried will go later, and nobody tells when: a timer wakes the queue.
    Retry,
    /// There is more to do; the other queue comes first.
    Again,
    /// The owner has to translate an IO address, and wakes the queue when it has.
    Translate,
}

/// A queue that has all it needs for a round.
pub(crate) struct Running<'a, Q: Queues, R> {
    pub(crate) ring: &'a mut R,
    pub(crate) features: Features,
    pub(crate) state: &'a mut Q::State,
    pub(crate) backend: &'a mut Backend<Q>,
    pub(crate) call: Option<&'a EventFd>,
    pub(crate) busy: BusyTime,
    pub(crate) scratch: &'a mut Scratch,
    /// Set by a round that loses packets to a fault and goes on.
    pub(crate) lost_to: &'a mut Option<Fault>,
}

/// A round of a queue, whatever its ring and its memory are.
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

/// Memory that a round needs, allocated once.
pub(crate) struct Scratch {
    /// Segments of the chains of one packet.
    pub(crate) segments: KVec<Segment>,
    pub(crate) used: UsedBatch,
}

/// Calls the guest if it wants to be called for what has been published since the last time.
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
        }
    }
}
