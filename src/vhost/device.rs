// SPDX-License-Identifier: GPL-2.0

//! A device: two virtqueues, their owner and the owner's workers.
//!
//! # Locking
//!
//! Locks are taken in this order:
//!
//! 1. [`Device::owner`], the device mutex: taken by every ioctl that changes the device.
//! 2. A queue's `vq` mutex: taken by its worker for a whole round, and by ioctls. The two queues'
//!    mutexes are never held together.
//! 3. The wait queue of a kick's or a backend's file. The kernel calls the callbacks with its lock
//!    held; they take no lock of this module.
//! 4. The spinlock in [`Messages`], held for a few assignments, and inside it the lock of the wait
//!    queue of its readers.
//! 5. The spinlock in [`Stats`], held for one assignment, and that of a queue's `waker`.
//!
//! Who reads or writes a file in debugfs takes mutexes only if they are free: the directory is made
//! and removed under the device mutex, and its removal waits for them.
//!
//! A worker takes only queue mutexes. It may therefore be stopped under the device mutex, but not
//! under a queue's.

use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::sync::atomic::{ordering::Relaxed, Atomic};
use kernel::sync::{new_mutex, new_spinlock, Arc, Mutex, MutexGuard, SpinLock};
use pin_init::pin_init_array_from_fn;
use vring::Miss;

use super::features::{Features, ACCESS_PLATFORM, LOG_ALL};
use super::iotlb;
use super::memory::Table;
use super::messages::{self, Message, Messages};
use super::owner::Owner;
use super::queues::{Queues, QUEUES};
use super::stats::Stats;
use super::uapi::BACKEND_F_IOTLB_MSG_V2;
use super::virtqueue::look::Looked;
use super::virtqueue::Virtqueue;
use super::worker::{Mode, Waker};
use crate::kapi::{trace, Wake};

/// The number of the next device.
static NEXT_NUMBER: Atomic<u64> = Atomic::new(1);

/// A device, which an open file of `/dev/vhost-rnet` refers to.
#[pin_data]
pub(crate) struct Device<Q: Queues> {
    /// The number of the device, which no other one gets while the module is loaded.
    pub(crate) number: u64,
    /// The process that may change the device, if there is one.
    #[pin]
    pub(super) owner: Mutex<Option<Owner>>,
    /// Whether the next owner gets [`Mode::Kthread`]; changed under the device mutex.
    kthreads: Atomic<bool>,
    /// The process id of the owner, 0 without one; changed under the device mutex.
    pub(super) owner_pid: Atomic<i32>,
    #[pin]
    queues: [Queue<Q>; QUEUES],
    /// IOTLB misses to be read by the owner.
    #[pin]
    pub(crate) messages: Messages,
}

/// A virtqueue, with the data that is accessible without its mutex.
#[pin_data]
pub(crate) struct Queue<Q: Queues> {
    /// The index of the queue in every ioctl.
    pub(crate) index: usize,
    #[pin]
    pub(crate) vq: Mutex<Virtqueue<Q>>,
    /// The waker of the queue's worker, for those who must not wait for the device mutex; the lock
    /// is held to wake or to replace it.
    #[pin]
    pub(super) waker: SpinLock<Option<Waker>>,
    #[pin]
    pub(crate) stats: Stats,
}

impl<Q: Queues> Queue<Q> {
    fn new(index: usize) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            index,
            waker <- new_spinlock!(None, "vhost_rnet_waker"),
            stats <- Stats::new(),
            vq <- new_mutex!(Virtqueue::new(stats.pages_kept.clone())?, "vhost_rnet_vq"),
        })
    }

    /// Lets the queue look for work, as a kick does, if the device has an owner.
    pub(super) fn wake(&self) {
        // Under the lock, so that this never holds the last reference to a worker.
        if let Some(waker) = &*self.waker.lock() {
            waker.wake();
        }
    }
}

impl<Q: Queues> Device<Q> {
    /// Makes a device without an owner.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                number: NEXT_NUMBER.fetch_add(1, Relaxed),
                owner <- new_mutex!(None, "vhost_rnet_owner"),
                kthreads: Atomic::new(false),
                owner_pid: Atomic::new(0),
                queues <- pin_init_array_from_fn(Queue::new),
                messages <- Messages::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// The queue with index `index`, if there is one.
    #[inline]
    pub(crate) fn queue(&self, index: usize) -> Option<&Queue<Q>> {
        self.queues.get(index)
    }

