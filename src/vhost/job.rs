// SPDX-License-Identifier: GPL-2.0

//! The work of a worker's thread: rounds of the queues that are attached to the worker.

use kernel::sync::Arc;
use vring::Fault;

use super::class::Class;
use super::device::Device;
use super::queues::QUEUES;
use super::round::Next;
use super::stats::{Mark, Moved, Stats};
use super::worker::Pending;
use crate::kapi::{self, trace, OwnerMemory, Work};

/// The work of a worker.
///
/// It refers to the device that holds the worker; [`Device::stop`] breaks this reference cycle.
pub(crate) struct Job<C: Class> {
    pub(crate) device: Arc<Device<C>>,
    /// The id of the worker.
    pub(crate) id: u32,
    pub(crate) pending: Arc<Pending>,
}

impl<C: Class> Job<C> {
    /// Runs a round of a queue if the worker has been woken for it.
    #[inline(always)]
    fn serve(&self, index: usize, pending: &Pending, memory: OwnerMemory<'_>) {
        // Clears the flag before the round looks for work, so that a later event sets it again.
        // Pairs with the barrier in `Waker::wake()`.
        if !pending.take(index) {
            return;
        }
        let Some(queue) = self.device.queue(index) else {
            return;
        };
        let mut vq = queue.vq.lock();
        if vq.worker != self.id {
            // The queue has since been attached to another worker, which has been woken for it.
            return;
        }
        let before = trace::traces_rounds().then(|| queue.stats.mark());
        let round = C::run(index, &mut vq, memory, &queue.stats, pending);
        if let Some(before) = before {
            trace_round(vq.source, &queue.stats, &before, &round);
        }
        let next = match round {
            Ok(next) => {
                vq.went_on(&next, index, &queue.stats);
                next
            }
            // A dying owner loses its memory, which is not the guest's fault. An owner that is only
            // stopped needs to know of the fault.
            Err(_) if kapi::is_dying() => return,
            Err(fault) => vq.stop(memory, fault, index, &queue.stats),
        };
        match next {
            Next::Wait | Next::Retry => {}
            Next::Translate => {
                // The queue waits until the owner answers.
                if let Some(miss) = vq.park() {
                    self.device.ask(queue, &vq, miss);
                }
            }
            // The thread checks the flag again before it sleeps.
            Next::Again => {
                vq.again = true;
                pending.set(index);
                drop(vq);
                kapi::cond_resched();
            }
        }
    }
}

impl<C: Class> Work for Job<C> {
    #[inline]
    fn pending(&self) -> bool {
        // The thread has set its sleeping state, with a full barrier, before it calls this.
        let pending = &*self.pending;
        pending.note_thread();
        (0..QUEUES).any(|index| pending.is_set(index))
    }

    fn run(&self, memory: OwnerMemory<'_>) {
        // Not a loop, so that the rounds of both queues are compiled separately.
        const { assert!(QUEUES == 2) };
        let pending = &*self.pending;
        self.serve(0, pending, memory);
        self.serve(1, pending, memory);
    }

    fn killed(&self) {
        // The owner is dying, and its memory goes away. Later wake-ups only set flags, until the
        // file is closed.
        self.pending.end();
    }
}

/// Traces the end of a round, if the queue had everything that a round needs; `before` is from the
/// round's beginning.
#[cold]
#[inline(never)]
fn trace_round(source: trace::Source, stats: &Stats, before: &Mark, round: &Result<Next, Fault>) {
    let Some(Moved {
        packets,
        bytes,
        end,
    }) = stats.since(before)
    else {
        return;
    };
    let why = match (round, end) {
        (Err(_), _) => "fault",
        (Ok(Next::Translate), _) => "translation",
        (_, Some(end)) => end,
        // Only a round whose owner has been killed ends for no reason of its own.
        _ => "killed",
    };
    trace::round_end(source, packets, bytes, why);
}
