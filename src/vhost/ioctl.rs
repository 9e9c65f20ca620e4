// SPDX-License-Identifier: GPL-2.0

//! Ioctls: arguments are decoded and checked in the order that results in vhost-net's error codes.
//!
//! Arguments are read once. Nothing changes until everything has been checked.

use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::transmute::{AsBytes, FromBytes};
use kernel::uaccess::{UserPtr, UserSlice};
use vring::{ByteOrder, UserAddr};

use super::class::Class;
use super::device::{Device, Queue};
use super::features::{Features, WORDS};
use super::memory::Table;
use super::owner::Owner;
use super::queues::{Queues, QUEUES};
use super::setup::set_eventfd;
use super::uapi::{self, RawAddr, RawPair, VringAddr};
use super::worker::Mode;
use crate::kapi::{self, OwnerMemory, ENOBUFS, EOPNOTSUPP};

/// Bytes of a `struct vhost_memory` that may be read; [`Table::read`] reads what it needs.
const MAX_TABLE_BYTES: usize = 1 << 20;
/// Words of a feature array to read between two checks for a signal.
const WORDS_PER_CHECK: u64 = 4096;

/// Handles the ioctl `cmd` with argument `arg`, as `vhost_net_ioctl()`.
///
/// # Errors
///
/// `EFAULT` for an argument that cannot be read or written, `EPERM` for a caller who is not the
/// owner, `ENOBUFS` for a queue index out of range, `ENOTTY` for an unknown command, and those of
/// the command itself.
pub(crate) fn dispatch<C: Class>(device: &Arc<Device<C>>, cmd: u32, arg: usize) -> Result {
    match cmd {
        uapi::GET_FEATURES => {
            let [features, ..] = C::FEATURES.words();
            write(arg, features)
        }
        uapi::SET_FEATURES => {
            let features = C::FEATURES
                .acknowledged([read(arg)?, 0])
                .ok_or(EOPNOTSUPP)?;
            device.set_features(features)
        }
        uapi::GET_FEATURES_ARRAY => get_features_array::<C>(arg),
        uapi::SET_FEATURES_ARRAY => device.set_features(read_features_array(&C::FEATURES, arg)?),
        uapi::GET_BACKEND_FEATURES => write(arg, &uapi::BACKEND_F_IOTLB_MSG_V2),
        uapi::SET_BACKEND_FEATURES => {
            let features = read::<u64>(arg)?;
            if features & !uapi::BACKEND_F_IOTLB_MSG_V2 != 0 {
                return Err(EOPNOTSUPP);
            }
            device.set_backend_features(features);
            Ok(())
        }
        uapi::GET_FORK_FROM_OWNER => match device.mode() {
            Mode::Task => write(arg, &uapi::FORK_OWNER_TASK),
            Mode::Kthread => write(arg, &uapi::FORK_OWNER_KTHREAD),
        },
        uapi::SET_FORK_FROM_OWNER => device.set_mode(|| match read(arg)? {
            uapi::FORK_OWNER_TASK => Ok(Mode::Task),
            uapi::FORK_OWNER_KTHREAD => Ok(Mode::Kthread),
            _ => Err(EINVAL),
        }),
        uapi::SET_OWNER => device.set_owner(),
        uapi::RESET_OWNER => device.reset_owner(),
        uapi::NEW_WORKER
        | uapi::FREE_WORKER
        | uapi::ATTACH_VRING_WORKER
        | uapi::GET_VRING_WORKER => {
            let mut guard = device.lock_workers()?;
            let owner = Option::as_mut(&mut guard).ok_or(EINVAL)?;
            workers(device, owner, cmd, arg)
        }
        _ => match C::ioctl(device, cmd, arg) {
            Err(e) if e == ENOTTY => owned(device, cmd, arg),
            done => done,
        },
    }
}

