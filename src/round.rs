// SPDX-License-Identifier: GPL-2.0

//! A round of a queue: what it gets, what bounds it, and what it ends with.

use kernel::prelude::*;
use vring::{Fault, Memory, Segment, SplitRing, Translate};

use crate::access::GuestMemory;
use crate::backend::Backend;
use crate::features::Features;
use crate::header::Header;
use crate::kapi::{BusyTime, EventFd, Frames};
use crate::stats::Stats;
use crate::used::UsedBatch;

/// Packets after which a round ends, so that the other queue gets its turn
/// (`VHOST_NET_PKT_WEIGHT`).
pub(crate) const MAX_ROUND_PACKETS: usize = 256;
/// Bytes after which a round ends (`VHOST_NET_WEIGHT`).
pub(crate) const MAX_ROUND_BYTES: usize = 0x80000;
/// Descriptors after which a round ends, those of indirect tables and empty ones included: 64 for each
/// packet, which is more than any driver needs. Without it a guest that makes chains of empty
/// descriptors would keep the queue's mutex from its owner for long.
pub(crate) const MAX_ROUND_DESCS: u32 = 1 << 14;

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
pub(crate) struct Running<'a> {
    pub(crate) ring: &'a mut SplitRing,
    pub(crate) features: Features,
    pub(crate) header: Header,
    pub(crate) backend: &'a mut Backend,
    pub(crate) call: Option<&'a EventFd>,
    pub(crate) busy: BusyTime,
    pub(crate) scratch: &'a mut Scratch,
    /// Set by a round that loses packets to a fault and goes on.
    pub(crate) lost_to: &'a mut Option<Fault>,
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
