// SPDX-License-Identifier: GPL-2.0

//! What a worker's thread does: rounds of the queues that are attached to it.

use kernel::sync::Arc;

use super::class::Class;
use super::device::Device;
use super::queues::QUEUES;
use super::round::Next;
use super::worker::Pending;
use crate::kapi::{self, OwnerMemory, Work};

/// The work of a worker.
///
/// It refers to the device that holds the worker. [`Device::stop`] breaks the circle.
pub(crate) struct Job<C: Class> {
    pub(crate) device: Arc<Device<C>>,
    /// The worker's number among those of the device.
    pub(crate) id: u32,
    pub(crate) pending: Arc<Pending>,
}

impl<C: Class> Job<C> {
    /// Runs a round of a queue, if there is something to do for it.
    #[inline(always)]
    fn serve(&self, index: usize, pending: &Pending, memory: OwnerMemory<'_>) {
        // Orders the flag before the look for work, so that an event after it sets the flag again.
        if !pending.take(index) {
            return;
        }
        let Some(queue) = self.device.queue(index) else {
            return;
        };
        let mut vq = queue.vq.lock();
        if vq.worker != self.id {
            // Attached to another one since, which has been woken for it.
            return;
        }
        let round = C::run(index, &mut vq, memory, &queue.stats, pending);
        let next = match round {
            Ok(next) => {
                vq.went_on(&next, index, &queue.stats);
                next
            }
            // With the owner goes its memory, which is not the guest's fault. An owner that is only
            // stopped will want to know.
            Err(_) if kapi::is_dying() => return,
            Err(fault) => vq.stop(memory, fault, index, &queue.stats),
        };
        match next {
            Next::Wait | Next::Retry => {}
            Next::Translate => {
                // Until the owner answers.
                if let Some(miss) = vq.park() {
                    self.device.messages.miss(index, miss, vq.messages_v2);
                }
            }
            // The task looks again before it sleeps.
            Next::Again => {
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
        // The task set its sleeping state with a full barrier before it looks here.
        let pending = &*self.pending;
        (0..QUEUES).any(|index| pending.is_set(index))
    }

    fn run(&self, memory: OwnerMemory<'_>) {
        // Not a loop, so that the round of each queue is compiled straight.
        const { assert!(QUEUES == 2) };
        let pending = &*self.pending;
        self.serve(0, pending, memory);
        self.serve(1, pending, memory);
    }

    fn killed(&self) {
        // The owner is dying and takes its memory with it: nobody is left to work for. Wake-ups
        // that still come only set flags, until the file is closed.
    }
}
