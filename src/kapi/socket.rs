// SPDX-License-Identifier: GPL-2.0

//! The socket behind a backend: a tap's, or a raw packet socket.
//!
//! C headers: `include/linux/net.h`, `include/linux/if_tun.h`, `include/linux/if_tap.h`.

use core::ptr::{null, null_mut, NonNull};

use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::fs::LocalFile;
use kernel::prelude::*;
use vring::Segment;

use super::poller::PollFile;
use super::ring::{Packet, Ring};
use super::shim;
use super::tun;

/// A socket that carries Ethernet frames, or a tun's that carries IP packets.
///
/// # Invariants
///
/// `sock` belongs to `file`, which keeps it alive. If `tap`, it is one of tun's or tap's, which
/// take the messages of `include/linux/if_tun.h`.
pub(crate) struct Socket {
    file: PollFile,
    sock: NonNull<bindings::socket>,
    tap: bool,
    /// A tap's, and what is sent are Ethernet frames, as far as could be found out.
    ethernet_tap: bool,
    /// A tap's. Boxed, for it holds a batch of packets, and sockets are moved.
    ring: Option<KBox<Ring>>,
}

// SAFETY: the file keeps the socket alive from whatever thread, and sockets lock themselves.
unsafe impl Send for Socket {}
// SAFETY: as above; what is not safe to share takes `&mut self`.
unsafe impl Sync for Socket {}

/// What a socket is like to send to; it may change at any time.
pub(crate) struct SendState {
    /// Whether frames can be sent through [`Frames`](super::Frames): a tap whose send buffer is not
    /// limited, since that interface does not account for it, and that carries Ethernet frames, since
    /// it takes packets for such.
    pub(crate) takes_frames: bool,
    /// Whether the tap runs XDP programs on what it is sent.
    pub(crate) has_xdp: bool,
}

impl Socket {
    /// Looks up `fd`, once, in the caller's table: a tap's file or an `AF_PACKET` `SOCK_RAW` socket.
    ///
    /// # Errors
    ///
    /// `ENOTSOCK` for anything else, as vhost-net answers, and `ENOMEM`.
    pub(crate) fn from_fd(fd: u32) -> Result<Self> {
        let file = LocalFile::fget(fd).map_err(|_| ENOTSOCK)?;
        // SAFETY: the file is open, as for the calls below.
        if let Some(sock) = NonNull::new(unsafe { shim::sock_from_file(file.as_ptr()) }) {
            // SAFETY: the file keeps its socket alive.
            if !unsafe { shim::rnet_sock_is_packet_raw(sock.as_ptr()) } {
                return Err(ENOTSOCK);
            }
            // SAFETY: a socket is no regular file, and its wait queue is in its inode, which the
            // file keeps.
            let file = unsafe { PollFile::new(file) };
            // INVARIANT: the socket is the file's, and no tap's.
            return Ok(Self {
                file,
                sock,
                tap: false,
                ethernet_tap: false,
                ring: None,
            });
        }
        // SAFETY: the function looks at what kind of file it is first.
        let (sock, ethernet) = match from_err_ptr(unsafe { shim::tun_get_socket(file.as_ptr()) }) {
            // Else packets go one by one, which tun takes for what they are.
            Ok(sock) => (sock, tun::is_ethernet(&file).unwrap_or(false)),
            Err(_) => {
                // SAFETY: as above.
                let sock = from_err_ptr(unsafe { shim::tap_get_socket(file.as_ptr()) });
                (sock.map_err(|_| ENOTSOCK)?, true)
            }
        };
        let sock = NonNull::new(sock).ok_or(ENOTSOCK)?;
        // SAFETY: a tap is a character device, and its wait queue is in its socket, which the file
        // keeps.
        let file = unsafe { PollFile::new(file) };
        let ring = KBox::init(Ring::of_tap(file.clone())?, GFP_KERNEL)?;
        // INVARIANT: the socket is the file's, and a tap's.
        Ok(Self {
            file,
            sock,
            tap: true,
            ethernet_tap: ethernet,
            ring: Some(ring),
        })
    }

    /// The file, for its events.
    pub(crate) fn file(&self) -> &PollFile {
        &self.file
    }

