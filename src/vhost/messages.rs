// SPDX-License-Identifier: GPL-2.0

//! Messages about IO addresses, which the owner reads from and writes to the device's file.
//!
//! A queue that finds no translation for an address reports a miss and stops. The owner reads the
//! miss and writes an update, which lets the queue go on. The owner may also write updates and
//! invalidations without a miss.

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
use crate::kapi::{self, EBADFD, POLLIN, POLLRDNORM};

/// A message of the owner about IO addresses.
#[derive(Clone, Copy)]
pub(crate) enum Message {
    /// Maps `size` bytes from `iova` to `user` (`VHOST_IOTLB_UPDATE`).
    ///
    /// `size` is not 0; both ranges may exceed the address space.
    Update {
        iova: u64,
        size: u64,
        user: UserAddr,
        /// `VHOST_ACCESS_*`, which allow the device to read, write or both.
        perm: u8,
    },
    /// Unmaps `size` bytes from `iova` (`VHOST_IOTLB_INVALIDATE`).
    ///
    /// `size` is not 0; the range may exceed the address space.
    Invalidate { iova: u64, size: u64 },
}

impl Message {
    /// Applies the message to an IOTLB.
    ///
    /// # Errors
    ///
    /// `EFAULT` for an update that exceeds the address space or the range of user addresses.
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
                    // The range exceeds the address space. Remove all mappings rather than too few.
                    iotlb.clear();
                }
                Ok(())
            }
        }
    }
}

/// Misses to be read by the owner, at most one for each queue, which stops at its first.
#[pin_data]
pub(crate) struct Messages {
    /// Whether there is an IOTLB, and its misses.
    #[pin]
    state: SpinLock<State>,
    /// Readers that wait for a miss.
    #[pin]
    readers: PollCondVar,
}

struct State {
    enabled: bool,
    /// The miss of each queue.
    misses: [Option<Outstanding>; QUEUES],
    /// The queue that reported a miss last; misses of the other queues are read first.
    last: usize,
}

/// A miss that has not been answered.
#[derive(Clone, Copy)]
struct Outstanding {
    miss: Miss,
    /// Whether it is read in the newer format (`VHOST_IOTLB_MSG_V2`).
    v2: bool,
    /// Whether the owner has read it.
    read: bool,
}

impl State {
    /// Marks the oldest unread miss as read, and returns it with its queue.
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
    /// Makes a set of messages without an IOTLB, and without a miss.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state <- new_spinlock!(
                State { enabled: false, misses: [None; QUEUES], last: 0 },
                "vhost_rnet_messages"
            ),
            readers <- new_poll_condvar!("vhost_rnet_readers"),
        })
    }

    /// Sets whether the device has an IOTLB (`vhost_clear_device_iotlb()`).
    ///
    /// Without one, misses are dropped and readers stop waiting.
    pub(crate) fn enable(&self, enabled: bool) {
        let mut state = self.state.lock();
        state.enabled = enabled;
        if !enabled {
            state.forget();
        }
        drop(state);
        self.readers.notify_all();
    }

    /// Reports a miss of `queue`, to be read in the format `v2` or the older one
    /// (`vhost_iotlb_miss()`).
    ///
    /// Does nothing, and returns `false`, while the same miss is unanswered.
    ///
    /// A different miss of the queue is replaced: an owner that has moved the ring or the memory
    /// will not answer it.
    #[must_use]
    pub(crate) fn miss(&self, queue: usize, miss: Miss, v2: bool) -> bool {
        let mut state = self.state.lock();
        let Some(slot) = state.misses.get_mut(queue) else {
            return false;
        };
        if slot.is_some_and(|old| old.miss == miss) {
            return false;
        }
        *slot = Some(Outstanding {
            miss,
            v2,
            read: false,
        });
        state.last = queue;
        drop(state);
        self.readers.notify_all();
        true
    }

    /// Whether a miss of a queue has not been answered.
    pub(crate) fn is_awaited(&self, queue: usize) -> bool {
        self.state
            .lock()
            .misses
            .get(queue)
            .is_some_and(Option::is_some)
    }

    /// Drops the miss of a queue that no longer runs, since it may never be answered.
    pub(crate) fn forget(&self, queue: usize) {
        if let Some(slot) = self.state.lock().misses.get_mut(queue) {
            *slot = None;
        }
    }

    /// Drops the misses that a translation of `size` bytes from `iova` answers, and returns which
    /// of the queues can go on (`vhost_iotlb_notify_vq()`).
    ///
    /// A miss that the owner has not read yet cannot be meant. It stays, and is answered again once
    /// it has been read.
    pub(crate) fn answered(&self, iova: u64, size: u64) -> [bool; QUEUES] {
        let last = iova.wrapping_add(size).wrapping_sub(1);
        let mut state = self.state.lock();
        state.misses.each_mut().map(|slot| {
            let answers =
                |it: &mut Outstanding| it.read && iova <= it.miss.addr.0 && it.miss.addr.0 <= last;
            slot.take_if(answers).is_some()
        })
    }

    /// Writes the oldest unread miss to `to` and returns its length in bytes
    /// (`vhost_chr_read_iter()`).
    ///
    /// Waits for a miss unless `nonblock`. Returns 0 when `to` has no room for a message.
    ///
    /// When `to` cannot be written completely, it returns fewer bytes, and the miss can be read
    /// again.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when there is no miss and `nonblock` is set. For a reader that would wait,
    /// `ERESTARTSYS` on a signal, and `EBADFD` when no miss can come since there is no IOTLB.
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
            // A message that arrives together with a signal is still read.
            let _signal = self.readers.wait_interruptible(&mut state);
        };
        drop(state);
        let raw = next.to_raw();
        let copied = to.copy_to_iter(AsBytes::as_bytes(&raw));
        if copied < size_of_val(&raw) {
            // The miss may have been answered in the meantime; then there may be another one, or
            // none.
            if let Some(Some(miss)) = self.state.lock().misses.get_mut(queue) {
                miss.read = false;
            }
            self.readers.notify_all();
        }
        Ok(copied)
    }

    /// Returns `EPOLLIN | EPOLLRDNORM` if there is a miss to read, otherwise 0
    /// (`vhost_chr_poll()`).
    ///
    /// `table` is woken when that changes.
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
        let message = IotlbMessage {
            iova: self.miss.addr.0,
            size: 0,
            user: UserAddr(0),
            perm: perm(self.miss.access),
            kind: uapi::IOTLB_MISS,
        };
        message.to_raw(format)
    }
}

/// The permission that an access needs (`VHOST_ACCESS_*`).
pub(crate) fn perm(access: Access) -> u8 {
    match access {
        Access::Read => uapi::ACCESS_RO,
        Access::Write => uapi::ACCESS_WO,
    }
}

/// Reads a message of the owner, in either format (`vhost_chr_write_iter()`).
///
/// # Errors
///
/// `EINVAL` for a message that is truncated or cannot be read, has an unknown format, or is an
/// update of no bytes. `EFAULT` for a message of an unknown type, or an invalidation of no bytes.
pub(crate) fn parse(from: &mut IovIterSource<'_>) -> Result<Message> {
    match read::<u32>(from)? {
        uapi::IOTLB_MSG | uapi::IOTLB_MSG_V2 => {}
        _ => return Err(EINVAL),
    }
    // In the older format this is padding. In the newer one it is an address space id, of which
    // there is only one.
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
