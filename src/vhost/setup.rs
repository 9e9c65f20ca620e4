// SPDX-License-Identifier: GPL-2.0

//! What the owner of a device sets up, queue by queue or for all of them.
//!
//! Whatever may let a queue go on that has stopped has it look again, once it is in force: a guest
//! whose receive ring is full of buffers has nothing left to kick for.

use kernel::prelude::*;
use kernel::sync::aref::ARef;
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
use super::virtqueue::Virtqueue;
use super::worker::Pending;
use super::workers::Workers;
use crate::kapi::{self, EventFd, OwnerMemory, Poller, Timer, Wake, POLLIN};

impl<C: Class> Device<C> {
    /// Makes the caller the owner (`VHOST_SET_OWNER`) and starts a worker in its process.
    ///
    /// # Errors
    ///
    /// `EBUSY` when there is an owner, and those of the worker's start ([`Workers::start`]).
    pub(crate) fn set_owner(self: &Arc<Self>) -> Result {
        let mut owner = self.owner.lock();
        if owner.is_some() {
            return Err(EBUSY);
        }
        let task = current!();
        let mm = task.mm().ok_or(EPERM)?;
        let workers = Workers::start(self.mode(), job(self))?;
        for queue in self.queues() {
            let mut vq = queue.vq.lock();
            vq.worker = 0;
            vq.owner = task.pid();
        }
        *owner = Some(Owner {
            mm: ARef::from(&**mm),
            workers,
        });
        Ok(())
    }
}

/// Makes the work of a worker of `device`.
fn job<C: Class>(device: &Arc<Device<C>>) -> impl FnOnce(u32, Arc<Pending>) -> Job<C> {
    let device = device.clone();
    |id, pending| Job {
        device,
        id,
        pending,
    }
}

/// What the owner sets up. Callers hold the device mutex, of which `owner` is the proof.
impl Owner {
    /// Starts another worker (`VHOST_NEW_WORKER`); its id.
    ///
    /// # Errors
    ///
    /// Those of [`Workers::add`].
    pub(crate) fn add_worker<C: Class>(&mut self, device: &Arc<Device<C>>) -> Result<u32> {
        self.workers.add(job(device))
    }

    /// Gives a queue another worker (`VHOST_ATTACH_VRING_WORKER`), for good when it returns.
    ///
    /// # Errors
    ///
    /// `ENODEV` for an unknown id, `ENOMEM`.
    pub(crate) fn attach_worker<Q: Queues>(&mut self, queue: &Queue<Q>, id: u32) -> Result {
        let waker = self.workers.waker_by(id, queue.index)?;
        let timer = Timer::new(waker.clone())?;
        self.workers.attach(queue.index, id)?;
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
            // Under the mutex no round is using the old one.
            queue.vq.lock().set_table(Some(table.clone()));
        }
        self.wake_all();
        Ok(())
    }

    /// Moves a ring (`VHOST_SET_VRING_ADDR`), which is legal while it runs.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` for flags other than that of the dirty log, `EINVAL` when it is misaligned, or,
    /// with a backend, not accessible or not to be logged.
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

    /// Moves the dirty log (`VHOST_SET_LOG_BASE`), which is legal while queues run.
    ///
    /// # Errors
    ///
    /// `EFAULT` when a queue runs that cannot log what it has to there; the other has moved.
    pub(crate) fn set_log_base<Q: Queues>(&self, device: &Device<Q>, base: UserAddr) -> Result {
        let set = |all: Result, queue: &Queue<Q>| {
            let set = queue.vq.lock().set_log_base(base);
            all.and(set)
        };
        let all = device.queues().iter().fold(Ok(()), set);
        self.wake_all();
        all
    }

    /// Sets what is signalled when something has been logged (`VHOST_SET_LOG_FD`).
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

    /// Sets what kicks a queue; [`FILE_UNBIND`] for nothing.
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
            Some(Poller::new(file, POLLIN, self.workers.waker(queue.index)?)?)
        };
        let old = core::mem::replace(&mut vq.kick, new);
        let armed = vq.kick.as_mut().map_or(Ok(()), Poller::arm);
        drop(vq);
        drop(old);
        // For a kick that the old one was given and nobody took.
        self.wake(queue.index);
        armed
    }

    /// Starts a queue on the backend behind `fd`, or stops it for [`FILE_UNBIND`]
    /// (`VHOST_NET_SET_BACKEND`).
    ///
    /// When it returns, nothing accesses the old backend, nor, without a new one, guest memory.
    ///
    /// # Errors
    ///
    /// `EINVAL` when a ring of this format cannot have the size that was set; `EFAULT` when ring or memory
    /// table are not set up or cannot be accessed, or the ring does not have its base; `ENOTSOCK` when
    /// `fd` is no possible backend, `EINVAL` when its device is gone, `ENOMEM`. The old backend
    /// then stays. Unbinding does not fail: QEMU takes a refusal for a bug of its own.
    pub(crate) fn set_backend<Q: Queues>(
        &self,
        device: &Device<Q>,
        queue: &Queue<Q>,
        fd: i32,
    ) -> Result {
        let unbind = fd == FILE_UNBIND;
        let task = current!();
        // The caller is the owner, so there is some.
        let memory = OwnerMemory::of_caller(task).ok_or(EFAULT)?;
        let mut vq = queue.vq.lock();
        if !unbind && !vq.is_accessible() {
            return Err(EFAULT);
        }
        if !unbind && !vq.rings.has_size() {
            return Err(EINVAL);
        }
        let new = if unbind {
            device.messages.forget(queue.index);
            None
        } else {
            let waker = self.workers.waker(queue.index)?;
            let mut new = Backend::from_fd(fd, queue.index, waker)?;
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
                        device.messages.miss(queue.index, miss, vq.messages_v2);
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
        let owes = vq.is_owing();
        drop(vq);
        drop(old);
        if owes {
            self.wake(queue.index);
        }
        Ok(())
    }
}

/// Sets a notification of a queue; [`FILE_UNBIND`] for none.
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
