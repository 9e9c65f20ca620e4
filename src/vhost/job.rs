// SPDX-License-Identifier: GPL-2.0

//! The work of a worker's thread: rounds of the queues that are attached to the worker.

use kernel::sync::Arc;

use super::class::Class;
use super::device::Device;
use super::queues::QUEUES;
use super::round::Next;
use super::worker::Pending;
use crate::kapi::{self, OwnerMemory, Work};

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
        let round = C::run(index, &mut vq, memory, &queue.stats, pending);
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
                    if self.device.messages.miss(index, miss, vq.messages_v2) {
                        queue.stats.iotlb_misses.add(1);
                    }
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
    }
}
