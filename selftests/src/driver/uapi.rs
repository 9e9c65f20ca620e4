// SPDX-License-Identifier: GPL-2.0

//! Structures and constants of `linux/vhost.h` and `linux/virtio_ring.h`.

use crate::sys::ioctl::Request;

/// Feature bits, as masks.
pub mod feature {
    /// Notify when the available ring runs empty, even if suppressed.
    pub const NOTIFY_ON_EMPTY: u64 = 1 << 24;
    /// Log every write to guest memory.
    pub const LOG_ALL: u64 = 1 << 26;
    /// Any split of header and data over descriptors.
    pub const ANY_LAYOUT: u64 = 1 << 27;
    /// The device makes the virtio-net header itself.
    pub const NET_HDR: u64 = 1 << 27;
    /// Tables of descriptors behind one descriptor.
    pub const INDIRECT: u64 = 1 << 28;
    /// Notifications by index instead of flags.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Virtio 1.0 layout.
    pub const VERSION_1: u64 = 1 << 32;
    /// Addresses go through an IOTLB.
    pub const ACCESS_PLATFORM: u64 = 1 << 33;
    /// Packed ring format.
    pub const RING_PACKED: u64 = 1 << 34;
    /// Buffers are used in the order they were made available.
    pub const IN_ORDER: u64 = 1 << 35;
    /// A single queue can be reset.
    pub const RING_RESET: u64 = 1 << 40;
    /// Backend feature: messages are `struct vhost_msg_v2`.
    pub const BACKEND_MSG_V2: u64 = 1 << 1;
    /// A received frame may span buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;

    /// The driver takes segmented frames in UDP tunnels; in the second word.
    pub const GUEST_UDP_TUNNEL_GSO: u64 = 1 << (65 - 64);
    /// The device takes segmented frames in UDP tunnels; in the second word.
    pub const HOST_UDP_TUNNEL_GSO: u64 = 1 << (67 - 64);
}

/// What a side of a packed ring wishes of the other's notifications (`VRING_PACKED_EVENT_FLAG_*`).
pub mod event {
    /// All of them.
    pub const ENABLE: u16 = 0;
    /// None.
    pub const DISABLE: u16 = 1;
    /// One for a descriptor that is named.
    pub const DESC: u16 = 2;
}

/// `struct vhost_vring_state`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct VringState {
    /// Which queue.
    pub index: u32,
    /// The value.
    pub num: u32,
}

/// `struct vhost_vring_file`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct VringFile {
    /// Which queue.
    pub index: u32,
    /// A descriptor, -1 to unbind.
    pub fd: i32,
}

/// `struct vhost_vring_addr`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct VringAddr {
    /// Which queue.
    pub index: u32,
    /// Only bit 0 is known: log writes to the used ring.
    pub flags: u32,
    /// Descriptor table, an address of the process.
    pub desc: u64,
    /// Used ring, an address of the process.
    pub used: u64,
    /// Available ring, an address of the process.
    pub avail: u64,
    /// Guest address of the used ring, for logging.
    pub log: u64,
}

/// `struct vhost_memory_region`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MemoryRegion {
    /// Start in guest memory.
    pub guest: u64,
    /// Length in bytes.
    pub size: u64,
    /// Start in the process.
    pub user: u64,
    /// Unused.
    pub padding: u64,
}

/// The head of `struct vhost_memory`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct MemoryHeader {
    /// How many regions follow.
    pub count: u32,
    /// Must be zero.
    pub padding: u32,
}

/// `VHOST_VRING_F_LOG` as a mask: writes to the used ring are logged.
pub const VRING_LOG: u32 = 1;