    /// All queues, by index.
    #[inline]
    pub(crate) fn queues(&self) -> &[Queue<Q>; QUEUES] {
        &self.queues
    }

    /// Takes the device mutex for a call that only the owner may make.
    ///
    /// # Errors
    ///
    /// `EPERM` when the caller does not share the owner's memory, or there is no owner.
    pub(crate) fn lock_owned(&self) -> Result<MutexGuard<'_, Option<Owner>>> {
        let guard = self.owner.lock();
        if guard.as_ref().is_some_and(Owner::is_caller) {
            Ok(guard)
        } else {
            Err(EPERM)
        }
    }

    /// Takes the device mutex for a call about workers, whose error tells why the caller is
    /// refused.
    ///
    /// # Errors
    ///
    /// `EINVAL` when there is no owner, `EPERM` when the caller is not the owner.
    pub(crate) fn lock_workers(&self) -> Result<MutexGuard<'_, Option<Owner>>> {
        let guard = self.owner.lock();
        match guard.as_ref().map(Owner::is_caller) {
            Some(true) => Ok(guard),
            Some(false) => Err(EPERM),
            None => Err(EINVAL),
        }
    }

    /// The kind of thread that the workers are, or will be (`VHOST_GET_FORK_FROM_OWNER`).
    pub(crate) fn mode(&self) -> Mode {
        match self.kthreads.load(Relaxed) {
            false => Mode::Task,
            true => Mode::Kthread,
        }
    }

    /// Sets the kind of thread that the workers will be, as `mode` returns it
    /// (`VHOST_SET_FORK_FROM_OWNER`).
    ///
    /// # Errors
    ///
    /// `EBUSY` when there is an owner; `mode` is not called then. Else those of `mode`.
    pub(crate) fn set_mode(&self, mode: impl FnOnce() -> Result<Mode>) -> Result {
        let owner = self.owner.lock();
        if owner.is_some() {
            return Err(EBUSY);
        }
        self.kthreads.store(mode()? == Mode::Kthread, Relaxed);
        Ok(())
    }

    /// Returns to the state after open, but with an empty memory table, as vhost
    /// (`VHOST_RESET_OWNER`).
    ///
    /// # Errors
    ///
    /// `EPERM` and `ENOMEM`, both before anything has changed.
    pub(crate) fn reset_owner(&self) -> Result {
        let mut owner = self.lock_owned()?;
        let table = Arc::new(Table::empty()?, GFP_KERNEL)?;
        self.reset(&mut owner);
        self.kthreads.store(false, Relaxed);
        for queue in &self.queues {
            queue.vq.lock().set_table(Some(table.clone()));
        }
        Ok(())
    }

    /// Stops the queues and the workers, in whatever process closes the last file.
    pub(crate) fn stop(&self) {
        self.reset(&mut self.owner.lock());
    }

    /// The process id of the owner, 0 without one.
    pub(super) fn owner_pid(&self) -> i32 {
        self.owner_pid.load(Relaxed)
    }

    /// What trace events say of a queue.
    pub(super) fn source(&self, queue: &Queue<Q>) -> trace::Source {
        trace::Source {
            device: self.number,
            owner: self.owner_pid(),
            queue: Q::name(queue.index),
        }
    }

    /// Looks at a queue without waiting; `None` while a round or a call has it.
    ///
    /// `mm` is the owner's memory, if it has any left. The caller drops it afterwards: that may free
    /// the memory, which must not happen under a mutex.
    pub(super) fn look(&self, queue: &Queue<Q>, mm: Option<&MmWithUser>) -> Option<Looked> {
        let is_woken = queue.waker.lock().as_ref().is_some_and(Waker::is_pending);
        let is_missing = self.messages.is_awaited(queue.index);
        let mut vq = queue.vq.try_lock()?;
        Some(vq.look(mm, is_woken, is_missing))
    }

    /// Removes what the operator sees, resets the queues, then stops the workers, which nothing
    /// wakes any more by then.
    fn reset(&self, owner: &mut Option<Owner>) {
        if let Some(owner) = owner {
            owner.dirs.clear();
            owner.watchdog = None;
        }
        for queue in &self.queues {
            // This is not the last reference to the worker, which would stop it.
            *queue.waker.lock() = None;
        }
        self.owner_pid.store(0, Relaxed);
        for queue in &self.queues {
            let mut vq = queue.vq.lock();
            if vq.backend.is_some() {
                trace::queue_stop(vq.source, "reset");
            }
            let detached = vq.reset();
            drop(vq);
            drop(detached);
        }
        self.messages.enable(false);
        *owner = None;
    }

    /// Sets the negotiated features of both queues (`VHOST_SET_FEATURES`).
    ///
    /// With `VIRTIO_F_ACCESS_PLATFORM`, each call gives the queues an empty IOTLB.
    ///
    /// # Errors
    ///
    /// `EBUSY` when the format of a running ring would change. `EFAULT` when writes to all memory
    /// are to be logged and cannot be, or when there is no memory for an IOTLB
    /// (`vhost_net_set_features()`). Nothing has changed then.
    pub(crate) fn set_features(&self, features: Features) -> Result {
        let owner = self.owner.lock();
        let mut queues = self.queues.iter();
        if !queues.all(|queue| queue.vq.lock().accepts_features(&features)) {
            return Err(EBUSY);
        }
        let mut queues = self.queues.iter();
        if features.has(LOG_ALL) && !queues.all(|queue| queue.vq.lock().can_log_all()) {
            return Err(EFAULT);
        }
        let platform = features.has(ACCESS_PLATFORM);
        let iotlb = || platform.then(iotlb::empty).transpose().map_err(|_| EFAULT);
        let mut iotlbs = [const { None }; QUEUES];
        for slot in &mut iotlbs {
            *slot = iotlb()?;
        }
        for (queue, iotlb) in self.queues.iter().zip(iotlbs) {
            let mut vq = queue.vq.lock();
            vq.set_iotlb(iotlb);
            vq.set_features(features);
        }
        self.messages.enable(platform);
        if let Some(owner) = &*owner {
            owner.wake_all();
        }
        Ok(())
    }

    /// Asks the owner for the translation that a queue waits for.
    pub(super) fn ask(&self, queue: &Queue<Q>, vq: &Virtqueue<Q>, miss: Miss) {
        if self.messages.miss(queue.index, miss, vq.messages_v2) {
            queue.stats.iotlb_misses.add(1);
            trace::miss(vq.source, miss.addr.0, messages::perm(miss.access));
        }
    }

    /// Sets the features of the ioctl interface itself (`VHOST_SET_BACKEND_FEATURES`).
    pub(crate) fn set_backend_features(&self, features: u64) {
        let _device = self.owner.lock();
        for queue in &self.queues {
            queue.vq.lock().messages_v2 = features & BACKEND_F_IOTLB_MSG_V2 != 0;
        }
    }

    /// Applies a message about IO addresses (`vhost_process_iotlb_msg()`).
    ///
    /// When it returns, no queue uses a mapping that was replaced or deleted. It wakes the queues
    /// that wait for this mapping, and those that have stopped, possibly because a permission was
    /// missing.
    ///
    /// # Errors
    ///
    /// `EFAULT` when there is no IOTLB, or when a mapping exceeds the address space or the range of
    /// user addresses.
    pub(crate) fn iotlb_message(self: &Arc<Self>, message: Message) -> Result {
        let owner = self.owner.lock();
        let mut stopped = [false; QUEUES];
        let mut sources = [trace::Source::default(); QUEUES];
        for ((queue, stopped), source) in self.queues.iter().zip(&mut stopped).zip(&mut sources) {
            let mut vq = queue.vq.lock();
            message.apply(vq.iotlb().ok_or(EFAULT)?)?;
            *stopped = vq.is_stopped();
            *source = vq.source;
        }
        let Message::Update {
            iova, size, perm, ..
        } = message
        else {
            return Ok(());
        };
        if let Some(owner) = &*owner {
            let answered = self.messages.answered(iova, size).into_iter().zip(stopped);
            let answered = answered.zip(sources);
            for (queue, ((answered, stopped), source)) in self.queues.iter().zip(answered) {
                if answered {
                    trace::answer(source, iova, size, perm);
                }
                if answered || stopped {
                    owner.wake(queue.index);
                }
            }
        }
        Ok(())
    }
}
