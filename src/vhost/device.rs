// SPDX-License-Identifier: GPL-2.0

//! A device: two virtqueues, their owner and its workers.
//!
//! # Locking
//!
//! In this order:
//!
//! 1. [`Device::owner`], the device mutex: taken by every ioctl that changes the device.
//! 2. A queue's `vq` mutex: taken by its worker for a whole round, and by ioctls. The two queues'
//!    mutexes are never held together.
//! 3. The wait queue of a kick's or a backend's file, by the kernel: callbacks come with it held and
//!    take no lock of this module.
//! 4. The spinlock in [`Messages`], for a few assignments, and with it the wait queue of its readers.
//! 5. The spinlock in [`Stats`], for an assignment.
//!
//! A worker takes queue mutexes only, so it may be stopped under the device mutex, but not under a
//! queue's.

use kernel::prelude::*;
use kernel::sync::atomic::{ordering::Relaxed, Atomic};
use kernel::sync::{new_mutex, Arc, Mutex, MutexGuard};
use pin_init::pin_init_array_from_fn;

use super::features::{Features, ACCESS_PLATFORM, LOG_ALL};
use super::iotlb;
use super::memory::Table;
use super::messages::{Message, Messages};
use super::owner::Owner;
use super::queues::{Queues, QUEUES};
use super::stats::Stats;
use super::uapi::BACKEND_F_IOTLB_MSG_V2;
use super::virtqueue::Virtqueue;
use super::worker::Mode;

/// A device: what an open file of `/dev/vhost-rnet` stands for.
#[pin_data]
pub(crate) struct Device<Q: Queues> {
    /// Who may change the device.
    #[pin]
    pub(super) owner: Mutex<Option<Owner>>,
    /// Whether the next owner gets [`Mode::Kthread`]. Changed under the device mutex.
    kthreads: Atomic<bool>,
    #[pin]
    queues: [Queue<Q>; QUEUES],
    /// Misses on their way to the owner.
    #[pin]
    pub(crate) messages: Messages,
}

/// A virtqueue and what may be touched without its mutex.
#[pin_data]
pub(crate) struct Queue<Q: Queues> {
    /// Its index in every ioctl.
    pub(crate) index: usize,
    #[pin]
    pub(crate) vq: Mutex<Virtqueue<Q>>,
    #[pin]
    pub(crate) stats: Stats,
}

impl<Q: Queues> Queue<Q> {
    fn new(index: usize) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            index,
            vq <- new_mutex!(Virtqueue::new()?, "vhost_rnet_vq"),
            stats <- Stats::new(),
        })
    }
}

impl<Q: Queues> Device<Q> {
    /// A device without owner.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                owner <- new_mutex!(None, "vhost_rnet_owner"),
                kthreads: Atomic::new(false),
                queues <- pin_init_array_from_fn(Queue::new),
                messages <- Messages::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// The queue with an index, if there is one.
    #[inline]
    pub(crate) fn queue(&self, index: usize) -> Option<&Queue<Q>> {
        self.queues.get(index)
    }

    /// All queues, by index.
    #[inline]
    pub(crate) fn queues(&self) -> &[Queue<Q>; QUEUES] {
        &self.queues
    }

    /// Takes the device mutex, for calls that only the owner may make.
    ///
    /// # Errors
    ///
    /// `EPERM` when the caller's memory is not the owner's, or there is no owner.
    pub(crate) fn lock_owned(&self) -> Result<MutexGuard<'_, Option<Owner>>> {
        let guard = self.owner.lock();
        if guard.as_ref().is_some_and(Owner::is_caller) {
            Ok(guard)
        } else {
            Err(EPERM)
        }
    }

    /// Takes the device mutex, for calls about workers, which tell apart why a caller may not.
    ///
    /// # Errors
    ///
    /// `EINVAL` when there is no owner, `EPERM` when it is another.
    pub(crate) fn lock_workers(&self) -> Result<MutexGuard<'_, Option<Owner>>> {
        let guard = self.owner.lock();
        match guard.as_ref().map(Owner::is_caller) {
            Some(true) => Ok(guard),
            Some(false) => Err(EPERM),
            None => Err(EINVAL),
        }
    }

    /// What kind of thread the workers are, or will be (`VHOST_GET_FORK_FROM_OWNER`).
    pub(crate) fn mode(&self) -> Mode {
        match self.kthreads.load(Relaxed) {
            false => Mode::Task,
            true => Mode::Kthread,
        }
    }

    /// Takes what kind of thread they will be from `mode` (`VHOST_SET_FORK_FROM_OWNER`).
    ///
    /// # Errors
    ///
    /// `EBUSY` when there is an owner, before those of `mode`.
    pub(crate) fn set_mode(&self, mode: impl FnOnce() -> Result<Mode>) -> Result {
        let owner = self.owner.lock();
        if owner.is_some() {
            return Err(EBUSY);
        }
        self.kthreads.store(mode()? == Mode::Kthread, Relaxed);
        Ok(())
    }

    /// Back to the state after open (`VHOST_RESET_OWNER`), but with an empty memory table, as vhost.
    ///
    /// # Errors
    ///
    /// `EPERM`, and `ENOMEM` before anything has changed.
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

    /// Stops everything, from whatever process closes the last file.
    pub(crate) fn stop(&self) {
        self.reset(&mut self.owner.lock());
    }

    /// Resets the queues, then lets the workers go: by then nothing wakes them any more.
    fn reset(&self, owner: &mut Option<Owner>) {
        for queue in &self.queues {
            let detached = queue.vq.lock().reset();
            drop(detached);
        }
        self.messages.enable(false);
        *owner = None;
    }

    /// Takes over negotiated features (`VHOST_SET_FEATURES`), in both queues.
    ///
    /// With `VIRTIO_F_ACCESS_PLATFORM` they start with an empty IOTLB, each time.
    ///
    /// # Errors
    ///
    /// `EBUSY`, and no change, when the format of a running ring would change. `EFAULT`, and no change,
    /// when writes to all memory are to be logged and cannot be, or there is
    /// no memory for an IOTLB (`vhost_net_set_features()`).
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

    /// Takes over features of the ioctl interface itself (`VHOST_SET_BACKEND_FEATURES`).
    pub(crate) fn set_backend_features(&self, features: u64) {
        let _device = self.owner.lock();
        for queue in &self.queues {
            queue.vq.lock().messages_v2 = features & BACKEND_F_IOTLB_MSG_V2 != 0;
        }
    }

    /// Does what a message about IO addresses asks for (`vhost_process_iotlb_msg()`). When it
    /// returns, no queue uses a mapping that was replaced or deleted. A queue looks again that waits
    /// for this very mapping, or that stopped, perhaps for want of a permission.
    ///
    /// # Errors
    ///
    /// `EFAULT` when there is no IOTLB, or a mapping leaves the address space or what user space can
    /// have.
    pub(crate) fn iotlb_message(self: &Arc<Self>, message: Message) -> Result {
        let owner = self.owner.lock();
        let mut stopped = [false; QUEUES];
        for (queue, stopped) in self.queues.iter().zip(&mut stopped) {
            let mut vq = queue.vq.lock();
            message.apply(vq.iotlb().ok_or(EFAULT)?)?;
            *stopped = vq.is_stopped();
        }
        if let (Message::Update { iova, size, .. }, Some(owner)) = (message, &*owner) {
            let answered = self.messages.answered(iova, size).into_iter().zip(stopped);
            for (queue, (answered, stopped)) in self.queues.iter().zip(answered) {
                if answered || stopped {
                    owner.wake(queue.index);
                }
            }
        }
        Ok(())
    }
}
