// SPDX-License-Identifier: GPL-2.0

//! Network interfaces and packet sockets.

use super::check;
use super::ioctl::{Request, call};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The level of a packet socket's options.
pub(crate) const SOL_PACKET: i32 = 263;

const TUN: u8 = b'T';
const TUN_SET_IFF: Request<IfRequest> = Request::plain(Request::<i32>::write(TUN, 202).number());
const TUN_GET_FEATURES: Request<i32> = Request::read(TUN, 207);
const TUN_SET_OFFLOAD: Request<()> = Request::plain(Request::<u32>::write(TUN, 208).number());
const TUN_SET_SNDBUF: Request<i32> = Request::write(TUN, 212);
const TUN_SET_QUEUE: Request<IfRequest> = Request::plain(Request::<i32>::write(TUN, 217).number());
const TUN_SET_HDR_SIZE: Request<i32> = Request::write(TUN, 216);
const GET_IF_INDEX: Request<IfRequest> = Request::plain(0x8933);
const GET_IF_FLAGS: Request<IfRequest> = Request::plain(0x8913);
const SET_IF_FLAGS: Request<IfRequest> = Request::plain(0x8914);
const SET_IF_MTU: Request<IfRequest> = Request::plain(0x8922);
const SET_IF_QUEUE_LENGTH: Request<IfRequest> = Request::plain(0x8943);

/// `struct ifreq`, with the part of its union that is used here.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct IfRequest {
    name: [u8; 16],
    value: [u8; 24],
}

impl IfRequest {
    fn new(name: &str) -> Self {
        let mut request = Self {
            name: [0; 16],
            value: [0; 24],
        };
        for (to, from) in request.name.iter_mut().take(15).zip(name.bytes()) {
            *to = from;
        }
        request
    }

    fn set(mut self, bytes: &[u8]) -> Self {
        for (to, from) in self.value.iter_mut().zip(bytes) {
            *to = *from;
        }
        self
    }

    fn int(&self) -> i32 {
        i32::from_ne_bytes([self.value[0], self.value[1], self.value[2], self.value[3]])
    }
}

/// Attaches a descriptor of the tun driver to the interface `name`, made if it is missing.
pub(crate) fn tun_attach(fd: BorrowedFd<'_>, name: &str, flags: i32) -> io::Result<()> {
    // CAST: interface flags are a 16-bit field.
    let mut request = IfRequest::new(name).set(&(flags as u16).to_ne_bytes());
    call(fd, TUN_SET_IFF, &mut request)?;
    Ok(())
}

/// The flags that the tun driver knows.
pub(crate) fn tun_features(fd: BorrowedFd<'_>) -> io::Result<i32> {
    let mut flags = 0;
    call(fd, TUN_GET_FEATURES, &mut flags)?;
    Ok(flags)
}

/// Attaches a queue to its interface of several again, or detaches it for now.
pub(crate) fn tun_set_queue(fd: BorrowedFd<'_>, attach: bool) -> io::Result<()> {
    let flags: u16 = if attach { 0x0200 } else { 0x0400 };
    call(
        fd,
        TUN_SET_QUEUE,
        &mut IfRequest::new("").set(&flags.to_ne_bytes()),
    )?;
    Ok(())
}

/// Sets the size of the virtio-net header that goes before each frame.
pub(crate) fn tun_header_size(fd: BorrowedFd<'_>, mut size: i32) -> io::Result<()> {
    call(fd, TUN_SET_HDR_SIZE, &mut size)?;
    Ok(())
}

/// Limits how much memory frames in flight may take.
pub(crate) fn tun_send_buffer(fd: BorrowedFd<'_>, mut size: i32) -> io::Result<()> {
    call(fd, TUN_SET_SNDBUF, &mut size)?;
    Ok(())
}

/// Tells the interface which offloads the guest takes.
pub(crate) fn tun_offload(fd: BorrowedFd<'_>, offloads: u32) -> io::Result<()> {
    // SAFETY: this call takes its argument by value, in place of the pointer.
    check(unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            TUN_SET_OFFLOAD.number(),
            u64::from(offloads),
        )
    })?;
    Ok(())
}