/// Handles the ioctls of the core that only the owner may make.
fn owned<C: Class>(device: &Arc<Device<C>>, cmd: u32, arg: usize) -> Result {
    let guard = device.lock_owned()?;
    let owner = guard.as_ref().ok_or(EPERM)?;
    match cmd {
        uapi::SET_MEM_TABLE => {
            let table = UserSlice::new(UserPtr::from_addr(arg), MAX_TABLE_BYTES);
            owner.set_table(device, Table::read(table.reader())?)
        }
        uapi::SET_LOG_BASE => owner.set_log_base(device, UserAddr(read(arg)?)),
        uapi::SET_LOG_FD => owner.set_log_fd(device, read(arg)?),
        _ => vring(device, owner, cmd, arg),
    }
}

/// Starts a queue on a backend, or stops it, as `arg` says (`struct vhost_vring_file`).
///
/// Each class has an ioctl of its own that does this.
///
/// # Errors
///
/// `EFAULT` when `arg` cannot be read, `EPERM`, `ENOBUFS`, and those of [`Owner::set_backend`].
pub(crate) fn set_backend<Q: Queues>(device: &Device<Q>, arg: usize) -> Result {
    let [index, fd] = read::<RawPair>(arg)?;
    let guard = device.lock_owned()?;
    let owner = guard.as_ref().ok_or(EPERM)?;
    // CAST: as the C structure has it.
    owner.set_backend(device, queue(device, index)?, fd as i32)
}

/// Handles the ioctls on one queue, whose arguments all start with the queue's index.
fn vring<Q: Queues>(device: &Device<Q>, owner: &Owner, cmd: u32, arg: usize) -> Result {
    let index = read::<u32>(arg)?;
    let queue = queue(device, index)?;
    match cmd {
        uapi::SET_VRING_NUM | uapi::SET_VRING_BASE => {
            let mut vq = queue.vq.lock();
            if vq.backend.is_some() {
                return Err(EBUSY);
            }
            let num = read_second(arg)?;
            if cmd == uapi::SET_VRING_NUM {
                return vq.rings.set_size(num).then_some(()).ok_or(EINVAL);
            }
            vq.rings.set_base(num).then_some(()).ok_or(EINVAL)
        }
        uapi::GET_VRING_BASE => {
            let base = queue.vq.lock().rings.base();
            write::<RawPair>(arg, &[index, base])
        }
        uapi::SET_VRING_ADDR => {
            let addr = VringAddr::from_raw(read::<RawAddr>(arg)?);
            owner.set_addr(queue, addr)
        }
        uapi::SET_VRING_KICK => owner.set_kick(queue, read_second(arg)? as i32),
        uapi::SET_VRING_CALL => {
            let fd = read_second(arg)? as i32;
            set_eventfd(&mut queue.vq.lock().call, fd).map(drop)
        }
        uapi::SET_VRING_ERR => {
            let fd = read_second(arg)? as i32;
            set_eventfd(&mut queue.vq.lock().error, fd).map(drop)
        }
        uapi::SET_VRING_ENDIAN => {
            let mut vq = queue.vq.lock();
            if vq.backend.is_some() {
                return Err(EBUSY);
            }
            vq.set_order(match read_second(arg)? {
                uapi::VRING_LITTLE_ENDIAN => ByteOrder::Little,
                uapi::VRING_BIG_ENDIAN => ByteOrder::Big,
                _ => return Err(EINVAL),
            });
            Ok(())
        }
        uapi::GET_VRING_ENDIAN => {
            let order = match queue.vq.lock().order() {
                ByteOrder::Little => uapi::VRING_LITTLE_ENDIAN,
                ByteOrder::Big => uapi::VRING_BIG_ENDIAN,
            };
            write::<RawPair>(arg, &[index, order])
        }
        uapi::SET_VRING_BUSYLOOP_TIMEOUT => {
            let timeout = read_second(arg)?;
            queue.vq.lock().busy_timeout = timeout;
            Ok(())
        }
        uapi::GET_VRING_BUSYLOOP_TIMEOUT => {
            let timeout = queue.vq.lock().busy_timeout;
            write::<RawPair>(arg, &[index, timeout])
        }
        _ => Err(ENOTTY),
    }
}

