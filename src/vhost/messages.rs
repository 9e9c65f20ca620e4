// SPDX-License-Identifier: GPL-2.0

//! What a device and its owner tell each other about IO addresses, by reads and writes of the
//! device's file.
//!
//! A queue that meets an address without a translation reports a miss and stops. The owner reads
//! the miss and writes an update, which lets the queue go on. It also writes updates and
//! invalidations unasked.

use kernel::fs::File;
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::prelude::*;
use kernel::sync::poll::{PollCondVar, PollTable};
use kernel::sync::{new_spinlock, SpinLock};
use kernel::transmute::{AsBytes, FromBytes};
use kernel::{current, new_poll_condvar};
use vring::{Access, GuestAddr, InvalidMapping, Mapping, Miss, Permission, UserAddr};

use super::iotlb::Iotlb;
use super::queues::QUEUES;
use super::uapi::{self, IotlbMessage, RawIotlb, RawMessage};
use crate::kapi::{self, POLLIN, POLLRDNORM};

/// What the owner says about IO addresses.
#[derive(Clone, Copy)]
pub(crate) enum Message {
    /// `size` bytes from `iova` are found at `user` (`VHOST_IOTLB_UPDATE`). `size` is not 0; both
    /// ranges may leave the address space.
    Update {
        iova: u64,
        size: u64,
        user: UserAddr,
        /// `VHOST_ACCESS_*`, which allow the device to read, write or both.
        perm: u8,
    },
    /// `size` bytes from `iova` are found nowhere any more (`VHOST_IOTLB_INVALIDATE`). `size` is
    /// not 0; the range may leave the address space.
    Invalidate { iova: u64, size: u64 },
}

impl Message {
    /// Changes an IOTLB as the owner wants.
    ///
    /// # Errors
    ///
    /// `EFAULT` for an update that leaves the address space or what user space can have.
    pub(crate) fn apply(self, iotlb: &mut Iotlb) -> Result {
        match self {
            Self::Update {
                iova,
                size,
                user,
                perm,
            } => {
                let permission = Permission::from_bits(perm);
                if permission != Permission::NONE && !kapi::access_ok(user, size) {
                    return Err(EFAULT);
                }
                Mapping::new(GuestAddr(iova), size, user, permission)
                    .and_then(|mapping| iotlb.update(mapping))
                    .map_err(|InvalidMapping| EFAULT)
            }
            Self::Invalidate { iova, size } => {
                if let Err(InvalidMapping) = iotlb.invalidate(GuestAddr(iova), size) {
                    // A range that leaves the address space: rather all of it than too little.
                    iotlb.clear();
                }
                Ok(())
            }
        }
    }
}

/// Misses on their way to the owner: at most one of each queue, which stops at its first.
#[pin_data]
pub(crate) struct Messages {
    /// Whether reads have something to wait for, and what they have.
    #[pin]
    state: SpinLock<State>,
    /// Who waits for something to read.
    #[pin]
    readers: PollCondVar,
}

struct State {
    enabled: bool,
    /// One of each queue.
    misses: [Option<Outstanding>; QUEUES],
    /// The queue that reported a miss last; the others' are read first.
    last: usize,
}

/// A miss that has not been answered.
#[derive(Clone, Copy)]
struct Outstanding {
    miss: Miss,
    /// In which format it is read (`VHOST_IOTLB_MSG_V2`).
    v2: bool,
    /// Whether it has been.
    read: bool,
}

impl State {
    /// Takes the oldest unread miss as read; its queue.
    fn take_unread(&mut self) -> Option<(usize, Outstanding)> {
        let last = self.last;
        let (before, after) = self.misses.split_at_mut_checked(last.wrapping_add(1))?;
        let after = (last.wrapping_add(1)..).zip(after);
        let mut order = Iterator::chain(after, (0..).zip(before));
        order.find_map(|(queue, slot)| {
            let unread = slot.as_mut().filter(|miss| !miss.read)?;
            unread.read = true;
            Some((queue, *unread))
        })
    }

    fn has_unread(&self) -> bool {
        let unread = |slot: &Option<Outstanding>| slot.is_some_and(|miss| !miss.read);
        self.misses.iter().any(unread)
    }

    fn forget(&mut self) {
        self.misses = [None; QUEUES];
    }
}