/// Opens a socket with the close-on-exec flag.
///
/// # Errors
///
/// What the kernel answers.
pub fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only.
    let fd = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the kernel just made this descriptor for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn control() -> io::Result<OwnedFd> {
    socket(libc::AF_INET, libc::SOCK_DGRAM, 0)
}

/// The index of an interface.
pub(crate) fn if_index(name: &str) -> io::Result<i32> {
    let mut request = IfRequest::new(name);
    call(control()?.as_fd(), GET_IF_INDEX, &mut request)?;
    Ok(request.int())
}

/// Brings an interface up with the given MTU.
pub(crate) fn if_up(name: &str, mtu: i32) -> io::Result<()> {
    let fd = control()?;
    call(
        fd.as_fd(),
        SET_IF_MTU,
        &mut IfRequest::new(name).set(&mtu.to_ne_bytes()),
    )?;
    let mut request = IfRequest::new(name);
    call(fd.as_fd(), GET_IF_FLAGS, &mut request)?;
    let up = request.value[0] | 1;
    request.value[0] = up;
    call(fd.as_fd(), SET_IF_FLAGS, &mut request)?;
    Ok(())
}

/// Whether an interface is up and has a link.
pub(crate) fn if_running(name: &str) -> io::Result<bool> {
    let mut request = IfRequest::new(name);
    call(control()?.as_fd(), GET_IF_FLAGS, &mut request)?;
    Ok(request.value[0] & 0x40 != 0)
}

/// Sets how many frames an interface keeps until they are sent.
pub(crate) fn if_queue_length(name: &str, frames: i32) -> io::Result<()> {
    call(
        control()?.as_fd(),
        SET_IF_QUEUE_LENGTH,
        &mut IfRequest::new(name).set(&frames.to_ne_bytes()),
    )?;
    Ok(())
}

/// Binds a packet socket to an interface.
pub(crate) fn packet_bind(fd: BorrowedFd<'_>, if_index: i32, ethertype: u16) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        // CAST: the family is a small positive constant.
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: if_index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // CAST: the size of the structure is 20.
    let len = size_of_val(&address) as u32;
    // SAFETY: the pointer is to a live `sockaddr_ll` of the length given.
    check(unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) })?;
    Ok(())
}

/// `struct tpacket_req`.
#[repr(C)]
struct RingRequest {
    block_size: u32,
    block_count: u32,
    frame_size: u32,
    frame_count: u32,
}

/// Gives a packet socket a receive ring of `count` blocks, each of `size` bytes of kernel memory.
pub(crate) fn packet_ring(fd: BorrowedFd<'_>, size: u32, count: u32) -> io::Result<()> {
    const PACKET_RX_RING: i32 = 5;
    let request = RingRequest {
        block_size: size,
        block_count: count,
        frame_size: size,
        frame_count: count,
    };
    let pointer = std::ptr::from_ref(&request).cast();
    // CAST: the size of the structure is 16.
    let len = size_of_val(&request) as u32;
    // SAFETY: the pointer is to a live `tpacket_req` of the length given.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), SOL_PACKET, PACKET_RX_RING, pointer, len) })?;
    Ok(())
}

/// Sets an integer socket option.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let pointer = std::ptr::from_ref(&value).cast();
    // SAFETY: the pointer is to a live integer of the length given.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, pointer, 4) })?;
    Ok(())
}

/// The error that waits to be told of, which it is by this; zero for none.
pub(crate) fn take_error(fd: BorrowedFd<'_>) -> io::Result<i32> {
    let (mut value, mut len) = (0i32, 4);
    let pointer = std::ptr::from_mut(&mut value).cast();
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ERROR);
    // SAFETY: the pointers are to a live integer and its length.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, pointer, &mut len) })?;
    Ok(value)
}

/// Sends one datagram without waiting.
pub(crate) fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are those of a live slice.
    let sent = unsafe {
        libc::send(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Receives one datagram without waiting, and its full length.
pub(crate) fn receive(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are those of an exclusively borrowed slice.
    let got = unsafe {
        libc::recv(
            fd.as_raw_fd(),
            bytes.as_mut_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_TRUNC,
        )
    };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}
