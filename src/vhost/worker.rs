// SPDX-License-Identifier: GPL-2.0

//! Workers: the threads that run the queues.
//!
//! A device has one from `VHOST_SET_OWNER` on, for both queues. Its owner may start more and attach
//! each queue to one of them, also under traffic. Error codes are those of `vhost_worker_ioctl()`.

use kernel::current;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;

use crate::kapi::{self, Flag, Kthread, OwnerMemory, Timer, VhostTask, Wake, Work};
use crate::vhost::class::Class;
use crate::vhost::device::{Device, Queue, QUEUES};
use crate::vhost::round::Next;

/// The most workers of a device.
///
/// As threads of the owner they count against its `RLIMIT_NPROC`, of which a privileged owner is
/// free. Two queues keep two threads busy; the others are for those who start the next ones before
/// they free the last ones.
const MAX_WORKERS: u32 = 16;

/// What kind of thread a worker is (`VHOST_SET_FORK_FROM_OWNER`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A thread of the owner.
    Task,
    /// A kernel thread that uses the owner's memory.
    Kthread,
}

/// A worker: a thread, and what it has been woken for. Dropping it stops the thread.
struct Worker<C: Class> {
    thread: Thread<C>,
    job: Arc<Job<C>>,
}

enum Thread<C: Class> {
    Task(VhostTask<Job<C>>),
    Kthread(Kthread<Job<C>>),
}

/// What a worker's thread does: rounds of the queues that are attached to it.
///
/// It refers to the device that holds the worker. [`Device::stop`] breaks the circle.
struct Job<C: Class> {
    device: Arc<Device<C>>,
    id: u32,
    pending: Pending,
}

/// What a worker has been woken for: for each queue, whether there is something to do.
pub(crate) struct Pending([Flag; QUEUES]);

/// The workers of a device, under the device mutex.
pub(crate) struct Workers<C: Class> {
    all: KVec<Arc<Worker<C>>>,
    /// Those of the queues.
    attached: [Arc<Worker<C>>; QUEUES],
    mode: Mode,
}

/// Wakes the worker of a queue; what kick and backend callbacks hold.
pub(crate) struct Waker<C: Class> {
    worker: Arc<Worker<C>>,
    /// The queue's index.
    index: usize,
}

impl<C: Class> Clone for Waker<C> {
    fn clone(&self) -> Self {
        Self {
            worker: self.worker.clone(),
            index: self.index,
        }
    }
}

impl<C: Class> Workers<C> {
    /// Starts the first worker of a device, with id 0, and attaches both queues to it. None of them
    /// may have been attached.
    ///
    /// # Errors
    ///
    /// Those of [`Worker::start`].
    pub(crate) fn start(device: &Arc<Device<C>>, mode: Mode) -> Result<Self> {
        let first = Worker::start(device, 0, mode)?;
        let mut all = KVec::new();
        all.push(first.clone(), GFP_KERNEL)?;
        for queue in device.queues() {
            queue.vq.lock().worker = 0;
        }
        Ok(Self {
            all,
            attached: core::array::from_fn(|_| first.clone()),
            mode,
        })
    }

    /// Starts another worker (`VHOST_NEW_WORKER`); its id is the lowest that is free.
    ///
    /// # Errors
    ///
    /// `EFAULT` when workers are kernel threads, which no limit of the owner counts; `ENOSPC` when
    /// there are [`MAX_WORKERS`], which vhost does not bound; those of [`Worker::start`].
    pub(crate) fn add(&mut self, device: &Arc<Device<C>>) -> Result<u32> {
        if self.mode == Mode::Kthread {
            return Err(EFAULT);
        }
        let id = (0..MAX_WORKERS)
            .find(|id| self.find(*id).is_err())
            .ok_or(ENOSPC)?;
        let worker = Worker::start(device, id, self.mode)?;
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
        if self.attached.iter().any(|worker| worker.job.id == id) {
            return Err(EBUSY);
        }
        // The last reference: wakers are of workers with a queue.
        self.all.retain(|worker| worker.job.id != id);
        Ok(())
    }

    /// Gives a queue another worker (`VHOST_ATTACH_VRING_WORKER`), for good when it returns.
    ///
    /// # Errors
    ///
    /// `ENODEV` for an unknown id, `ENOMEM`.
    pub(crate) fn attach(&mut self, queue: &Queue<C>, id: u32) -> Result {
        let worker = self.find(id)?.clone();
        let waker = Waker {
            worker: worker.clone(),
            index: queue.index,
        };
        let timer = Timer::new(waker.clone())?;
        if let Some(attached) = self.attached.get_mut(queue.index) {
            *attached = worker;
        }
        let mut vq = queue.vq.lock();
        vq.worker = id;
        // No waker has the last reference to its worker, so nothing is stopped under the mutex.
        if let Some(kick) = vq.kick.as_mut() {
            kick.set_waker(waker.clone());
        }
        if let Some(backend) = vq.backend.as_mut() {
            backend.set_waker(waker.clone(), timer);
        }
        drop(vq);
        // For what the old worker has been woken for and no longer does.
        waker.wake();
        Ok(())
    }

