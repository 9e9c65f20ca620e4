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

use super::compat::ENOTSOCK;
use super::packet::Packet;
use super::poller::PollFile;
use super::ring::Ring;
use super::shim;
use super::tun;

/// A socket that carries Ethernet frames, or that of a tun, which carries IP packets.
///
/// # Invariants
///
/// `sock` belongs to `file`, which keeps it alive. If `tap`, it is a socket of tun or tap, which
/// take the messages of `include/linux/if_tun.h`.
pub(crate) struct Socket {
    file: PollFile,
    sock: NonNull<bindings::socket>,
    tap: bool,
    /// The socket is a tap's, and is known to carry Ethernet frames.
    ethernet_tap: bool,
    /// The ring of a tap, boxed since it holds a batch of packets and sockets are moved.
    ring: Option<KBox<Ring>>,
    /// Whether the next packet of a socket without a ring was to be segmented, when it was looked at.
    queued_gso: bool,
}

// SAFETY: the file keeps the socket alive in any thread, and sockets lock themselves.
unsafe impl Send for Socket {}
// SAFETY: as above; operations that are not safe to share take `&mut self`.
unsafe impl Sync for Socket {}

/// Properties of a socket to send to, which may change at any time.
pub(crate) struct SendState {
    /// Whether frames can be sent through [`Frames`](super::Frames).
    ///
    /// That needs a tap whose send buffer is not limited, since the interface does not account for
    /// it. The tap has to carry Ethernet frames, since the interface takes every packet for one.
    pub(crate) takes_frames: bool,
    /// Whether the tap runs XDP programs on the packets sent to it.
    pub(crate) has_xdp: bool,
}

/// Room for the name of an interface, in bytes.
const IFNAMSIZ: usize = 16;

/// The name of an interface, ended by a zero.
pub(crate) struct InterfaceName([u8; IFNAMSIZ]);

impl kernel::fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        use kernel::fmt::Write;
        let name = self.0.iter().take_while(|byte| **byte != 0);
        for byte in name {
            // A name may have any other byte, but blanks and slashes.
            let shown = if byte.is_ascii_graphic() { *byte } else { b'?' };
            f.write_char(char::from(shown))?;
        }
        Ok(())
    }
}

