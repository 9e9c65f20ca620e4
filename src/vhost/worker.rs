// SPDX-License-Identifier: GPL-2.0

//! A worker, which is a thread that runs queues, and the wakers of this thread.

use kernel::current;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;

use super::queues::QUEUES;
use crate::kapi::{self, trace, Counter, Flag, Kthread, VhostTask, Wake, Work};

/// The kind of thread that a worker is (`VHOST_SET_FORK_FROM_OWNER`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A thread of the owner.
    Task,
    /// A kernel thread that uses the owner's memory.
    Kthread,
}

/// A worker: a thread, and the queues that it has been woken for.
///
/// Dropping it stops the thread.
pub(crate) struct Worker {
    /// The id of the worker.
    pub(crate) id: u32,
    thread: Thread,
    pending: Arc<Pending>,
    /// Dropped after `thread`.
    _end: End,
}

enum Thread {
    Task(VhostTask),
    Kthread(Kthread),
}

/// The queues that a worker has been woken for, and the worker's thread.
pub(crate) struct Pending {
    queues: [Flag; QUEUES],
    /// What trace events say of the worker.
    thread: trace::Thread,
    /// The thread id; 0 until the thread has begun.
    tid: Counter,
    /// The end of the thread has been traced.
    ended: Flag,
}

/// The end of a worker, whose thread has been stopped before this is dropped.
struct End(Arc<Pending>);

/// Wakes the worker of a queue, from the callbacks of kick and backend.
#[derive(Clone)]
pub(crate) struct Waker {
    worker: Arc<Worker>,
    /// The queue's index.
    index: usize,
}

impl Worker {
    /// Starts a thread named after the calling one.
    ///
    /// `device` is the number of the device. `job` makes the thread's work from the worker's id and
    /// its pending queues.
    ///
    /// # Errors
    ///
    /// `ERESTARTNOINTR` when a signal is pending for the caller: the kernel restarts the system
    /// call once the signal has been handled, where vhost returns `ENOMEM`. `ENOMEM` when the
    /// thread cannot be started for any other reason, as vhost.
    pub(crate) fn start<W: Work>(
        id: u32,
        mode: Mode,
        device: u64,
        job: impl FnOnce(u32, Arc<Pending>) -> W,
    ) -> Result<Arc<Self>> {
        let name = CString::try_from_fmt(fmt!("vhost-{}", current!().pid()))?;
        let pending = Pending {
            queues: [const { Flag::new() }; QUEUES],
            thread: trace::Thread {
                device,
                owner: kapi::process_id(),
                worker: id,
            },
            tid: Counter::new(),
            ended: Flag::new(),
        };
        let pending = Arc::new(pending, GFP_KERNEL)?;
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
            _end: End(pending.clone()),
            pending,
        };
        Ok(Arc::new(worker, GFP_KERNEL)?)
    }

    /// The thread id, once the thread has begun.
    pub(crate) fn tid(&self) -> Option<u64> {
        Some(self.pending.tid.get()).filter(|tid| *tid != 0)
    }

    /// Makes a waker of the worker for queue `index`.
    pub(crate) fn waker(self: &Arc<Self>, index: usize) -> Waker {
        Waker {
            worker: self.clone(),
            index,
        }
    }
}

impl Waker {
    /// Whether the worker has been woken for the queue and has not begun its round.
    pub(crate) fn is_pending(&self) -> bool {
        self.worker.pending.is_set(self.index)
    }

    /// The id of the worker's thread, once the thread has begun.
    pub(crate) fn tid(&self) -> Option<u64> {
        self.worker.tid()
    }
}

impl Wake for Waker {
    #[inline]
    fn wake(&self) {
        // Orders the event before the flag; pairs with the worker's barrier after it takes the
        // flag.
        if self.worker.pending.set(self.index) {
            match &self.worker.thread {
                Thread::Task(task) => task.wake(),
                Thread::Kthread(kthread) => kthread.wake(),
            }
        }
    }
}

/// A waker that counts the events that a file's wait queue reports.
///
/// The queue reports them under its lock. While a file is replaced, two of them may report at once,
/// and one event is then lost to the count.
pub(crate) struct Counted {
    waker: Waker,
    events: Arc<Counter>,
}

impl Counted {
    /// Makes a waker that wakes as `waker` does, and counts in `events`.
    pub(crate) fn new(waker: Waker, events: Arc<Counter>) -> Self {
        Self { waker, events }
    }
}

impl Wake for Counted {
    #[inline]
    fn wake(&self) {
        self.waker.wake();
    }

    #[inline]
    fn event(&self) {
        self.events.add(1);
        self.waker.wake();
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Pending {
    /// Records the calling thread, which is the worker's, the first time.
    #[inline(always)]
    pub(crate) fn note_thread(&self) {
        if self.tid.get() == 0 {
            self.begin();
        }
    }

    #[cold]
    fn begin(&self) {
        let tid = current!().pid();
        // CAST: a thread id is positive.
        self.tid.add(tid as usize);
        trace::worker_start(self.thread, tid);
    }

    /// Traces the end of the thread, if it has begun and this has not been called before.
    pub(crate) fn end(&self) {
        let tid = self.tid.get();
        if tid != 0 && self.ended.set() {
            // CAST: a thread id.
            trace::worker_end(self.thread, tid as i32);
        }
    }

    /// Marks a queue as pending; returns whether that is new.
    ///
    /// It is a full barrier.
    #[inline(always)]
    pub(crate) fn set(&self, index: usize) -> bool {
        self.queues.get(index).is_some_and(Flag::set)
    }

    /// Clears the mark of a queue; returns whether it was set.
    ///
    /// If it was set, this is a full barrier.
    #[inline(always)]
    pub(crate) fn take(&self, index: usize) -> bool {
        self.queues.get(index).is_some_and(Flag::take)
    }

    /// Whether a queue is pending.
    #[inline(always)]
    pub(crate) fn is_set(&self, index: usize) -> bool {
        self.queues.get(index).is_some_and(Flag::is_set)
    }
}
