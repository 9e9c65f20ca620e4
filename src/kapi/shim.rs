// SPDX-License-Identifier: GPL-2.0

//! Declarations of C functions, both of `src/shim/helpers.h` and exported ones without kernel
//! bindings.
//!
//! `make check` compares the former with the header.

use kernel::bindings;
use kernel::ffi::{c_char, c_int, c_uint, c_void};
use vring::{RawDesc, RawUsed, Segment};

/// `struct vhost_task`, opaque (`include/linux/sched/vhost_task.h`).
#[repr(C)]
pub(super) struct CVhostTask {
    _opaque: [u8; 0],
}

/// `struct ptr_ring`, opaque (`include/linux/ptr_ring.h`).
#[repr(C)]
pub(super) struct CPtrRing {
    _opaque: [u8; 0],
}

/// `struct rnet_frames`, opaque.
#[repr(C)]
pub(super) struct CFrames {
    _opaque: [u8; 0],
}

/// `struct rnet_buffer`.
#[repr(C)]
pub(super) struct CBuffer {
    pub(super) start: *mut c_void,
    pub(super) len: usize,
}

// `Segment` is handed to C as `struct iovec`.
const _: () = {
    assert!(size_of::<Segment>() == size_of::<bindings::iovec>());
    assert!(
        core::mem::offset_of!(Segment, addr) == core::mem::offset_of!(bindings::iovec, iov_base)
    );
    assert!(core::mem::offset_of!(Segment, len) == core::mem::offset_of!(bindings::iovec, iov_len));
};

// These types are arrays in C as well.
const _: fn(RawDesc) -> [u64; 2] = |desc| desc;
const _: fn(RawUsed) -> [u32; 2] = |used| used;

/// The most frames sent at once.
pub(super) const RNET_FRAMES: usize = 64;
/// The most buffers of a frame that is sent in pages.
pub(super) const RNET_BUFFERS: usize = 18;
/// The packet is an `xdp_frame`, otherwise an `sk_buff`.
pub(super) const RNET_PACKET_XDP: u8 = 1;
/// The packet has a VLAN tag outside of its data.
pub(super) const RNET_PACKET_TAGGED: u8 = 2;
/// The packet is to be segmented.
pub(super) const RNET_PACKET_GSO: u8 = 4;
/// The packet has a checksum to be completed.
pub(super) const RNET_PACKET_PARTIAL: u8 = 8;
/// The packet's checksum has been verified.
pub(super) const RNET_PACKET_VALID: u8 = 16;
/// The packet has a list of further `sk_buff`s, or pages that cannot be read.
pub(super) const RNET_PACKET_LIST: u8 = 32;
/// The packet is not of the device that it is compared with.
pub(super) const RNET_PACKET_FOREIGN: u8 = 64;
/// The packet is a tunnel to be segmented.
pub(super) const RNET_PACKET_TUNNEL: u8 = 128;
/// The socket runs XDP programs on what is sent to it.
pub(super) const RNET_SOCK_XDP: c_uint = 1;
/// The socket does not account for what is in flight.
pub(super) const RNET_SOCK_UNLIMITED: c_uint = 2;