    /// Whether both are the same socket.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.sock == other.sock
    }

    /// Forgets the error that the socket keeps for its next user, such as that its link went down.
    /// `false` if there was none.
    pub(crate) fn take_error(&self) -> bool {
        // SAFETY: the socket is alive.
        unsafe { shim::rnet_sock_error(self.as_ptr()) != 0 }
    }

    /// What the socket is like to send to.
    #[inline]
    pub(crate) fn send_state(&self) -> SendState {
        // SAFETY: the socket is alive.
        let state = unsafe { shim::rnet_sock_send_state(self.as_ptr()) };
        SendState {
            takes_frames: self.ethernet_tap && state & shim::RNET_SOCK_UNLIMITED != 0,
            has_xdp: state & shim::RNET_SOCK_XDP != 0,
        }
    }

    /// Sends one packet from user memory: the segments, of `len` bytes together, without their
    /// first `skip` bytes. Does not wait.
    ///
    /// # Errors
    ///
    /// Those of the socket. `EAGAIN` says to try again when there is room, `EFAULT` that the memory
    /// could not be read. `ENOBUFS` and `ENOMEM` are a tap's word for want of memory; of a packet
    /// socket they may also say that the packet has been dropped on its way out.
    pub(crate) fn send(&self, segments: &[Segment], len: usize, skip: usize) -> Result {
        // SAFETY: the socket is alive. C copies from the segments' user addresses and handles any.
        let ret = unsafe {
            shim::rnet_sock_send(
                self.as_ptr(),
                segments.as_ptr(),
                segments.len(),
                len,
                skip.min(len),
            )
        };
        kernel::error::to_result(ret.min(0))
    }

    /// Whether there is a packet to be received.
    pub(crate) fn has_packet(&mut self) -> bool {
        match &mut self.ring {
            Some(ring) => ring.backlog() != 0,
            None => self.queued_len() != 0,
        }
    }

    /// Number of packets known to wait, up to 64; `None` from a socket that does not tell.
    #[inline]
    pub(crate) fn backlog(&mut self) -> Option<usize> {
        self.ring.as_mut().map(|ring| ring.backlog())
    }

    /// Whether there are packets left of those that have been found to wait.
    #[inline]
    pub(crate) fn has_left(&self) -> bool {
        self.ring.as_ref().is_some_and(|ring| ring.has_left())
    }

    /// Length in bytes of the packet that [`Socket::receive`] is to receive, without header.
    #[inline]
    pub(crate) fn next_len(&mut self) -> Option<usize> {
        match &mut self.ring {
            Some(ring) => ring.next_len(),
            None => Some(self.queued_len()).filter(|len| *len != 0),
        }
    }

    /// Takes the packet that [`Socket::next_len`] has told of.
    #[inline]
    fn take(&mut self) -> Option<Packet> {
        match &mut self.ring {
            Some(ring) => ring.take(),
            None => Some(Packet::QUEUED),
        }
    }

    /// Length in bytes of the next packet in the queue of a socket without a ring; 0 if there is none.
    fn queued_len(&self) -> usize {
        // SAFETY: the socket is alive.
        unsafe { shim::rnet_sock_peek_len(self.as_ptr()) }
    }

    /// Receives a packet into user memory: `len` bytes of the segments, behind their first `skip`
    /// bytes. Does not wait. Gives the packet's length in bytes, with the header that the socket puts
    /// before it.
    ///
    /// # Errors
    ///
    /// Those of the socket; the packet is gone. `EFAULT` when the memory could not be written, also where
    /// a tap does not tell. `EAGAIN` when [`Socket::next_len`] has not told of a packet, or it has been
    /// received by somebody else.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        segments: &[Segment],
        skip: usize,
        len: usize,
    ) -> Result<usize> {
        let packet = self.take().ok_or(EAGAIN)?;
        // SAFETY: the socket is alive and takes over the packet, if it is one of the tap's, which
        // came from its own ring. C copies to the segments' user addresses and handles any.
        let ret = unsafe {
            shim::rnet_sock_recv(
                self.as_ptr(),
                packet.into_raw(),
                segments.as_ptr(),
                segments.len(),
                skip,
                len,
            )
        };
        usize::try_from(ret).map_err(|_| Error::from_errno(ret))
    }

    /// Throws away the packet that [`Socket::next_len`] has told of.
    pub(crate) fn discard(&mut self) {
        if self.ring.is_none() {
            // SAFETY: the socket is alive; nothing is copied into an empty list.
            unsafe { shim::rnet_sock_recv(self.as_ptr(), null_mut(), null(), 0, 0, 0) };
        }
        drop(self.take());
    }

    /// Whether it is a tap's.
    #[inline]
    pub(crate) fn is_tap(&self) -> bool {
        self.tap
    }

    #[inline]
    pub(super) fn as_ptr(&self) -> *mut bindings::socket {
        self.sock.as_ptr()
    }
}