impl Socket {
    /// Looks up `fd`, once, in the caller's file table, as a tap's file or an `AF_PACKET`
    /// `SOCK_RAW` socket.
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
                queued_gso: false,
            });
        }
        // SAFETY: the function checks the kind of the file first.
        let (sock, interface) = match from_err_ptr(unsafe { shim::tun_get_socket(file.as_ptr()) }) {
            // If the kind is unknown, packets are sent one by one, and tun handles either kind
            // then.
            Ok(sock) => (sock, Some(tun::interface(&file))),
            Err(_) => {
                // SAFETY: as above.
                let sock = from_err_ptr(unsafe { shim::tap_get_socket(file.as_ptr()) });
                (sock.map_err(|_| ENOTSOCK)?, None)
            }
        };
        let sock = NonNull::new(sock).ok_or(ENOTSOCK)?;
        let (is_ethernet, counts) = match interface {
            Some(Ok(interface)) => {
                // SAFETY: the file keeps its socket alive. The name ends with a zero.
                let index = unsafe {
                    shim::rnet_netdev_index(sock.as_ptr(), interface.name.as_ptr().cast())
                };
                (interface.is_ethernet, Some(index))
            }
            Some(Err(_)) => (false, Some(0)),
            // The interface of any other tap counts its packets before they reach the ring.
            None => (true, None),
        };
        // SAFETY: a tap is a character device, and its wait queue is in its socket, which the file
        // keeps.
        let file = unsafe { PollFile::new(file) };
        let ring = KBox::init(Ring::of_tap(file.clone(), sock, counts)?, GFP_KERNEL)?;
        // INVARIANT: the socket is the file's, and a tap's.
        Ok(Self {
            file,
            sock,
            tap: true,
            ethernet_tap: is_ethernet,
            ring: Some(ring),
            queued_gso: false,
        })
    }

    /// The file whose events can be waited for.
    pub(crate) fn file(&self) -> &PollFile {
        &self.file
    }

    /// What kind of backend it is.
    pub(crate) fn kind(&self) -> &'static str {
        match self.ring.as_ref().map(|ring| ring.tun_index()) {
            Some(Some(_)) if self.ethernet_tap => "tap",
            Some(Some(_)) => "tun",
            Some(None) => "macvtap",
            None => "packet",
        }
    }

    /// The name of its interface, which may change at any time; `None` when it has none, or that is
    /// not known.
    pub(crate) fn interface(&self) -> Option<InterfaceName> {
        let mut name = [0u8; IFNAMSIZ];
        let to = name.as_mut_ptr().cast();
        let by_index = |index, to| {
            // SAFETY: the socket is alive; there is room for a name.
            unsafe { shim::rnet_netdev_name(self.as_ptr(), index, to) }
        };
        let found = match self.ring.as_ref().map(|ring| ring.tun_index()) {
            Some(Some(index)) => by_index(index, to),
            // SAFETY: as above; with a ring that is no tun's, the socket is that of
            // `tap_get_socket()`.
            Some(None) => unsafe { shim::rnet_sock_tap_name(self.as_ptr(), to) },
            // SAFETY: the socket is alive.
            None => by_index(unsafe { shim::rnet_sock_packet_index(self.as_ptr()) }, to),
        };
        found.then_some(InterfaceName(name))
    }

    /// Whether `other` is the same socket.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.sock == other.sock
    }

    /// Clears the error that the socket keeps for its next user, such as that its link went down.
    ///
    /// Returns `false` if there was none.
    pub(crate) fn take_error(&self) -> bool {
        // SAFETY: the socket is alive.
        unsafe { shim::rnet_sock_error(self.as_ptr()) != 0 }
    }

    /// The properties of the socket to send to.
    #[inline]
    pub(crate) fn send_state(&self) -> SendState {
        // SAFETY: the socket is alive.
        let state = unsafe { shim::rnet_sock_send_state(self.as_ptr()) };
        SendState {
            takes_frames: self.ethernet_tap && state & shim::RNET_SOCK_UNLIMITED != 0,
            has_xdp: state & shim::RNET_SOCK_XDP != 0,
        }
    }

    /// Sends one packet from user memory, without waiting.
    ///
    /// The packet is the segments, of `len` bytes together, without their first `skip` bytes.
    ///
    /// # Errors
    ///
    /// Those of the socket. `EAGAIN` means to try again when there is room, `EFAULT` that the
    /// memory could not be read. From a tap, `ENOBUFS` and `ENOMEM` mean a lack of memory; from a
    /// packet socket they may also mean that the packet was dropped on its way out.
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

    /// Whether there is a packet to receive.
    pub(crate) fn has_packet(&mut self) -> bool {
        match &mut self.ring {
            Some(ring) => ring.backlog() != 0,
            None => self.queued_len() != 0,
        }
    }

    /// Number of packets known to wait, up to 64; `None` for a socket that does not report it.
    #[inline]
    pub(crate) fn backlog(&mut self) -> Option<usize> {
        self.ring.as_mut().map(|ring| ring.backlog())
    }

    /// Whether there are packets left in the current batch.
    #[inline]
    pub(crate) fn has_left(&self) -> bool {
        self.ring.as_ref().is_some_and(|ring| ring.has_left())
    }

    /// Length in bytes of the next packet for [`Socket::receive`], without header.
    #[inline]
    pub(crate) fn next_len(&mut self) -> Option<usize> {
        match &mut self.ring {
            Some(ring) => ring.next_len(),
            None => Some(self.queued_len()).filter(|len| *len != 0),
        }
    }

    /// Takes the packet that [`Socket::next_len`] has reported.
    #[inline]
    fn take(&mut self) -> Option<Packet> {
        match &mut self.ring {
            Some(ring) => ring.take(),
            None => Some(Packet::QUEUED),
        }
    }

    /// Length in bytes of the next packet in the queue of a socket without a ring, or 0.
    fn queued_len(&mut self) -> usize {
        // SAFETY: the socket is alive; C writes whether the packet is to be segmented.
        unsafe { shim::rnet_sock_peek_len(self.as_ptr(), &mut self.queued_gso) }
    }

    /// Whether the packet that [`Socket::next_len`] has reported is to be segmented.
    #[inline]
    pub(crate) fn next_is_gso(&self) -> bool {
        match &self.ring {
            Some(ring) => ring.next_is_gso(),
            None => self.queued_gso,
        }
    }

    /// Receives a packet into user memory, without waiting.
    ///
    /// It is written to `len` bytes of the segments, behind their first `skip` bytes. Returns the
    /// packet's length in bytes, including the header that the socket puts before it.
    ///
    /// # Errors
    ///
    /// Those of the socket; the packet is lost. `EFAULT` when the memory could not be written, even
    /// where a tap does not report that. `EAGAIN` when [`Socket::next_len`] has not reported a
    /// packet, or when another reader has received it.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        segments: &[Segment],
        skip: usize,
        len: usize,
    ) -> Result<usize> {
        let packet_len = self.ring.as_mut().and_then(|ring| ring.next_skb_len());
        let offloads = self.ring.as_ref().and_then(|ring| ring.next_offloads());
        let packet = self.take().ok_or(EAGAIN)?;
        // SAFETY: the socket is alive. It takes over the packet, which came from its own ring
        // unless it is null. C copies to the segments' user addresses and handles any.
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
        let received = usize::try_from(ret).map_err(|_| Error::from_errno(ret));
        if let (Some(ring), Some(packet_len)) = (&mut self.ring, packet_len) {
            let header = received.ok().and_then(|len| len.checked_sub(packet_len));
            ring.note_header(header);
            if let (Some(offloads), Some(1..)) = (&offloads, header) {
                ring.note_offloads(offloads, segments, skip);
            }
        }
        received
    }

    /// Writes the packet that [`Socket::next_len`] has reported to user memory, with a header made
    /// by `header`, if it is certain what the socket would write. Returns `false` if it is not, and
    /// if the memory could not be written; the packet is still the next one then.
    ///
    /// The socket's header has `sock` bytes. `header` gets whether the packet's checksum has been
    /// verified.
    #[inline]
    pub(crate) fn write<const N: usize>(
        &mut self,
        segments: &[Segment],
        sock: usize,
        header: impl FnOnce(bool) -> ([u8; N], usize),
    ) -> bool {
        let Some(packet) = self.ring.as_mut().and_then(|ring| ring.next_plain(sock)) else {
            return false;
        };
        let (header, len) = header(packet.is_verified());
        match header.get(..len) {
            Some(header) => packet.write(segments, header).is_ok(),
            None => false,
        }
    }

    /// Accounts for the packets that were written by [`Socket::write`], and frees them.
    pub(crate) fn settle(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.settle();
        }
    }

    /// Number of packets that [`Socket::write`] has written, since the last call, to be segmented.
    pub(crate) fn take_segmented(&mut self) -> usize {
        let ring = self.ring.as_mut();
        ring.map_or(0, |ring| ring.take_segmented())
    }

    /// Ends a round of [`Socket::write`]s, after which the tap's device may go away.
    pub(crate) fn leave(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.leave();
        }
    }

    /// Discards the packet that [`Socket::next_len`] has reported.
    pub(crate) fn discard(&mut self) {
        if self.ring.is_none() {
            // SAFETY: the socket is alive; nothing is copied into an empty list.
            unsafe { shim::rnet_sock_recv(self.as_ptr(), null_mut(), null(), 0, 0, 0) };
        }
        drop(self.take());
    }

    /// Whether the socket is a tap's.
    #[inline]
    pub(crate) fn is_tap(&self) -> bool {
        self.tap
    }

    #[inline]
    pub(super) fn as_ptr(&self) -> *mut bindings::socket {
        self.sock.as_ptr()
    }
}