impl Messages {
    /// Without IOTLB, and nothing to read.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state <- new_spinlock!(
                State { enabled: false, misses: [None; QUEUES], last: 0 },
                "vhost_rnet_messages"
            ),
            readers <- new_poll_condvar!("vhost_rnet_readers"),
        })
    }

    /// Says whether the device has an IOTLB. When it loses it, misses are forgotten and readers
    /// sent away (`vhost_clear_device_iotlb()`).
    pub(crate) fn enable(&self, enabled: bool) {
        let mut state = self.state.lock();
        state.enabled = enabled;
        if !enabled {
            state.forget();
        }
        drop(state);
        self.readers.notify_all();
    }

    /// Reports a miss of `queue`, to be read in the format `v2` or the older one; nothing, while this
    /// very miss has not been answered (`vhost_iotlb_miss()`).
    ///
    /// Another one takes its place: whoever moved the ring or the memory will not answer the old one.
    pub(crate) fn miss(&self, queue: usize, miss: Miss, v2: bool) {
        let mut state = self.state.lock();
        let Some(slot) = state.misses.get_mut(queue) else {
            return;
        };
        if slot.is_some_and(|old| old.miss == miss) {
            return;
        }
        *slot = Some(Outstanding {
            miss,
            v2,
            read: false,
        });
        state.last = queue;
        drop(state);
        self.readers.notify_all();
    }

    /// Forgets the miss of a queue that no longer runs: it may never be answered.
    pub(crate) fn forget(&self, queue: usize) {
        if let Some(slot) = self.state.lock().misses.get_mut(queue) {
            *slot = None;
        }
    }

    /// Forgets the misses that a translation of `size` bytes from `iova` answers, and tells which of
    /// the queues can go on.
    ///
    /// A miss that the owner has not read yet cannot be meant: it stays, and is answered again
    /// when it has been read (`vhost_iotlb_notify_vq()`).
    pub(crate) fn answered(&self, iova: u64, size: u64) -> [bool; QUEUES] {
        let last = iova.wrapping_add(size).wrapping_sub(1);
        let mut state = self.state.lock();
        state.misses.each_mut().map(|slot| {
            let answers =
                |it: &mut Outstanding| it.read && iova <= it.miss.addr.0 && it.miss.addr.0 <= last;
            slot.take_if(answers).is_some()
        })
    }

    /// Writes the oldest miss that has not been read to `to`, after waiting for one unless
    /// `nonblock`; its length in bytes, or 0 when `to` has no room for it (`vhost_chr_read_iter()`).
    ///
    /// When `to` cannot be written, fewer bytes than a message have been, and the miss can be read
    /// again.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when there is nothing to read, and, for those who would wait, `ERESTARTSYS` on a
    /// signal and `EBADFD` when nothing will come since there is no IOTLB.
    pub(crate) fn read(&self, nonblock: bool, to: &mut IovIterDest<'_>) -> Result<usize> {
        if to.len() < size_of::<RawMessage>() {
            return Ok(0);
        }
        let mut state = self.state.lock();
        let (queue, next) = loop {
            if let Some(next) = state.take_unread() {
                break next;
            }
            if nonblock {
                return Err(EAGAIN);
            }
            if current!().signal_pending() {
                return Err(ERESTARTSYS);
            }
            if !state.enabled {
                return Err(EBADFD);
            }
            // A message that came with a signal is still read.
            let _signal = self.readers.wait_interruptible(&mut state);
        };
        drop(state);
        let raw = next.to_raw();
        let copied = to.copy_to_iter(AsBytes::as_bytes(&raw));
        if copied < size_of_val(&raw) {
            // If it has been answered in between, there may be another one, or none.
            if let Some(Some(miss)) = self.state.lock().misses.get_mut(queue) {
                miss.read = false;
            }
            self.readers.notify_all();
        }
        Ok(copied)
    }

    /// `EPOLLIN | EPOLLRDNORM` if there is something to read, otherwise nothing, and `table` is
    /// told when that changes (`vhost_chr_poll()`).
    pub(crate) fn poll(&self, file: &File, table: PollTable<'_>) -> u32 {
        table.register_wait(file, &self.readers);
        if self.state.lock().has_unread() {
            POLLIN | POLLRDNORM
        } else {
            0
        }
    }
}

impl Outstanding {
    fn to_raw(self) -> RawMessage {
        let format = if self.v2 {
            uapi::IOTLB_MSG_V2
        } else {
            uapi::IOTLB_MSG
        };
        let perm = match self.miss.access {
            Access::Read => uapi::ACCESS_RO,
            Access::Write => uapi::ACCESS_WO,
        };
        let message = IotlbMessage {
            iova: self.miss.addr.0,
            size: 0,
            user: UserAddr(0),
            perm,
            kind: uapi::IOTLB_MISS,
        };
        message.to_raw(format)
    }
}

/// Reads a message of the owner, in either format (`vhost_chr_write_iter()`).
///
/// # Errors
///
/// `EINVAL` for a message that is cut off or cannot be read, one of an unknown format, or an
/// update of nothing; `EFAULT` for one that has an unknown meaning, or an invalidation of nothing.
pub(crate) fn parse(from: &mut IovIterSource<'_>) -> Result<Message> {
    match read::<u32>(from)? {
        uapi::IOTLB_MSG | uapi::IOTLB_MSG_V2 => {}
        _ => return Err(EINVAL),
    }
    // A hole in the older format. In the newer one, an address space: there is only one.
    from.advance(size_of::<u32>());
    let message = IotlbMessage::from_raw(read::<RawIotlb>(from)?);
    let (iova, size) = (message.iova, message.size);
    match message.kind {
        uapi::IOTLB_UPDATE if size == 0 => Err(EINVAL),
        uapi::IOTLB_UPDATE => Ok(Message::Update {
            iova,
            size,
            user: message.user,
            perm: message.perm,
        }),
        uapi::IOTLB_INVALIDATE if size != 0 => Ok(Message::Invalidate { iova, size }),
        _ => Err(EFAULT),
    }
}

fn read<T: FromBytes + AsBytes + Default>(from: &mut IovIterSource<'_>) -> Result<T> {
    let mut value = T::default();
    let bytes = value.as_bytes_mut();
    if from.copy_from_iter(bytes) == bytes.len() {
        Ok(value)
    } else {
        Err(EINVAL)
    }
}
