// SPDX-License-Identifier: GPL-2.0

//! The worker: the thread of the owner that runs the queues.

use kernel::current;
use kernel::sync::Arc;

use crate::device::Device;
use crate::kapi::{self, VhostTask, Wake, Work};
use crate::virtqueue::{Direction, Next};
use crate::{rx, tx};

/// A device's worker thread.
pub(crate) type Worker = VhostTask<Device>;

/// Wakes a device's worker for one of its queues; what kick and backend callbacks hold.
///
/// It refers to the device that holds it. [`Device::stop`] breaks the circle.
pub(crate) struct Waker {
    device: Arc<Device>,
    worker: Arc<Worker>,
    direction: Direction,
}

impl Waker {
    pub(crate) fn new(device: Arc<Device>, worker: Arc<Worker>, direction: Direction) -> Self {
        Self {
            device,
            worker,
            direction,
        }
    }
}

impl Wake for Waker {
    #[inline]
    fn wake(&self) {
        // Orders the event before the flag, for the worker that sees the flag.
        if self.device.queue(self.direction).pending.set() {
            self.worker.wake();
        }
    }
}

impl Work for Device {
    #[inline]
    fn pending(&self) -> bool {
        // The task set its sleeping state with a full barrier before it looks here.
        self.queue(Direction::Rx).pending.is_set() || self.queue(Direction::Tx).pending.is_set()
    }

    fn run(&self) {
        for direction in [Direction::Rx, Direction::Tx] {
            let queue = self.queue(direction);
            // Orders the flag before the look for work, so that an event after it sets the flag again.
            if !queue.pending.take() {
                continue;
            }
            let mut vq = queue.vq.lock();
            let round = match direction {
                Direction::Rx => rx::run(&mut vq, &queue.stats, &queue.pending),
                Direction::Tx => tx::run(&mut vq, &queue.stats),
            };
            match round {
                Ok(Next::Wait) => {}
                Ok(Next::Translate(miss)) => self.messages.miss(direction, miss, vq.messages_v2),
                // The task looks again before it sleeps.
                Ok(Next::Again) => {
                    queue.pending.set();
                    drop(vq);
                    kapi::cond_resched();
                }
                // With the owner goes its memory, which is not the guest's fault.
                Err(_) if current!().signal_pending() => {}
                Err(fault) => {
                    queue.stats.fault(fault);
                    vq.report(fault, direction);
                }
            }
        }
    }

    fn killed(&self) {
        // The owner is dying and takes its memory with it: nobody is left to work for. Wake-ups
        // that still come only set flags, until the file is closed.
    }
}
