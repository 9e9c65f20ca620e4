// SPDX-License-Identifier: GPL-2.0

//! A worker: a thread that runs queues, and what wakes it.

use kernel::current;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;

use super::queues::QUEUES;
use crate::kapi::{Flag, Kthread, VhostTask, Wake, Work};

/// What kind of thread a worker is (`VHOST_SET_FORK_FROM_OWNER`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A thread of the owner.
    Task,
    /// A kernel thread that uses the owner's memory.
    Kthread,
}

/// A worker: a thread, and what it has been woken for. Dropping it stops the thread.
pub(crate) struct Worker {
    /// Its number among those of the device.
    pub(crate) id: u32,
    thread: Thread,
    pending: Arc<Pending>,
}

enum Thread {
    Task(VhostTask),
    Kthread(Kthread),
}

/// What a worker has been woken for: for each queue, whether there is something to do.
pub(crate) struct Pending([Flag; QUEUES]);

/// Wakes the worker of a queue; what kick and backend callbacks hold.
#[derive(Clone)]
pub(crate) struct Waker {
    worker: Arc<Worker>,
    /// The queue's index.
    index: usize,
}

impl Worker {
    /// Starts a thread named after the calling one. `job` makes what it does, of the worker's id and of
    /// what it will be woken for.
    ///
    /// # Errors
    ///
    /// `ERESTARTNOINTR` when a signal waits for the caller: the kernel makes the call again once that
    /// has been handled, where vhost answers `ENOMEM`. `ENOMEM` when the thread cannot be started for
    /// any other reason, as vhost.
    pub(crate) fn start<W: Work>(
        id: u32,
        mode: Mode,
        job: impl FnOnce(u32, Arc<Pending>) -> W,
    ) -> Result<Arc<Self>> {
        let name = CString::try_from_fmt(fmt!("vhost-{}", current!().pid()))?;
        let pending = Arc::new(Pending([const { Flag::new() }; QUEUES]), GFP_KERNEL)?;
        let job = Arc::new(job(id, pending.clone()), GFP_KERNEL)?;
        let thread = match mode {
            Mode::Task => VhostTask::start(job, &name).map(Thread::Task),
            Mode::Kthread => Kthread::start(job, &name).map(Thread::Kthread),
        };
        let thread = thread.map_err(|e| match e == ERESTARTNOINTR {
            true => e,
            false => ENOMEM,
        })?;
        let worker = Self {
            id,
            thread,
            pending,
        };
        Ok(Arc::new(worker, GFP_KERNEL)?)
    }

    /// What wakes the worker for queue `index`.
    pub(crate) fn waker(self: &Arc<Self>, index: usize) -> Waker {
        Waker {
            worker: self.clone(),
            index,
        }
    }
}

impl Wake for Waker {
    #[inline]
    fn wake(&self) {
        // Orders the event before the flag, for the worker that sees the flag.
        if self.worker.pending.set(self.index) {
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
