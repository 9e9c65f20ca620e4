// SPDX-License-Identifier: GPL-2.0

//! The vhost ioctls as user space speaks them (`include/uapi/linux/vhost.h`, `vhost_types.h`).
//!
//! Structures are read and written as arrays of words, which have no padding to leak, and turned
//! into these types by hand.

use kernel::ioctl::{_IO, _IOR, _IOW, _IOWR};
use vring::{GuestAddr, Region, UserAddr};

const VHOST_VIRTIO: u32 = 0xaf;

/// `struct vhost_vring_state` and `struct vhost_vring_file` on the wire.
pub(crate) type RawPair = [u32; 2];
/// `struct vhost_vring_addr` on the wire.
pub(crate) type RawAddr = [u64; 5];
/// `struct vhost_memory` on the wire, without its regions.
pub(crate) type RawMemory = [u32; 2];
/// `struct vhost_memory_region` on the wire.
pub(crate) type RawRegion = [u64; 4];

pub(crate) const GET_FEATURES: u32 = _IOR::<u64>(VHOST_VIRTIO, 0x00);
pub(crate) const SET_FEATURES: u32 = _IOW::<u64>(VHOST_VIRTIO, 0x00);
pub(crate) const SET_OWNER: u32 = _IO(VHOST_VIRTIO, 0x01);
pub(crate) const RESET_OWNER: u32 = _IO(VHOST_VIRTIO, 0x02);
pub(crate) const SET_MEM_TABLE: u32 = _IOW::<RawMemory>(VHOST_VIRTIO, 0x03);
pub(crate) const SET_VRING_NUM: u32 = _IOW::<RawPair>(VHOST_VIRTIO, 0x10);
pub(crate) const SET_VRING_ADDR: u32 = _IOW::<RawAddr>(VHOST_VIRTIO, 0x11);
pub(crate) const SET_VRING_BASE: u32 = _IOW::<RawPair>(VHOST_VIRTIO, 0x12);
pub(crate) const GET_VRING_BASE: u32 = _IOWR::<RawPair>(VHOST_VIRTIO, 0x12);
pub(crate) const SET_VRING_KICK: u32 = _IOW::<RawPair>(VHOST_VIRTIO, 0x20);
pub(crate) const SET_VRING_CALL: u32 = _IOW::<RawPair>(VHOST_VIRTIO, 0x21);
pub(crate) const SET_VRING_ERR: u32 = _IOW::<RawPair>(VHOST_VIRTIO, 0x22);
pub(crate) const SET_BACKEND_FEATURES: u32 = _IOW::<u64>(VHOST_VIRTIO, 0x25);
pub(crate) const GET_BACKEND_FEATURES: u32 = _IOR::<u64>(VHOST_VIRTIO, 0x26);
pub(crate) const NET_SET_BACKEND: u32 = _IOW::<RawPair>(VHOST_VIRTIO, 0x30);
pub(crate) const GET_FEATURES_ARRAY: u32 = _IOR::<u64>(VHOST_VIRTIO, 0x83);
pub(crate) const SET_FEATURES_ARRAY: u32 = _IOW::<u64>(VHOST_VIRTIO, 0x83);

/// File descriptor that unbinds (`VHOST_FILE_UNBIND`).
pub(crate) const FILE_UNBIND: i32 = -1;

/// The used ring must lie at a multiple of this many bytes (`VRING_USED_ALIGN_SIZE`).
const USED_ALIGN: u64 = 4;
/// The available ring must lie at a multiple of this many bytes (`VRING_AVAIL_ALIGN_SIZE`).
const AVAIL_ALIGN: u64 = 2;

/// `struct vhost_vring_addr`, without the index.
#[derive(Clone, Copy)]
pub(crate) struct VringAddr {
    /// `VHOST_VRING_F_*`.
    pub(crate) flags: u32,
    pub(crate) desc: UserAddr,
    pub(crate) used: UserAddr,
    pub(crate) avail: UserAddr,
    /// Guest-physical address that stands for the used ring in the dirty log.
    pub(crate) log: GuestAddr,
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

    /// Whether the parts lie where `vhost_vring_set_addr()` wants them.
    pub(crate) fn is_aligned(&self) -> bool {
        let off = |addr: u64, align: u64| addr & align.wrapping_sub(1) != 0;
        !(off(self.avail.0, AVAIL_ALIGN)
            || off(self.used.0, USED_ALIGN)
            || off(self.log.0, USED_ALIGN))
    }
}

/// Reads a `struct vhost_memory_region`; its flags are ignored, as by vhost.
pub(crate) fn region_from_raw(raw: RawRegion) -> Region {
    let [guest, size, user, _flags] = raw;
    Region {
        guest: GuestAddr(guest),
        size,
        user: UserAddr(user),
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