/// Handles the ioctls on workers, as `vhost_worker_ioctl()`.
fn workers<C: Class>(device: &Arc<Device<C>>, owner: &mut Owner, cmd: u32, arg: usize) -> Result {
    match cmd {
        uapi::NEW_WORKER => {
            let id = owner.add_worker(device)?;
            // Free the worker: without its id, the owner could not.
            write(arg, &id).or_else(|e| owner.workers.remove(id).and(Err(e)))
        }
        uapi::FREE_WORKER => owner.workers.remove(read(arg)?),
        uapi::ATTACH_VRING_WORKER => {
            let queue = queue(device, read(arg)?)?;
            owner.attach_worker(queue, read_second(arg)?)
        }
        _ => {
            let index = read::<u32>(arg)?;
            let id = owner.workers.attached(queue(device, index)?.index)?;
            write::<RawPair>(arg, &[index, id])
        }
    }
}

/// The queue with `index`.
///
/// # Errors
///
/// `ENOBUFS` when there is none.
fn queue<Q: Queues>(device: &Device<Q>, index: u32) -> Result<&Queue<Q>> {
    // CAST: `u32` fits `usize`.
    let index = kapi::index_nospec(index as usize, QUEUES);
    index.and_then(|index| device.queue(index)).ok_or(ENOBUFS)
}

/// Handles `VHOST_GET_FEATURES_ARRAY`: after a count, writes as many words, zero beyond the known
/// ones.
fn get_features_array<C: Class>(arg: usize) -> Result {
    let count = read::<u64>(arg)?;
    let words = UserPtr::from_addr(arg).wrapping_byte_add(size_of::<u64>());
    let known = count.min(WORDS as u64);
    // CAST: at most `WORDS`.
    let offered = C::FEATURES.words().iter().take(known as usize);
    let mut to = UserSlice::new(words, size_of_val(C::FEATURES.words())).writer();
    for word in offered {
        to.write(word)?;
    }
    let rest = words.wrapping_byte_add(size_of::<u64>().wrapping_mul(known as usize));
    let bytes = count.wrapping_sub(known).saturating_mul(8);
    let task = current!();
    let memory = OwnerMemory::of_caller(task).ok_or(EFAULT)?;
    memory.clear(UserAddr(rest.as_const_ptr() as u64), bytes)
}

/// Reads the argument of `VHOST_SET_FEATURES_ARRAY`: a count and as many words, zero beyond the
/// known ones.
///
/// # Errors
///
/// `EOPNOTSUPP` for a feature that is not offered. `EINTR` on a signal, since the caller chooses
/// the count, which may be huge.
fn read_features_array(offered: &Features, arg: usize) -> Result<Features> {
    let count = read::<u64>(arg)?;
    let start = UserPtr::from_addr(arg).wrapping_byte_add(size_of::<u64>());
    let mut from = UserSlice::new(start, usize::MAX).reader();
    let mut words = [0u64; WORDS];
    let mut left = count;
    for word in words.iter_mut() {
        if left == 0 {
            break;
        }
        *word = from.read()?;
        left = left.wrapping_sub(1);
    }
    while left > 0 {
        if from.read::<u64>()? != 0 {
            return Err(EOPNOTSUPP);
        }
        left = left.wrapping_sub(1);
        if left % WORDS_PER_CHECK == 0 {
            kapi::cond_resched();
            if current!().signal_pending() {
                return Err(EINTR);
            }
        }
    }
    offered.acknowledged(words).ok_or(EOPNOTSUPP)
}

fn read<T: FromBytes>(arg: usize) -> Result<T> {
    UserSlice::new(UserPtr::from_addr(arg), size_of::<T>())
        .reader()
        .read()
}

/// Reads the second word of a `struct vhost_vring_state`, `vhost_vring_file` or
/// `vhost_vring_worker`.
///
/// The first word is the queue index, which has been read already.
fn read_second(arg: usize) -> Result<u32> {
    read(arg.wrapping_add(size_of::<u32>()))
}

fn write<T: AsBytes>(arg: usize, value: &T) -> Result {
    UserSlice::new(UserPtr::from_addr(arg), size_of::<T>())
        .writer()
        .write(value)
}
