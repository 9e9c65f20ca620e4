// SPDX-License-Identifier: GPL-2.0

//! The user-space interface of the vhost ioctls (`include/uapi/linux/vhost.h`, `vhost_types.h`).
//!
//! Structures are read and written as arrays of words, which have no padding to leak. They are
//! converted to the types of this file by hand.

use kernel::ioctl::{_IO, _IOR, _IOW, _IOWR};
use vring::{GuestAddr, Region, RingAddrs, UserAddr};

pub(crate) const VHOST_VIRTIO: u32 = 0xaf;

/// `struct vhost_vring_state`, `vhost_vring_file` and `vhost_vring_worker` on the wire.
pub(crate) type RawPair = [u32; 2];
/// `struct vhost_vring_addr` on the wire.
pub(crate) type RawAddr = [u64; 5];
/// `struct vhost_memory` on the wire, without its regions.
pub(crate) type RawMemory = [u32; 2];
/// `struct vhost_memory_region` on the wire.
pub(crate) type RawRegion = [u64; 4];
/// `struct vhost_iotlb_msg` on the wire.
pub(crate) type RawIotlb = [u64; 4];
/// `struct vhost_msg` and `struct vhost_msg_v2` on the wire.
///
/// It has a type, four bytes that are padding or an address space id, then a [`RawIotlb`] and
/// padding.
pub(crate) type RawMessage = [u64; 9];

pub(crate) const GET_FEATURES: u32 = _IOR::<u64>(VHOST_VIRTIO, 0x00);
pub(crate) const SET_FEATURES: u32 = _IOW::<u64>(VHOST_VIRTIO, 0x00);
pub(crate) const SET_OWNER: u32 = _IO(VHOST_VIRTIO, 0x01);
pub(crate) const RESET_OWNER: u32 = _IO(VHOST_VIRTIO, 0x02);
pub(crate) const SET_MEM_TABLE: u32 = _IOW::<RawMemory>(VHOST_VIRTIO, 0x03);
pub(crate) const SET_LOG_BASE: u32 = _IOW::<u64>(VHOST_VIRTIO, 0x04);
pub(crate) const SET_LOG_FD: u32 = _IOW::<i32>(VHOST_VIRTIO, 0x07);
pub(crate) const NEW_WORKER: u32 = _IOR::<u32>(VHOST_VIRTIO, 0x08);
pub(crate) const FREE_WORKER: u32 = _IOW::<u32>(VHOST_VIRTIO, 0x09);
pub(crate) const SET_VRING_NUM: u32 = _IOW::<RawPair>(VHOST_VIRTIO, 0x10);
pub(crate) const SET_VRING_ADDR: u32 = _IOW::<RawAddr>(VHOST_VIRTIO, 0x11);
pub(crate) const SET_VRING_BASE: u32 = _IOW::<RawPair>(VHOST_VIRTIO, 0x12);
pub(crate) const GET_VRING_BASE: u32 = _IOWR::<RawPair>(VHOST_VIRTIO, 0x12);
pub(crate) const SET_VRING_ENDIAN: u32 = _IOW::<RawPair>(VHOST_VIRTIO, 0x13);
/// Writes to user space, although its direction bits say otherwise.
pub(crate) const GET_VRING_ENDIAN: u32 = _IOW::<RawPair>(VHOST_VIRTIO, 0x14);
pub(crate) const ATTACH_VRING_WORKER: u32 = _IOW::<RawPair>(VHOST_VIRTIO, 0x15);
pub(crate) const GET_VRING_WORKER: u32 = _IOWR::<RawPair>(VHOST_VIRTIO, 0x16);
pub(crate) const SET_VRING_KICK: u32 = _IOW::<RawPair>(VHOST_VIRTIO, 0x20);
pub(crate) const SET_VRING_CALL: u32 = _IOW::<RawPair>(VHOST_VIRTIO, 0x21);
pub(crate) const SET_VRING_ERR: u32 = _IOW::<RawPair>(VHOST_VIRTIO, 0x22);
pub(crate) const SET_VRING_BUSYLOOP_TIMEOUT: u32 = _IOW::<RawPair>(VHOST_VIRTIO, 0x23);
/// Writes to user space, although its direction bits say otherwise.
pub(crate) const GET_VRING_BUSYLOOP_TIMEOUT: u32 = _IOW::<RawPair>(VHOST_VIRTIO, 0x24);
pub(crate) const SET_BACKEND_FEATURES: u32 = _IOW::<u64>(VHOST_VIRTIO, 0x25);
pub(crate) const GET_BACKEND_FEATURES: u32 = _IOR::<u64>(VHOST_VIRTIO, 0x26);
pub(crate) const GET_FEATURES_ARRAY: u32 = _IOR::<u64>(VHOST_VIRTIO, 0x83);
pub(crate) const SET_FEATURES_ARRAY: u32 = _IOW::<u64>(VHOST_VIRTIO, 0x83);
pub(crate) const SET_FORK_FROM_OWNER: u32 = _IOW::<u8>(VHOST_VIRTIO, 0x84);
pub(crate) const GET_FORK_FROM_OWNER: u32 = _IOR::<u8>(VHOST_VIRTIO, 0x85);

