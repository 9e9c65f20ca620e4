// SPDX-License-Identifier: GPL-2.0

//! The backend of a queue: the tap (or packet socket) its packets go to or come from.

use kernel::prelude::*;

use crate::kapi::{Poller, Socket};
use crate::worker::Waker;

/// A socket, and the wait for it to have packets or room.
///
/// A busy queue does not wait: each packet would cost its sender a wake-up that changes nothing.
pub(crate) struct Backend {
    pub(crate) socket: Socket,
    /// Whether the tap has refused a frame in pages, for how it is made.
    pub(crate) refuses_pages: bool,
    poller: Poller<Waker>,
    /// Whether the socket has been waited for.
    in_use: bool,
}

impl Backend {
    /// The backend behind `fd` of the caller, waiting for `events` on behalf of `waker`'s queue.
    ///
    /// # Errors
    ///
    /// `ENOTSOCK` for a file that is neither a tap nor a raw packet socket, `ENOMEM`.
    pub(crate) fn from_fd(fd: i32, events: u32, waker: Waker) -> Result<Self> {
        let fd = u32::try_from(fd).map_err(|_| ENOTSOCK)?;
        let socket = Socket::from_fd(fd)?;
        let poller = Poller::new(socket.file().clone(), events, waker)?;
        Ok(Self {
            socket,
            refuses_pages: false,
            poller,
            in_use: false,
        })
    }

    /// Hands what the socket becomes ready for to another waker.
    pub(crate) fn set_waker(&mut self, waker: Waker) {
        self.poller.set_waker(waker);
    }

    /// Wakes the queue when the socket is ready, at once if it is now. Does nothing if armed: the
    /// queue has been woken for every event since.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the socket's device is gone, or, the first time, a packet socket's link is down
    /// or was since its last use, as vhost-net answers. Later that passes with the link's return.
    #[inline]
    pub(crate) fn arm(&mut self) -> Result {
        if self.poller.is_armed() {
            return Ok(());
        }
        self.join()
    }

    fn join(&mut self) -> Result {
        let mut armed = self.poller.arm();
        if armed.is_err() && self.in_use && self.socket.take_error() {
            armed = self.poller.arm();
        }
        self.in_use |= armed.is_ok();
        armed
    }

    /// No longer wakes the queue.
    pub(crate) fn disarm(&mut self) {
        self.poller.disarm();
    }
}
