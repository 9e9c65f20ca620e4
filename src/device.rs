// SPDX-License-Identifier: GPL-2.0

//! A device: two virtqueues, their owner and its worker.
//!
//! # Locking
//!
//! In this order:
//!
//! 1. [`Device::owner`], the device mutex: taken by every ioctl that changes the device.
//! 2. A queue's `vq` mutex: taken by the worker for a whole round, and by ioctls. The two queues'
//!    mutexes are never held together.
//! 3. The wait queue of a kick's or a backend's file, by the kernel: callbacks come with it held and
//!    take no lock of this module.
//! 4. The spinlock in [`Stats`], for an assignment.
//!
//! The worker takes queue mutexes only, so it may be stopped under the device mutex, but not under
//! a queue's.

use kernel::mm::Mm;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::aref::ARef;
use kernel::sync::{new_mutex, Arc, Mutex, MutexGuard};
use vring::RingAddrs;

use crate::backend::Backend;
use crate::features::Features;
use crate::kapi::{self, EventFd, Flag, OwnerMemory, Poller, POLLIN};
use crate::memory::Table;
use crate::messages::{Message, Messages};
use crate::stats::Stats;
use crate::uapi::{VringAddr, FILE_UNBIND};
use crate::virtqueue::{Direction, Virtqueue};
use crate::worker::{Waker, Worker};

/// A device: what an open file of `/dev/vhost-rnet` stands for.
#[pin_data]
pub(crate) struct Device {
    /// Who may change the device.
    #[pin]
    owner: Mutex<Option<Owner>>,
    #[pin]
    rx: Queue,
    #[pin]
    tx: Queue,
    /// Misses on their way to the owner.
    #[pin]
    pub(crate) messages: Messages,
}

/// A virtqueue and what may be touched without its mutex.
#[pin_data]
pub(crate) struct Queue {
    #[pin]
    pub(crate) vq: Mutex<Virtqueue>,
    /// Whether the worker has something to do for the queue.
    pub(crate) pending: Flag,
    #[pin]
    pub(crate) stats: Stats,
}

/// The process that set up the device.
pub(crate) struct Owner {
    /// Its memory; compared, not accessed.
    mm: ARef<Mm>,
    worker: Arc<Worker>,
}

impl Queue {
    fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            vq <- new_mutex!(Virtqueue::new()?, "vhost_rnet_vq"),
            pending: Flag::new(),
            stats <- Stats::new(),
        })
    }
}

impl Device {
    /// A device without owner.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                owner <- new_mutex!(None, "vhost_rnet_owner"),
                rx <- Queue::new(),
                tx <- Queue::new(),
                messages <- Messages::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// A queue.
    #[inline]
    pub(crate) fn queue(&self, direction: Direction) -> &Queue {
        match direction {
            Direction::Rx => &self.rx,
            Direction::Tx => &self.tx,
        }
    }

    /// Takes the device mutex, for calls that only the owner may make.
    ///
    /// # Errors
    ///
    /// `EPERM` when the caller's memory is not the owner's, or there is no owner.
    pub(crate) fn lock_owned(&self) -> Result<MutexGuard<'_, Option<Owner>>> {
        let guard = self.owner.lock();
        let ours = match (&*guard, current!().mm()) {
            (Some(owner), Some(mm)) => owner.mm.as_raw() == mm.as_raw(),
            _ => false,
        };
        if ours {
            Ok(guard)
        } else {
            Err(EPERM)
        }
    }

    /// Makes the caller the owner (`VHOST_SET_OWNER`) and starts a worker in its process.
    ///
    /// # Errors
    ///
    /// `EBUSY` when there is an owner, `ENOMEM` when the worker cannot be started, as vhost.
    pub(crate) fn set_owner(self: &Arc<Self>) -> Result {
        let mut owner = self.owner.lock();
        if owner.is_some() {
            return Err(EBUSY);
        }
        let task = current!();
        let mm = task.mm().ok_or(EPERM)?;
        let name = CString::try_from_fmt(fmt!("vhost-{}", task.pid()))?;
        let worker = Worker::start(self.clone(), &name).map_err(|_| ENOMEM)?;
        for direction in [Direction::Rx, Direction::Tx] {
            self.queue(direction).vq.lock().owner = task.pid();
        }
        *owner = Some(Owner {
            mm: ARef::from(&**mm),
            worker: Arc::new(worker, GFP_KERNEL)?,
        });
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
        for direction in [Direction::Rx, Direction::Tx] {
            self.queue(direction).vq.lock().table = Some(table.clone());
        }
        Ok(())
    }

    /// Stops everything, from whatever process closes the last file.
    pub(crate) fn stop(&self) {
        self.reset(&mut self.owner.lock());
    }

    /// Resets the queues, then lets the worker go: by then nothing wakes it any more.
    fn reset(&self, owner: &mut Option<Owner>) {
        for direction in [Direction::Rx, Direction::Tx] {
            let detached = self.queue(direction).vq.lock().reset();
            drop(detached);
        }
        *owner = None;
    }

    /// Takes over negotiated features (`VHOST_SET_FEATURES`), in both queues.
    pub(crate) fn set_features(&self, features: Features) {
        let _device = self.owner.lock();
        for direction in [Direction::Rx, Direction::Tx] {
            self.queue(direction).vq.lock().set_features(features);
        }
    }
}

