// SPDX-License-Identifier: GPL-2.0

//! The owner of a device, and what it sets up.

use kernel::mm::Mm;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;
use vring::UserAddr;

use crate::kapi::{self, EventFd, OwnerMemory, Poller, Wake, POLLIN};
use crate::vhost::backend::Backend;
use crate::vhost::class::{Class, Target};
use crate::vhost::device::{Device, Queue};
use crate::vhost::memory::Table;
use crate::vhost::round::Next;
use crate::vhost::uapi::{VringAddr, FILE_UNBIND, VRING_F_LOG};
use crate::vhost::virtqueue::Virtqueue;
use crate::vhost::worker::Workers;

/// The process that set up the device.
pub(crate) struct Owner<C: Class> {
    /// Its memory; compared, not accessed.
    pub(crate) mm: ARef<Mm>,
    pub(crate) workers: Workers<C>,
}

/// What the owner sets up. Callers hold the device mutex, of which `owner` is the proof.
///
/// Whatever may let a queue go on that has stopped has it look again, once it is in force: a guest
/// whose receive ring is full of buffers has nothing left to kick for.
impl<C: Class> Owner<C> {
    /// Has a queue look for work.
    pub(crate) fn wake(&self, queue: &Queue<C>) {
        if let Ok(waker) = self.workers.waker(queue.index) {
            waker.wake();
        }
    }

    /// Has all queues look for work.
    pub(crate) fn wake_all(&self, device: &Device<C>) {
        for queue in device.queues() {
            self.wake(queue);
        }
    }

    /// Whether the calling process, or one that shares its memory, is the owner.
    pub(crate) fn is_caller(&self) -> bool {
        current!()
            .mm()
            .is_some_and(|mm| self.mm.as_raw() == mm.as_raw())
    }

    /// Replaces the memory table of both queues.
    ///
    /// # Errors
    ///
    /// `EFAULT`, and no change, when a queue is running and the table is not accessible.
    pub(crate) fn set_table(&self, device: &Device<C>, table: Table) -> Result {
        let mut queues = device.queues().iter();
        if !queues.all(|queue| queue.vq.lock().accepts(&table)) {
            return Err(EFAULT);
        }
        let table = Arc::new(table, GFP_KERNEL)?;
        for queue in device.queues() {
            // Under the mutex no round is using the old one.
            queue.vq.lock().set_table(Some(table.clone()));
        }
        self.wake_all(device);
        Ok(())
    }

    /// Moves a ring (`VHOST_SET_VRING_ADDR`), which is legal while it runs.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` for flags other than that of the dirty log, `EINVAL` when it is misaligned, or,
    /// with a backend, not accessible or not to be logged.
    pub(crate) fn set_addr(&self, queue: &Queue<C>, addr: VringAddr) -> Result {
        if addr.flags & !VRING_F_LOG != 0 {
            return Err(EOPNOTSUPP);
        }
        let fits = |vq: &Virtqueue<C>| {
            vq.ring_is_accessible(addr.ring()) && vq.used_is_loggable(addr.log_used())
        };
        let mut vq = queue.vq.lock();
        if !addr.is_aligned() || (vq.backend.is_some() && !fits(&vq)) {
            return Err(EINVAL);
        }
        vq.set_addrs(addr.ring(), addr.log_used());
        drop(vq);
        self.wake(queue);
        Ok(())
    }

    /// Moves the dirty log (`VHOST_SET_LOG_BASE`), which is legal while queues run.
    ///
    /// # Errors
    ///
    /// `EFAULT` when a queue runs that cannot log what it has to there; the other has moved.
    pub(crate) fn set_log_base(&self, device: &Device<C>, base: UserAddr) -> Result {
        let set = |all: Result, queue: &Queue<C>| {
            let set = queue.vq.lock().set_log_base(base);
            all.and(set)
        };
        let all = device.queues().iter().fold(Ok(()), set);
        self.wake_all(device);
        all
    }

    /// Sets what is signalled when something has been logged (`VHOST_SET_LOG_FD`).
    ///
    /// # Errors
    ///
    /// `EBADF`, `EINVAL` when `fd` is no eventfd, `ENOMEM`.
    pub(crate) fn set_log_fd(&self, device: &Device<C>, fd: i32) -> Result {
        let call = match fd {
            FILE_UNBIND => None,
            _ => Some(Arc::new(EventFd::from_fd(fd)?, GFP_KERNEL)?),
        };
        for queue in device.queues() {
            let old = queue.vq.lock().set_log_call(call.clone());
            drop(old);
        }
        self.wake_all(device);
        Ok(())
    }

    /// Sets what kicks a queue; [`FILE_UNBIND`] for nothing.
    ///
    /// # Errors
    ///
    /// `EBADF`, `EINVAL` when `fd` is no eventfd, `ENOMEM`.
    pub(crate) fn set_kick(&self, queue: &Queue<C>, fd: i32) -> Result {
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
        self.wake(queue);
        armed
    }

    /// Starts a queue on the backend behind `fd`, or stops it for [`FILE_UNBIND`]
    /// (`VHOST_NET_SET_BACKEND`).
    ///
    /// When it returns, nothing accesses the old backend, nor, without a new one, guest memory.
    ///
    /// # Errors
    ///
    /// `EFAULT` when ring or memory table are not set up or cannot be accessed, `ENOTSOCK` when
    /// `fd` is no possible backend, `EINVAL` when its device is gone, `ENOMEM`. The old backend
    /// then stays. Unbinding does not fail: QEMU takes a refusal for a bug of its own.
    pub(crate) fn set_backend(&self, device: &Device<C>, queue: &Queue<C>, fd: i32) -> Result {
        let unbind = fd == FILE_UNBIND;
        let task = current!();
        // The caller is the owner, so there is some.
        let memory = OwnerMemory::of_caller(task).ok_or(EFAULT)?;
        let mut vq = queue.vq.lock();
        if !unbind && !vq.is_accessible() {
            return Err(EFAULT);
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
                    self.wake(queue);
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
            self.wake(queue);
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
