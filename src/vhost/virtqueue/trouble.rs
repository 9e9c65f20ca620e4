// SPDX-License-Identifier: GPL-2.0

//! What happens to a queue after a round with a fault, and what starts it again.

use kernel::prelude::*;
use vring::{Fault, Miss, Ring, Translate};

use crate::kapi::{self, trace, OwnerMemory};
use crate::vhost::access::GuestMemory;
use crate::vhost::backend::Backend;
use crate::vhost::queues::{Queues, State};
use crate::vhost::round::{Next, Round, Running};
use crate::vhost::stats::Stats;

use super::Virtqueue;

impl<Q: Queues> Virtqueue<Q> {
    /// Records a round that ended without a fault.
    ///
    /// `index` is the queue's index, a constant in each place that this is inlined into.
    #[inline(always)]
    pub(crate) fn went_on(&mut self, next: &Next, index: usize, stats: &Stats) {
        if self.in_trouble || self.lost_to.is_some() || *next == Next::Retry {
            self.went_on_in_trouble(next, index, stats);
        }
        // A queue that waits for a translation waits for its owner, which may never answer.
        if *next != Next::Again && self.state.keeps_memory(index) {
            let packets = || stats.packets.get();
            if let Some(true) = self.backend.as_mut().map(|it| it.is_idle(packets)) {
                self.state.release();
            }
        }
    }

    /// Records a round that followed one with trouble, lost packets, or has to be retried.
    #[cold]
    #[inline(never)]
    fn went_on_in_trouble(&mut self, next: &Next, index: usize, stats: &Stats) {
        if core::mem::take(&mut self.stopped) {
            trace::queue_start(self.source);
        }
        let lost_to = self.lost_to.take();
        let retry = *next == Next::Retry;
        self.in_trouble = retry || lost_to.is_some();
        if retry {
            // The timer is needed for the retry, and memory may be what is short.
            self.state.release();
        }
        if let Some(fault) = lost_to {
            self.tell(fault, Trouble::Loss, index, stats);
        }
        if let Some(backend) = &mut self.backend {
            if retry {
                backend.retry_later();
            } else if !self.in_trouble {
                backend.went_well();
            }
        }
    }

    /// Disarms the backend until the owner has translated the miss of the round, which is returned.
    pub(crate) fn park(&mut self) -> Option<Miss> {
        self.disarm();
        self.missed.take()
    }

    /// Stops the queue after a round with a fault, and arranges for it to start again.
    ///
    /// It returns [`Next::Again`] to start at once.
    ///
    /// No event announces that inaccessible memory is accessible again, so a timer restarts the
    /// queue. After a fault of the guest, kicks are requested: the guest may repair the ring and
    /// then make more chains available. Each change by the owner wakes the queue, too (`setup.rs`).
    /// Packets at the backend do not, since each would only meet the same fault again.
    #[cold]
    pub(crate) fn stop(
        &mut self,
        owner: OwnerMemory<'_>,
        fault: Fault,
        index: usize,
        stats: &Stats,
    ) -> Next {
        self.lost_to = None;
        if !core::mem::replace(&mut self.stopped, true) {
            trace::queue_stop(self.source, "fault");
        }
        self.in_trouble = true;
        self.disarm();
        // Nothing may be sent for a long time.
        self.state.release();
        self.tell(fault, Trouble::Stop, index, stats);
        let next = if comes_back(fault) {
            Next::Retry
        } else {
            // Otherwise the old copies of the descriptors would be checked again.
            self.rings.forget_prefetch();
            self.run(owner, AwaitKick)
                .unwrap_or_else(|fault| match comes_back(fault) {
                    true => Next::Retry,
                    // The address of the ring itself is invalid, and the owner has to change it.
                    false => Next::Wait,
                })
        };
        if let (Next::Retry, Some(backend)) = (&next, &mut self.backend) {
            backend.retry_later();
        }
        next
    }

    /// Reports a fault to the owner and to the kernel log.
    ///
    /// Inaccessible memory is reported only once until a round succeeds again.
    #[cold]
    fn tell(&mut self, fault: Fault, trouble: Trouble, index: usize, stats: &Stats) {
        let is_news = self.backend.as_mut().is_none_or(Backend::is_news);
        if comes_back(fault) && !is_news {
            return;
        }
        stats.fault(fault);
        trace::fault(self.source, fault.name(), fault.addr());
        if let Some(error) = &self.error {
            error.signal();
        }
        if kapi::log_allowed() {
            pr_warn!(
                "vhost-{}: {} {}: {}\n",
                self.owner,
                Q::name(index),
                match trouble {
                    Trouble::Stop => "queue stopped",
                    Trouble::Loss => "packet lost",
                },
                Reason(fault)
            );
        }
    }
}

/// Whether the cause of `fault` may end by itself.
///
/// That is the case for memory of the owner which is swapped out to a disk with errors, on a full
/// file system, or protected for a while.
fn comes_back(fault: Fault) -> bool {
    matches!(fault, Fault::Unmapped(_) | Fault::Unlogged(_))
}

/// The consequence of a fault.
#[derive(Clone, Copy)]
enum Trouble {
    /// The queue has stopped.
    Stop,
    /// A packet was lost, and the queue goes on.
    Loss,
}

/// A round that requests a kick after a fault.
struct AwaitKick;

impl<Q: Queues> Round<Q> for AwaitKick {
    fn run<R: Ring, M: GuestMemory, T: Translate>(
        self,
        queue: Running<'_, Q, R>,
        memory: M,
        _table: &T,
    ) -> Result<Next, Fault> {
        Ok(match queue.ring.await_kick(&memory)? {
            true => Next::Again,
            false => Next::Wait,
        })
    }
}

/// A fault, formatted for the kernel log.
struct Reason(Fault);

impl kernel::fmt::Display for Reason {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        core::fmt::Display::fmt(&self.0, f)
    }
}
