// SPDX-License-Identifier: GPL-2.0

//! Configuration of a device by its owner, for one queue or for all of them.
//!
//! Each change that may let a stopped queue go on wakes that queue once it is in force. A guest
//! whose receive ring is full of buffers does not kick any more.

use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::ordering::Relaxed;
use kernel::sync::Arc;
use vring::UserAddr;

use super::backend::Backend;
use super::class::Class;
use super::device::{Device, Queue};
use super::job::Job;
use super::memory::Table;
use super::owner::Owner;
use super::queues::{Queues, Target};
use super::round::Next;
use super::uapi::{VringAddr, FILE_UNBIND, VRING_F_LOG};
use super::view;
use super::virtqueue::Virtqueue;
use super::watchdog;
use super::worker::{Counted, Pending};
use super::workers::Workers;
use crate::kapi::{self, trace, EventFd, OwnerMemory, Poller, Timer, Wake, EOPNOTSUPP, POLLIN};

impl<C: Class> Device<C> {
    /// Makes the caller the owner (`VHOST_SET_OWNER`) and starts the first workers in its process.
    ///
    /// # Errors
    ///
    /// `EBUSY` when there is an owner, and those of the workers' start ([`Workers::start`]).
    pub(crate) fn set_owner(self: &Arc<Self>) -> Result {
        let mut owner = self.owner.lock();
        if owner.is_some() {
            return Err(EBUSY);
        }
        let task = current!();
        let mm = task.mm().ok_or(EPERM)?;
        let start = |id, pending| job(self)(id, pending);
        let threads = kapi::threads_per_device();
        let workers = Workers::start(self.mode(), threads, self.number, start)?;
        self.owner_pid.store(kapi::process_id(), Relaxed);
        for queue in self.queues() {
            *queue.waker.lock() = workers.waker(queue.index).ok();
            let mut vq = queue.vq.lock();
            vq.worker = workers.attached(queue.index)?;
            vq.owner = task.pid();
            vq.source = self.source(queue);
        }
        let mm = ARef::from(&**mm);
        *owner = Some(Owner {
            dirs: view::dirs(self, &mm),
            watchdog: watchdog::start(self, &mm),
            mm,
            workers,
        });
        Ok(())
    }
}

/// Returns a function that makes the work of a worker of `device`.
fn job<C: Class>(device: &Arc<Device<C>>) -> impl FnOnce(u32, Arc<Pending>) -> Job<C> {
    let device = device.clone();
    |id, pending| Job {
        device,
        id,
        pending,
    }
}

/// Configuration by the owner; callers hold the device mutex, as `owner` proves.
impl Owner {
    /// Starts another worker and returns its id (`VHOST_NEW_WORKER`).
    ///
    /// # Errors
    ///
    /// Those of [`Workers::add`].
    pub(crate) fn add_worker<C: Class>(&mut self, device: &Arc<Device<C>>) -> Result<u32> {
        self.workers.add(job(device))
    }

    /// Attaches a queue to another worker (`VHOST_ATTACH_VRING_WORKER`).
    ///
    /// When it returns, the old worker no longer runs the queue.
    ///
    /// # Errors
    ///
    /// `ENODEV` for an unknown id, `ENOMEM`.
    pub(crate) fn attach_worker<Q: Queues>(&mut self, queue: &Queue<Q>, id: u32) -> Result {
        let waker = self.workers.waker_by(id, queue.index)?;
        let timer = Timer::new(waker.clone())?;
        self.workers.attach(queue.index, id)?;
        *queue.waker.lock() = Some(waker.clone());
        let mut vq = queue.vq.lock();
        vq.worker = id;
        // No waker holds the last reference to its worker, so no worker is stopped under the mutex.
        if let Some(kick) = vq.kick.as_mut() {
            kick.set_waker(Counted::new(waker.clone(), queue.stats.kicks.clone()));
        }
        if let Some(backend) = vq.backend.as_mut() {
            backend.set_waker(waker.clone(), timer);
        }
        drop(vq);
        // The old worker may have been woken for the queue and no longer runs it.
        waker.wake();
        Ok(())
    }

    /// Replaces the memory table of both queues.
    ///
    /// # Errors
    ///
    /// `EFAULT`, and no change, when a queue is running and the table is not accessible.
    pub(crate) fn set_table<Q: Queues>(&self, device: &Device<Q>, table: Table) -> Result {
        let mut queues = device.queues().iter();
        if !queues.all(|queue| queue.vq.lock().accepts(&table)) {
            return Err(EFAULT);
        }
        let table = Arc::new(table, GFP_KERNEL)?;
        for queue in device.queues() {
            // No round uses the old table while the mutex is held.
            queue.vq.lock().set_table(Some(table.clone()));
        }
        self.wake_all();
        Ok(())
    }