const KIND: u8 = 0xaf;
/// `VHOST_GET_FEATURES`.
pub const GET_FEATURES: Request<u64> = Request::read(KIND, 0x00);
/// `VHOST_SET_FEATURES`.
pub const SET_FEATURES: Request<u64> = Request::write(KIND, 0x00);
/// `VHOST_SET_OWNER`.
pub const SET_OWNER: Request<()> = Request::none(KIND, 0x01);
/// `VHOST_RESET_OWNER`.
pub const RESET_OWNER: Request<()> = Request::none(KIND, 0x02);
/// `VHOST_SET_MEM_TABLE`.
pub const SET_MEM_TABLE: Request<MemoryHeader> = Request::write(KIND, 0x03);
/// `VHOST_SET_LOG_BASE`.
pub const SET_LOG_BASE: Request<u64> = Request::write(KIND, 0x04);
/// `VHOST_SET_LOG_FD`.
pub const SET_LOG_FD: Request<i32> = Request::write(KIND, 0x07);
/// `VHOST_NEW_WORKER`; a `struct vhost_worker_state` is a worker's id.
pub const NEW_WORKER: Request<u32> = Request::read(KIND, 0x08);
/// `VHOST_FREE_WORKER`.
pub const FREE_WORKER: Request<u32> = Request::write(KIND, 0x09);
/// `VHOST_SET_VRING_NUM`.
pub const SET_VRING_NUM: Request<VringState> = Request::write(KIND, 0x10);
/// `VHOST_SET_VRING_ADDR`.
pub const SET_VRING_ADDR: Request<VringAddr> = Request::write(KIND, 0x11);
/// `VHOST_SET_VRING_BASE`.
pub const SET_VRING_BASE: Request<VringState> = Request::write(KIND, 0x12);
/// `VHOST_GET_VRING_BASE`.
pub const GET_VRING_BASE: Request<VringState> = Request::read_write(KIND, 0x12);
/// `VHOST_SET_VRING_BUSYLOOP_TIMEOUT`.
pub const SET_VRING_BUSYLOOP_TIMEOUT: Request<VringState> = Request::write(KIND, 0x23);
/// `VHOST_SET_VRING_ENDIAN`.
pub const SET_VRING_ENDIAN: Request<VringState> = Request::write(KIND, 0x13);
/// `VHOST_GET_VRING_ENDIAN`, whose number says that it is written.
pub const GET_VRING_ENDIAN: Request<VringState> = Request::write(KIND, 0x14);
/// `VHOST_ATTACH_VRING_WORKER`; the value is a worker's id.
pub const ATTACH_VRING_WORKER: Request<VringState> = Request::write(KIND, 0x15);
/// `VHOST_GET_VRING_WORKER`; the value is a worker's id.
pub const GET_VRING_WORKER: Request<VringState> = Request::read_write(KIND, 0x16);
/// `VHOST_SET_VRING_KICK`.
pub const SET_VRING_KICK: Request<VringFile> = Request::write(KIND, 0x20);
/// `VHOST_SET_VRING_CALL`.
pub const SET_VRING_CALL: Request<VringFile> = Request::write(KIND, 0x21);
/// `VHOST_SET_VRING_ERR`.
pub const SET_VRING_ERR: Request<VringFile> = Request::write(KIND, 0x22);
/// `VHOST_GET_VRING_BUSYLOOP_TIMEOUT`.
pub const GET_VRING_BUSYLOOP_TIMEOUT: Request<VringState> = Request::write(KIND, 0x24);
/// `VHOST_SET_BACKEND_FEATURES`.
pub const SET_BACKEND_FEATURES: Request<u64> = Request::write(KIND, 0x25);
/// `VHOST_GET_BACKEND_FEATURES`.
pub const GET_BACKEND_FEATURES: Request<u64> = Request::read(KIND, 0x26);
/// `VHOST_NET_SET_BACKEND`.
pub const NET_SET_BACKEND: Request<VringFile> = Request::write(KIND, 0x30);
/// `VHOST_GET_FEATURES_ARRAY`.
pub const GET_FEATURES_ARRAY: Request<u64> = Request::read(KIND, 0x83);
/// `VHOST_SET_FEATURES_ARRAY`.
pub const SET_FEATURES_ARRAY: Request<u64> = Request::write(KIND, 0x83);
/// `VHOST_SET_FORK_FROM_OWNER`.
pub const SET_FORK_FROM_OWNER: Request<u8> = Request::write(KIND, 0x84);
/// `VHOST_GET_FORK_FROM_OWNER`.
pub const GET_FORK_FROM_OWNER: Request<u8> = Request::read(KIND, 0x85);
/// A number of the vhost family that no network device serves.
pub const UNKNOWN: Request<VringState> = Request::write(KIND, 0x7e);

/// Descriptor flag: the chain goes on at `next`.
pub const DESC_NEXT: u16 = 1;
/// Descriptor flag: the device writes this buffer.
pub const DESC_WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors.
pub const DESC_INDIRECT: u16 = 4;
/// Flag of a packed descriptor that is available: as the driver's wrap counter.
pub const DESC_AVAIL: u16 = 1 << 7;
/// Flag of a packed descriptor that is used: as the device's wrap counter.
pub const DESC_USED: u16 = 1 << 15;
/// Available-ring flag: no calls wanted.
pub const AVAIL_NO_INTERRUPT: u16 = 1;
/// Used-ring flag: no kicks wanted.
pub const USED_NO_NOTIFY: u16 = 1;

const _: () = {
    assert!(size_of::<VringAddr>() == 40);
    assert!(size_of::<MemoryRegion>() == 32);
    assert!(GET_FEATURES.number() == 0x8008_af00);
    assert!(NET_SET_BACKEND.number() == 0x4008_af30);
};
