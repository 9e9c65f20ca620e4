// SPDX-License-Identifier: GPL-2.0

//! The workers of a device: the threads that run its queues.
//!
//! From `VHOST_SET_OWNER` on, a device has one worker for both queues, or one for each, as the
//! module parameter `threads_per_device` says then. Its owner may start more workers and attach each
//! queue to any one of them, also under traffic. Error codes are those of `vhost_worker_ioctl()`.

use kernel::prelude::*;
use kernel::sync::Arc;

use super::queues::QUEUES;
use super::worker::{Mode, Pending, Waker, Worker};
use crate::kapi::{Work, ENOBUFS};

/// The most workers of a device.
///
/// As threads of the owner they count against its `RLIMIT_NPROC`, except for a privileged owner.
/// Two queues keep two workers busy. The others let an owner start new workers before it frees the
/// old ones.
const MAX_WORKERS: u32 = 16;

/// The workers of a device, protected by the device mutex.
pub(crate) struct Workers {
    all: KVec<Arc<Worker>>,
    /// The worker of each queue.
    attached: [Arc<Worker>; QUEUES],
    mode: Mode,
    /// The number of the device.
    device: u64,
}

impl Workers {
    /// Starts the first workers of a device, with ids from 0 on: `threads`, but at least one, and at
    /// most one for each queue.
    ///
    /// Each queue is attached to the worker whose id is the queue's index, or else to the first one.
    /// `device` is the number of the device, and `job` makes the work of each worker.
    ///
    /// # Errors
    ///
    /// Those of [`Worker::start`]. No thread is left then.
    pub(crate) fn start<W: Work>(
        mode: Mode,
        threads: u32,
        device: u64,
        job: impl Fn(u32, Arc<Pending>) -> W,
    ) -> Result<Self> {
        let first = Worker::start(0, mode, device, &job)?;
        let mut attached = core::array::from_fn(|_| first.clone());
        let mut all = KVec::with_capacity(QUEUES, GFP_KERNEL)?;
        all.push(first, GFP_KERNEL)?;
        for (id, slot) in (0..threads).zip(&mut attached).skip(1) {
            *slot = Worker::start(id, mode, device, &job)?;
            all.push(slot.clone(), GFP_KERNEL)?;
        }
        Ok(Self {
            all,
            attached,
            mode,
            device,
        })
    }

    /// Starts another worker and returns its id, the lowest free one (`VHOST_NEW_WORKER`).
    ///
    /// `job` makes its work.
    ///
    /// # Errors
    ///
    /// `EFAULT` when workers are kernel threads, which no limit of the owner applies to. `ENOSPC`
    /// when there are [`MAX_WORKERS`], which vhost does not limit. Those of [`Worker::start`].
    pub(crate) fn add<W: Work>(&mut self, job: impl FnOnce(u32, Arc<Pending>) -> W) -> Result<u32> {
        if self.mode == Mode::Kthread {
            return Err(EFAULT);
        }
        let id = (0..MAX_WORKERS)
            .find(|id| self.find(*id).is_err())
            .ok_or(ENOSPC)?;
        let worker = Worker::start(id, self.mode, self.device, job)?;
        self.all.push(worker, GFP_KERNEL)?;
        Ok(id)
    }

    /// Stops a worker that no queue is attached to (`VHOST_FREE_WORKER`).
    ///
    /// # Errors
    ///
    /// `ENODEV` for an unknown id, `EBUSY` when a queue is attached.
    pub(crate) fn remove(&mut self, id: u32) -> Result {
        self.find(id)?;
        if self.attached.iter().any(|worker| worker.id == id) {
            return Err(EBUSY);
        }
        // This drops the last reference, since only workers with a queue have wakers.
        self.all.retain(|worker| worker.id != id);
        Ok(())
    }

    /// Makes a waker of worker `id` for queue `index`, before the queue is attached to the worker.
    ///
    /// # Errors
    ///
    /// `ENODEV` for an unknown id.
    pub(crate) fn waker_by(&self, id: u32, index: usize) -> Result<Waker> {
        Ok(self.find(id)?.waker(index))
    }

    /// Attaches queue `index` to worker `id`.
    ///
    /// # Errors
    ///
    /// `ENODEV` for an unknown id, `ENOBUFS` when there is no such queue.
    pub(crate) fn attach(&mut self, index: usize, id: u32) -> Result {
        let worker = self.find(id)?.clone();
        *self.attached.get_mut(index).ok_or(ENOBUFS)? = worker;
        Ok(())
    }

    /// The id of a queue's worker (`VHOST_GET_VRING_WORKER`).
    ///
    /// # Errors
    ///
    /// `ENOBUFS` when there is no such queue.
    pub(crate) fn attached(&self, index: usize) -> Result<u32> {
        Ok(self.of(index)?.id)
    }

    /// Makes a waker of the worker of a queue.
    ///
    /// # Errors
    ///
    /// `ENOBUFS` when there is no such queue.
    pub(crate) fn waker(&self, index: usize) -> Result<Waker> {
        Ok(self.of(index)?.waker(index))
    }

    /// The ids of all threads that have begun.
    pub(crate) fn tids(&self) -> impl Iterator<Item = u64> + '_ {
        self.all.iter().filter_map(|worker| worker.tid())
    }

    fn of(&self, index: usize) -> Result<&Arc<Worker>> {
        self.attached.get(index).ok_or(ENOBUFS)
    }

    fn find(&self, id: u32) -> Result<&Arc<Worker>> {
        let mut all = self.all.iter();
        all.find(|worker| worker.id == id).ok_or(ENODEV)
    }
}