    /// Moves a ring, which is allowed while it runs (`VHOST_SET_VRING_ADDR`).
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` for flags other than that of the dirty log. `EINVAL` when the ring is
    /// misaligned, or when the queue has a backend and the ring is not accessible or cannot be
    /// logged.
    pub(crate) fn set_addr<Q: Queues>(&self, queue: &Queue<Q>, addr: VringAddr) -> Result {
        if addr.flags & !VRING_F_LOG != 0 {
            return Err(EOPNOTSUPP);
        }
        let fits = |vq: &Virtqueue<Q>| {
            vq.ring_is_accessible(addr.ring()) && vq.used_is_loggable(addr.log_used())
        };
        let mut vq = queue.vq.lock();
        let aligned = vq.rings.is_aligned(&addr.ring()) && addr.log_is_aligned();
        if !aligned || (vq.backend.is_some() && !fits(&vq)) {
            return Err(EINVAL);
        }
        vq.set_addrs(addr.ring(), addr.log_used());
        drop(vq);
        self.wake(queue.index);
        Ok(())
    }

    /// Moves the dirty log, which is allowed while queues run (`VHOST_SET_LOG_BASE`).
    ///
    /// # Errors
    ///
    /// `EFAULT` when a running queue cannot log its writes there. The other queue then uses the new
    /// log.
    pub(crate) fn set_log_base<Q: Queues>(&self, device: &Device<Q>, base: UserAddr) -> Result {
        let set = |all: Result, queue: &Queue<Q>| {
            let set = queue.vq.lock().set_log_base(base);
            all.and(set)
        };
        let all = device.queues().iter().fold(Ok(()), set);
        self.wake_all();
        all
    }

    /// Sets the eventfd to signal when writes have been logged (`VHOST_SET_LOG_FD`).
    ///
    /// # Errors
    ///
    /// `EBADF`, `EINVAL` when `fd` is no eventfd, `ENOMEM`.
    pub(crate) fn set_log_fd<Q: Queues>(&self, device: &Device<Q>, fd: i32) -> Result {
        let call = match fd {
            FILE_UNBIND => None,
            _ => Some(Arc::new(EventFd::from_fd(fd)?, GFP_KERNEL)?),
        };
        for queue in device.queues() {
            let old = queue.vq.lock().set_log_call(call.clone());
            drop(old);
        }
        self.wake_all();
        Ok(())
    }

    /// Sets the eventfd that kicks a queue, or none for [`FILE_UNBIND`].
    ///
    /// # Errors
    ///
    /// `EBADF`, `EINVAL` when `fd` is no eventfd, `ENOMEM`.
    pub(crate) fn set_kick<Q: Queues>(&self, queue: &Queue<Q>, fd: i32) -> Result {
        let mut vq = queue.vq.lock();
        let new = if fd == FILE_UNBIND {
            None
        } else {
            let file = kapi::kick_file(fd)?;
            let old = vq.kick.as_ref().map(|kick| kick.file().as_ptr());
            if old == Some(file.as_ptr()) {
                return Ok(());
            }
            let waker = self.workers.waker(queue.index)?;
            let waker = Counted::new(waker, queue.stats.kicks.clone());
            Some(Poller::new(file, POLLIN, waker)?)
        };
        let old = core::mem::replace(&mut vq.kick, new);
        let armed = vq.kick.as_mut().map_or(Ok(()), Poller::arm);
        drop(vq);
        drop(old);
        // The old eventfd may have received a kick that no worker has handled.
        self.wake(queue.index);
        armed
    }

    /// Starts a queue on the backend behind `fd`, or stops it for [`FILE_UNBIND`]
    /// (`VHOST_NET_SET_BACKEND`).
    ///
    /// When it returns, nothing accesses the old backend any more. Without a new backend, nothing
    /// accesses guest memory either.
    ///
    /// # Errors
    ///
    /// `EINVAL` when a ring of this format cannot have the size or the addresses that were set,
    /// perhaps for the other format. `EFAULT` when ring or memory table are not set or cannot be
    /// accessed, or the ring does not have its base. `ENOTSOCK` when `fd` is no possible backend,
    /// `EINVAL` when its device is gone, `ENOMEM`. The old backend then stays. Unbinding does not
    /// fail, since QEMU takes an error for a bug of its own.
    pub(crate) fn set_backend<Q: Queues>(
        &self,
        device: &Device<Q>,
        queue: &Queue<Q>,
        fd: i32,
    ) -> Result {
        let unbind = fd == FILE_UNBIND;
        let task = current!();
        // The caller is the owner, so it has user memory.
        let memory = OwnerMemory::of_caller(task).ok_or(EFAULT)?;
        let mut vq = queue.vq.lock();
        if !unbind && !vq.is_accessible() {
            return Err(EFAULT);
        }
        let fits_format = vq.rings.has_size() && vq.rings.is_aligned(&vq.rings.addrs());
        if !unbind && !fits_format {
            return Err(EINVAL);
        }
        let new = if unbind {
            device.messages.forget(queue.index);
            None
        } else {
            let waker = self.workers.waker(queue.index)?;
            let events = queue.stats.events.clone();
            let mut new = Backend::from_fd(fd, queue.index, waker, events)?;
            if let Some(old) = vq.backend.as_ref() {
                if old.target.is(&new.target) {
                    drop(vq);
                    self.wake(queue.index);
                    return Ok(());
                }
            }
            match vq.start(memory) {
                Ok(Next::Translate) => {
                    if let Some(miss) = vq.take_miss() {
                        device.ask(queue, &vq, miss);
                    }
                    return Err(EFAULT);
                }
                Ok(_) => {}
                Err(_) => return Err(EFAULT),
            }
            new.arm()?;
            Some(new)
        };
        let old = vq.set_backend(memory, new);
        match (unbind, &old) {
            (false, _) => trace::queue_start(vq.source),
            (true, Some(_)) => trace::queue_stop(vq.source, "owner"),
            (true, None) => {}
        }
        let owes = vq.is_owing();
        drop(vq);
        drop(old);
        if owes {
            self.wake(queue.index);
        }
        Ok(())
    }
}

/// Sets a notification eventfd of a queue, or none for [`FILE_UNBIND`], and returns the old one.
///
/// # Errors
///
/// `EBADF`, `EINVAL` when `fd` is no eventfd.
pub(crate) fn set_eventfd(slot: &mut Option<EventFd>, fd: i32) -> Result<Option<EventFd>> {
    let new = if fd == FILE_UNBIND {
        None
    } else {
        Some(EventFd::from_fd(fd)?)
    };
    Ok(core::mem::replace(slot, new))
}