/// Translations of IO addresses.
impl Device {
    /// Does what the owner, or whoever it gave the file to, says about IO addresses.
    ///
    /// # Errors
    ///
    /// `EFAULT` without an IOTLB.
    pub(crate) fn iotlb_message(&self, _message: Message) -> Result {
        Err(EFAULT)
    }
}

/// What the owner sets up. Callers hold the device mutex, of which `owner` is the proof.
impl Owner {
    fn waker(&self, device: &Arc<Device>, direction: Direction) -> Waker {
        Waker::new(device.clone(), self.worker.clone(), direction)
    }

    /// Replaces the memory table of both queues.
    ///
    /// # Errors
    ///
    /// `EFAULT`, and no change, when a queue is running and the table is not accessible.
    pub(crate) fn set_table(&self, device: &Device, table: Table) -> Result {
        let running = |direction| device.queue(direction).vq.lock().backend.is_some();
        if !table.is_accessible() && (running(Direction::Rx) || running(Direction::Tx)) {
            return Err(EFAULT);
        }
        let table = Arc::new(table, GFP_KERNEL)?;
        for direction in [Direction::Rx, Direction::Tx] {
            // Under the mutex no round is using the old one.
            device.queue(direction).vq.lock().table = Some(table.clone());
        }
        Ok(())
    }

    /// Moves a ring (`VHOST_SET_VRING_ADDR`), which is legal while it runs.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` for flags (there is no dirty log), `EINVAL` when it is misaligned, or, with a
    /// backend, not accessible.
    pub(crate) fn set_addr(&self, vq: &mut Virtqueue, addr: VringAddr) -> Result {
        if addr.flags != 0 {
            return Err(EOPNOTSUPP);
        }
        let addrs = RingAddrs {
            desc: addr.desc,
            avail: addr.avail,
            used: addr.used,
        };
        if !addr.is_aligned() || (vq.backend.is_some() && !vq.ring_is_accessible(addrs)) {
            return Err(EINVAL);
        }
        vq.ring.set_addrs(addrs);
        Ok(())
    }

    /// Sets what kicks a queue; [`FILE_UNBIND`] for nothing.
    ///
    /// # Errors
    ///
    /// `EBADF`, `EINVAL` when `fd` is no eventfd, `ENOMEM`.
    pub(crate) fn set_kick(&self, device: &Arc<Device>, direction: Direction, fd: i32) -> Result {
        let mut vq = device.queue(direction).vq.lock();
        let new = if fd == FILE_UNBIND {
            None
        } else {
            let file = kapi::kick_file(fd)?;
            let old = vq.kick.as_ref().map(|kick| kick.file().as_ptr());
            if old == Some(file.as_ptr()) {
                return Ok(());
            }
            Some(Poller::new(file, POLLIN, self.waker(device, direction))?)
        };
        let old = core::mem::replace(&mut vq.kick, new);
        let armed = vq.kick.as_mut().map_or(Ok(()), Poller::arm);
        drop(vq);
        drop(old);
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
    pub(crate) fn set_backend(
        &self,
        device: &Arc<Device>,
        direction: Direction,
        fd: i32,
    ) -> Result {
        let mut vq = device.queue(direction).vq.lock();
        let unbind = fd == FILE_UNBIND;
        if !unbind && !vq.is_accessible() {
            return Err(EFAULT);
        }
        let new = if unbind {
            None
        } else {
            let waker = self.waker(device, direction);
            let mut new = Backend::from_fd(fd, direction.backend_event(), waker)?;
            if let Some(old) = vq.backend.as_ref() {
                if old.socket.is(&new.socket) {
                    return Ok(());
                }
            }
            vq.ring.start(&OwnerMemory).map_err(|_| EFAULT)?;
            new.arm()?;
            Some(new)
        };
        let old = vq.set_backend(new);
        drop(vq);
        drop(old);
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