// Without lock debugging, kernel structures contain empty ones, which does not matter behind a
// pointer.
//
// SAFETY: the signatures are those of `src/shim/helpers.h`, as `make check` verifies, and of the
// files named below.
#[allow(improper_ctypes)]
unsafe extern "C" {
    pub(super) fn rnet_access_ok(addr: u64, len: u64) -> bool;
    pub(super) fn rnet_get_u16(addr: u64, value: *mut u16) -> c_int;
    pub(super) fn rnet_put_u16(addr: u64, value: u16) -> c_int;
    pub(super) fn rnet_get_u16_acquire(addr: u64, value: *mut u16) -> c_int;
    pub(super) fn rnet_put_u16_release(addr: u64, value: u16) -> c_int;
    pub(super) fn rnet_get_entries(
        ring: u64,
        table: u64,
        size: u32,
        index: *mut u16,
        descs: *mut RawDesc,
        n: usize,
    ) -> c_int;
    pub(super) fn rnet_gather_descs(
        table: u64,
        index: *const u16,
        descs: *mut RawDesc,
        n: usize,
    ) -> c_int;
    pub(super) fn rnet_get_u16_after_mb(addr: u64, value: *mut u16) -> c_int;
    pub(super) fn rnet_publish_used(
        addr: u64,
        used: *const RawUsed,
        n: usize,
        index_addr: u64,
        index: u16,
    ) -> c_int;
    pub(super) fn rnet_put_used(addr: u64, used: *const RawUsed, n: usize) -> c_int;
    pub(super) fn rnet_get_available(
        ring: u64,
        mask: u64,
        bits: u64,
        descs: *mut RawDesc,
        n: usize,
    ) -> c_int;
    pub(super) fn rnet_publish_packed(
        ring: u64,
        size: u32,
        position: u32,
        used: *const RawUsed,
        n: usize,
    ) -> c_int;
    pub(super) fn rnet_touch_u64(addr: u64) -> c_int;
    pub(super) fn rnet_get_u32(addr: u64, value: *mut u32) -> c_int;
    pub(super) fn rnet_get_u32_after_mb(addr: u64, value: *mut u32) -> c_int;
    pub(super) fn rnet_put_u32(addr: u64, value: u32) -> c_int;
    pub(super) fn rnet_copy_from_user(to: *mut c_void, from: u64, len: usize) -> c_int;
    pub(super) fn rnet_copy_to_user(to: u64, from: *const c_void, len: usize) -> c_int;
    pub(super) fn rnet_copy_to_segments(
        seg: *const Segment,
        n: usize,
        skip: usize,
        from: *const c_void,
        len: usize,
    ) -> c_int;
    pub(super) fn rnet_copy_from_segments(
        to: *mut c_void,
        room: usize,
        seg: *const Segment,
        n: usize,
        skip: usize,
    ) -> c_int;
    pub(super) fn rnet_clear_user(addr: u64, len: u64) -> c_int;
    pub(super) fn rnet_user_or_u32(addr: u64, mask: u32) -> c_int;
    pub(super) fn rnet_fault_in_writable(addr: u64, len: usize) -> c_int;
    pub(super) fn rnet_peek(
        mm: *mut bindings::mm_struct,
        addr: u64,
        to: *mut c_void,
        size: usize,
        n: usize,
    ) -> c_int;

    pub(super) fn rnet_set_running();
    pub(super) fn rnet_set_sleeping();
    pub(super) fn rnet_cond_resched();
    pub(super) fn rnet_need_resched() -> bool;
    pub(super) fn rnet_is_dying() -> bool;
    pub(super) fn rnet_charge_begin(mm: *mut bindings::mm_struct);
    pub(super) fn rnet_charge_end();
    pub(super) fn rnet_vfs_poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) -> u32;
    pub(super) fn rnet_log_allowed() -> bool;
    pub(super) fn rnet_work_init(work: *mut bindings::delayed_work);
    pub(super) fn rnet_work_start(work: *mut bindings::delayed_work, millis: c_uint);
    pub(super) fn rnet_index_nospec(index: usize, size: usize) -> usize;

    pub(super) fn rnet_threads_per_device() -> c_uint;
    pub(super) fn rnet_watchdog_ms() -> c_uint;

    pub(super) fn rnet_trace_queue_start(
        device: u64,
        owner: c_int,
        queue: *const c_char,
        queue_len: usize,
    );
    pub(super) fn rnet_trace_queue_stop(
        device: u64,
        owner: c_int,
        queue: *const c_char,
        queue_len: usize,
        reason: *const c_char,
        reason_len: usize,
    );
    pub(super) fn rnet_trace_fault(
        device: u64,
        owner: c_int,
        queue: *const c_char,
        queue_len: usize,
        name: *const c_char,
        name_len: usize,
        has_addr: bool,
        addr: u64,
    );
    pub(super) fn rnet_trace_miss(
        device: u64,
        owner: c_int,
        queue: *const c_char,
        queue_len: usize,
        iova: u64,
        access: u8,
    );
    pub(super) fn rnet_trace_answer(
        device: u64,
        owner: c_int,
        queue: *const c_char,
        queue_len: usize,
        iova: u64,
        size: u64,
        perm: u8,
    );
    pub(super) fn rnet_traces_rounds() -> bool;
    pub(super) fn rnet_trace_round_end(
        device: u64,
        owner: c_int,
        queue: *const c_char,
        queue_len: usize,
        packets: u64,
        bytes: u64,
        why: *const c_char,
        why_len: usize,
    );
    pub(super) fn rnet_trace_watchdog(
        device: u64,
        owner: c_int,
        queue: *const c_char,
        queue_len: usize,
    );
    pub(super) fn rnet_trace_worker_start(device: u64, owner: c_int, worker: u32, tid: c_int);
    pub(super) fn rnet_trace_worker_end(device: u64, owner: c_int, worker: u32, tid: c_int);

    pub(super) fn rnet_debugfs_dir(
        name: *const c_char,
        parent: *mut bindings::dentry,
    ) -> *mut bindings::dentry;
    pub(super) fn rnet_debugfs_file(
        name: *const c_char,
        mode: u16,
        parent: *mut bindings::dentry,
        data: *mut c_void,
        operations: *const bindings::file_operations,
    ) -> *mut bindings::dentry;
    pub(super) fn rnet_debugfs_remove(dentry: *mut bindings::dentry);
    pub(super) fn rnet_sock_is_packet_raw(sock: *mut bindings::socket) -> bool;
    pub(super) fn rnet_sock_packet_index(sock: *mut bindings::socket) -> c_int;
    pub(super) fn rnet_sock_tap_name(sock: *mut bindings::socket, name: *mut c_char) -> bool;
    pub(super) fn rnet_netdev_name(
        sock: *mut bindings::socket,
        index: c_int,
        name: *mut c_char,
    ) -> bool;
    pub(super) fn rnet_sock_send_state(sock: *mut bindings::socket) -> c_uint;
    pub(super) fn rnet_sock_error(sock: *mut bindings::socket) -> c_int;
    pub(super) fn rnet_sock_peek_len(sock: *mut bindings::socket, gso: *mut bool) -> usize;
    pub(super) fn rnet_sock_send(
        sock: *mut bindings::socket,
        seg: *const Segment,
        n: usize,
        len: usize,
        skip: usize,
    ) -> c_int;
    pub(super) fn rnet_sock_recv(
        sock: *mut bindings::socket,
        packet: *mut c_void,
        seg: *const Segment,
        n: usize,
        skip: usize,
        len: usize,
    ) -> c_int;

    pub(super) fn rnet_ring_consume(
        ring: *mut CPtrRing,
        file: *mut bindings::file,
        packets: *mut *mut c_void,
        lens: *mut u32,
        kinds: *mut u8,
        n: usize,
        dev: *const bindings::net_device,
    ) -> usize;
    pub(super) fn rnet_ring_unconsume(ring: *mut CPtrRing, packets: *mut *mut c_void, n: usize);
    pub(super) fn rnet_netdev_hold(
        sock: *mut bindings::socket,
        index: c_int,
    ) -> *mut bindings::net_device;
    pub(super) fn rnet_netdev_index(sock: *mut bindings::socket, name: *const c_char) -> c_int;
    pub(super) fn rnet_netdev_sent(dev: *mut bindings::net_device, packets: c_uint, bytes: c_uint);
    pub(super) fn rnet_netdev_put(dev: *mut bindings::net_device);
    pub(super) fn rnet_skb_header(skb: *const bindings::sk_buff, header: *mut c_void) -> c_int;
    pub(super) fn rnet_skb_write(
        skb: *const bindings::sk_buff,
        header: *const c_void,
        header_len: usize,
        seg: *const Segment,
        n: usize,
    ) -> c_int;
    pub(super) fn rnet_skb_write_offloaded(
        skb: *const bindings::sk_buff,
        header: *const c_void,
        header_len: usize,
        seg: *const Segment,
        n: usize,
    ) -> c_int;
    pub(super) fn rnet_skbs_free(skbs: *mut *mut bindings::sk_buff, n: usize);

    pub(super) fn rnet_pages_alloc(order: c_uint, reclaim: bool, refs: c_int) -> *mut c_void;
    pub(super) fn rnet_pages_refs(pages: *mut c_void) -> c_int;
    pub(super) fn rnet_pages_get(pages: *mut c_void, refs: c_int);
    pub(super) fn rnet_pages_put(pages: *mut c_void, refs: c_int);

    pub(super) fn rnet_frames_new() -> *mut CFrames;
    pub(super) fn rnet_frames_clear(frames: *mut CFrames, count: usize);
    pub(super) fn rnet_frames_free(frames: *mut CFrames);
    pub(super) fn rnet_frame_room() -> c_uint;
    pub(super) fn rnet_frame_tail() -> c_uint;
    pub(super) fn rnet_frames_put(
        frames: *mut CFrames,
        index: usize,
        buf: *mut c_void,
        size: c_uint,
        pad: c_uint,
        header: c_uint,
        len: c_uint,
    );
    pub(super) fn rnet_frames_send(
        frames: *mut CFrames,
        count: usize,
        sock: *mut bindings::socket,
    ) -> c_int;
    pub(super) fn rnet_buffers_send(
        buffers: *const CBuffer,
        n: usize,
        len: usize,
        sock: *mut bindings::socket,
    ) -> c_int;

    // mm/page_alloc.c
    pub(super) fn page_frag_free(addr: *mut c_void);

    // drivers/net/tun.c, drivers/net/tap.c
    pub(super) fn tun_get_socket(file: *mut bindings::file) -> *mut bindings::socket;
    pub(super) fn tun_get_tx_ring(file: *mut bindings::file) -> *mut CPtrRing;
    pub(super) fn tun_ptr_free(packet: *mut c_void);
    pub(super) fn tap_get_socket(file: *mut bindings::file) -> *mut bindings::socket;
    pub(super) fn tap_get_ptr_ring(file: *mut bindings::file) -> *mut CPtrRing;

    // kernel/vhost_task.c
    pub(super) fn vhost_task_create(
        run: unsafe extern "C" fn(*mut c_void) -> bool,
        killed: unsafe extern "C" fn(*mut c_void),
        arg: *mut c_void,
        name: *const c_char,
    ) -> *mut CVhostTask;
    pub(super) fn vhost_task_start(task: *mut CVhostTask);
    pub(super) fn vhost_task_stop(task: *mut CVhostTask);
    pub(super) fn vhost_task_wake(task: *mut CVhostTask);

    // net/socket.c
    pub(super) fn sock_from_file(file: *mut bindings::file) -> *mut bindings::socket;
}