/// Workers are kernel threads (`VHOST_FORK_OWNER_KTHREAD`).
pub(crate) const FORK_OWNER_KTHREAD: u8 = 0;
/// Workers are threads of the owner (`VHOST_FORK_OWNER_TASK`).
pub(crate) const FORK_OWNER_TASK: u8 = 1;

/// The file descriptor that means unbinding (`VHOST_FILE_UNBIND`).
pub(crate) const FILE_UNBIND: i32 = -1;

/// Message formats (`VHOST_IOTLB_MSG`, `VHOST_IOTLB_MSG_V2`).
pub(crate) const IOTLB_MSG: u32 = 1;
pub(crate) const IOTLB_MSG_V2: u32 = 2;
/// Types of a message (`VHOST_IOTLB_*`).
pub(crate) const IOTLB_MISS: u8 = 1;
pub(crate) const IOTLB_UPDATE: u8 = 2;
pub(crate) const IOTLB_INVALIDATE: u8 = 3;
/// Kinds of access by the device (`VHOST_ACCESS_*`).
pub(crate) const ACCESS_RO: u8 = 1;
pub(crate) const ACCESS_WO: u8 = 2;

/// `VHOST_VRING_LITTLE_ENDIAN`.
pub(crate) const VRING_LITTLE_ENDIAN: u32 = 0;
/// `VHOST_VRING_BIG_ENDIAN`.
pub(crate) const VRING_BIG_ENDIAN: u32 = 1;
/// `VHOST_VRING_F_LOG`, as a mask: writes to the used ring are logged.
pub(crate) const VRING_F_LOG: u32 = 1 << 0;
/// `VHOST_BACKEND_F_IOTLB_MSG_V2`, as a mask: IOTLB messages have the newer format.
pub(crate) const BACKEND_F_IOTLB_MSG_V2: u64 = 1 << 1;

/// The address in the log must be a multiple of this many bytes (`VRING_USED_ALIGN_SIZE`).
const LOG_ALIGN: u64 = 4;

/// `struct vhost_vring_addr`, without the index.
#[derive(Clone, Copy)]
pub(crate) struct VringAddr {
    /// `VHOST_VRING_F_*`.
    pub(crate) flags: u32,
    desc: UserAddr,
    used: UserAddr,
    avail: UserAddr,
    /// Guest-physical address that stands for the used ring in the dirty log.
    log: GuestAddr,
}

impl VringAddr {
    pub(crate) fn from_raw(raw: RawAddr) -> Self {
        let [index_flags, desc, used, avail, log] = raw;
        let [_, flags] = halves(index_flags);
        Self {
            flags,
            desc: UserAddr(desc),
            used: UserAddr(used),
            avail: UserAddr(avail),
            log: GuestAddr(log),
        }
    }

    /// The addresses of the ring's three parts.
    pub(crate) fn ring(&self) -> RingAddrs {
        RingAddrs {
            desc: self.desc,
            avail: self.avail,
            used: self.used,
        }
    }

    /// The address of the used ring in the dirty log, if its writes are to be logged.
    pub(crate) fn log_used(&self) -> Option<GuestAddr> {
        (self.flags & VRING_F_LOG != 0).then_some(self.log)
    }

    /// Whether the address in the log is aligned as `vhost_vring_set_addr()` requires.
    pub(crate) fn log_is_aligned(&self) -> bool {
        self.log.0 & LOG_ALIGN.wrapping_sub(1) == 0
    }
}

/// Converts a `struct vhost_memory_region`; its flags are ignored, as by vhost.
pub(crate) fn region_from_raw(raw: RawRegion) -> Region {
    let [guest, size, user, _flags] = raw;
    Region {
        guest: GuestAddr(guest),
        size,
        user: UserAddr(user),
    }
}

/// `struct vhost_iotlb_msg`.
pub(crate) struct IotlbMessage {
    pub(crate) iova: u64,
    pub(crate) size: u64,
    pub(crate) user: UserAddr,
    /// `VHOST_ACCESS_*`.
    pub(crate) perm: u8,
    /// `VHOST_IOTLB_*`.
    pub(crate) kind: u8,
}

impl IotlbMessage {
    pub(crate) fn from_raw(raw: RawIotlb) -> Self {
        let [iova, size, user, rest] = raw;
        let [perm, kind, ..] = rest.to_ne_bytes();
        Self {
            iova,
            size,
            user: UserAddr(user),
            perm,
            kind,
        }
    }

    /// Converts to a message of `format`, with every byte set (`VHOST_IOTLB_MSG*`).
    pub(crate) fn to_raw(&self, format: u32) -> RawMessage {
        let [a, b, c, d] = format.to_ne_bytes();
        let format = u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]);
        let rest = u64::from_ne_bytes([self.perm, self.kind, 0, 0, 0, 0, 0, 0]);
        let [iova, size, user] = [self.iova, self.size, self.user.0];
        [format, iova, size, user, rest, 0, 0, 0, 0]
    }
}

/// The two 32-bit fields that share a 64-bit word, in order of address.
fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
    ]
}
