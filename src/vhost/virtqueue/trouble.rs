// SPDX-License-Identifier: GPL-2.0

//! What becomes of a queue after a round with a fault, and what starts it again.

use kernel::prelude::*;
use vring::{Fault, Miss, Ring, Translate};

use crate::kapi::{self, OwnerMemory};
use crate::vhost::access::GuestMemory;
use crate::vhost::backend::Backend;
use crate::vhost::queues::{Queues, State};
use crate::vhost::round::{Next, Round, Running};
use crate::vhost::stats::Stats;

use super::Virtqueue;

impl<Q: Queues> Virtqueue<Q> {
    /// Takes note of a round that ended without a fault. `index` is the queue's index, a constant where
    /// this is compiled for it.
    #[inline(always)]
    pub(crate) fn went_on(&mut self, next: &Next, index: usize, stats: &Stats) {
        if self.in_trouble || self.lost_to.is_some() || *next == Next::Retry {
            self.went_on_in_trouble(next, index, stats);
        }
        if *next == Next::Wait && self.state.keeps_memory(index) {
            let packets = || stats.packets.get();
            if let Some(true) = self.backend.as_mut().map(|it| it.is_idle(packets)) {
                self.state.release();
            }
        }
    }

    /// Takes note of a round after one with trouble, or which lost packets, or could not do all that
    /// there was to do.
    #[cold]
    #[inline(never)]
    fn went_on_in_trouble(&mut self, next: &Next, index: usize, stats: &Stats) {
        self.stopped = false;
        let lost_to = self.lost_to.take();
        let retry = *next == Next::Retry;
        self.in_trouble = retry || lost_to.is_some();
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

    /// Waits for the owner to translate what the round missed; gives that.
    pub(crate) fn park(&mut self) -> Option<Miss> {
        self.disarm();
        self.missed.take()
    }

    /// Stops after a round that ended with a fault, and sees to it that the queue starts again
    /// ([`Next::Again`]: at once).
    ///
    /// Memory that is away comes back without a word: a timer has the queue look. What the guest has
    /// done wrong it may mend and then make more available, so kicks are asked for; and whatever the
    /// owner changes has the queue look again (`setup.rs`). Packets from outside do
    /// not: they would run into the fault again and again.
    #[cold]
    pub(crate) fn stop(
        &mut self,
        owner: OwnerMemory<'_>,
        fault: Fault,
        index: usize,
        stats: &Stats,
    ) -> Next {
        self.lost_to = None;
        self.stopped = true;
        self.in_trouble = true;
        self.disarm();
        self.tell(fault, Trouble::Stop, index, stats);
        let next = if comes_back(fault) {
            Next::Retry
        } else {
            // Else the descriptors of before would be judged again.
            self.rings.forget_prefetch();
            self.run(owner, AwaitKick)
                .unwrap_or_else(|fault| match comes_back(fault) {
                    true => Next::Retry,
                    // The ring itself is where it must not be: for the owner to mend.
                    false => Next::Wait,
                })
        };
        if let (Next::Retry, Some(backend)) = (&next, &mut self.backend) {
            backend.retry_later();
        }
        next
    }

    /// Tells the owner, and the kernel log, of a fault. Of memory that is away it tells only once until
    /// it is back.
    #[cold]
    fn tell(&mut self, fault: Fault, trouble: Trouble, index: usize, stats: &Stats) {
        let is_news = self.backend.as_mut().is_none_or(Backend::is_news);
        if comes_back(fault) && !is_news {
            return;
        }
        stats.fault(fault);
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

/// Whether what `fault` is about may come back by itself: memory of the owner that is swapped out on a
/// disk with errors, on a full file system, or protected for a while.
fn comes_back(fault: Fault) -> bool {
    matches!(fault, Fault::Unmapped(_) | Fault::Unlogged(_))
}

/// What a fault has led to.
#[derive(Clone, Copy)]
enum Trouble {
    /// The queue has stopped.
    Stop,
    /// A packet is lost, and the queue goes on.
    Loss,
}

/// Asks for a kick after a fault.
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

/// A fault, for the kernel log.
struct Reason(Fault);

impl kernel::fmt::Display for Reason {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        core::fmt::Display::fmt(&self.0, f)
    }
}