    /// The id of a queue's worker (`VHOST_GET_VRING_WORKER`).
    ///
    /// # Errors
    ///
    /// `ENOBUFS` when there is no such queue.
    pub(crate) fn attached(&self, index: usize) -> Result<u32> {
        Ok(self.of(index)?.job.id)
    }

    /// What wakes the worker of a queue.
    ///
    /// # Errors
    ///
    /// `ENOBUFS` when there is no such queue.
    pub(crate) fn waker(&self, index: usize) -> Result<Waker<C>> {
        Ok(Waker {
            worker: self.of(index)?.clone(),
            index,
        })
    }

    fn of(&self, index: usize) -> Result<&Arc<Worker<C>>> {
        self.attached.get(index).ok_or(ENOBUFS)
    }

    fn find(&self, id: u32) -> Result<&Arc<Worker<C>>> {
        let mut all = self.all.iter();
        all.find(|worker| worker.job.id == id).ok_or(ENODEV)
    }
}

impl<C: Class> Worker<C> {
    /// Starts a thread named after the calling one.
    ///
    /// # Errors
    ///
    /// `ERESTARTNOINTR` when a signal waits for the caller: the kernel makes the call again once that
    /// has been handled, where vhost answers `ENOMEM`. `ENOMEM` when the thread cannot be started for
    /// any other reason, as vhost.
    fn start(device: &Arc<Device<C>>, id: u32, mode: Mode) -> Result<Arc<Self>> {
        let name = CString::try_from_fmt(fmt!("vhost-{}", current!().pid()))?;
        let job = Job {
            device: device.clone(),
            id,
            pending: Pending([const { Flag::new() }; QUEUES]),
        };
        let job = Arc::new(job, GFP_KERNEL)?;
        let thread = match mode {
            Mode::Task => VhostTask::start(job.clone(), &name).map(Thread::Task),
            Mode::Kthread => Kthread::start(job.clone(), &name).map(Thread::Kthread),
        };
        let thread = thread.map_err(|e| match e == ERESTARTNOINTR {
            true => e,
            false => ENOMEM,
        })?;
        Ok(Arc::new(Self { thread, job }, GFP_KERNEL)?)
    }
}

impl<C: Class> Wake for Waker<C> {
    #[inline]
    fn wake(&self) {
        // Orders the event before the flag, for the worker that sees the flag.
        if self.worker.job.pending.set(self.index) {
            match &self.worker.thread {
                Thread::Task(task) => task.wake(),
                Thread::Kthread(kthread) => kthread.wake(),
            }
        }
    }
}

impl Pending {
    /// Says that there is something to do for a queue; whether that is new. A full barrier.
    #[inline(always)]
    pub(crate) fn set(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(Flag::set)
    }

    /// Whether there was something to do for a queue, which is taken as done; then a full barrier.
    #[inline(always)]
    pub(crate) fn take(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(Flag::take)
    }

    /// Whether there is something to do for a queue.
    #[inline(always)]
    pub(crate) fn is_set(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(Flag::is_set)
    }
}

impl<C: Class> Job<C> {
    /// Runs a round of a queue, if there is something to do for it.
    #[inline(always)]
    fn serve(&self, index: usize, memory: OwnerMemory<'_>) {
        // Orders the flag before the look for work, so that an event after it sets the flag again.
        if !self.pending.take(index) {
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
        let round = C::run(index, &mut vq, memory, &queue.stats, &self.pending);
        let next = match round {
            Ok(next) => {
                vq.went_on(&next, index, queue);
                next
            }
            // With the owner goes its memory, which is not the guest's fault. An owner that is only
            // stopped will want to know.
            Err(_) if kapi::is_dying() => return,
            Err(fault) => vq.stop(memory, fault, queue),
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
                self.pending.set(index);
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
        (0..QUEUES).any(|index| self.pending.is_set(index))
    }

    fn run(&self, memory: OwnerMemory<'_>) {
        // Not a loop, so that the round of each queue is compiled straight.
        const { assert!(QUEUES == 2) };
        self.serve(0, memory);
        self.serve(1, memory);
    }

    fn killed(&self) {
        // The owner is dying and takes its memory with it: nobody is left to work for. Wake-ups
        // that still come only set flags, until the file is closed.
    }
}
