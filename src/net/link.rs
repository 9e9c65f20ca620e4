// SPDX-License-Identifier: GPL-2.0

//! The target of a network queue: the tap or packet socket that it sends to or receives from.

use kernel::prelude::*;

use super::direction::Direction;
use crate::kapi::{InterfaceName, PollFile, Socket, ENOTSOCK};
use crate::vhost::queues::Target;

/// A tap or packet socket.
pub(crate) struct Link {
    pub(crate) socket: Socket,
    /// The tap has refused a frame in pages, which depends on how the tap was configured.
    pub(crate) refuses_pages: bool,
}

impl Target for Link {
    /// Looks up the socket behind `fd`.
    ///
    /// # Errors
    ///
    /// `ENOTSOCK` for a file that is neither a tap nor a raw packet socket, `ENOMEM`.
    fn from_fd(fd: i32, _index: usize) -> Result<Self> {
        let fd = u32::try_from(fd).map_err(|_| ENOTSOCK)?;
        Ok(Self {
            socket: Socket::from_fd(fd)?,
            refuses_pages: false,
        })
    }

    fn file(&self) -> &PollFile {
        self.socket.file()
    }

    fn events(index: usize) -> u32 {
        Direction::of(index).map_or(0, Direction::backend_event)
    }

    fn event_name(index: usize) -> &'static str {
        match Direction::of(index) {
            Some(Direction::Rx) => "packet",
            Some(Direction::Tx) | None => "room",
        }
    }

    fn is(&self, other: &Self) -> bool {
        self.socket.is(&other.socket)
    }

    fn kind(&self) -> &'static str {
        self.socket.kind()
    }

    fn interface(&self) -> Option<InterfaceName> {
        self.socket.interface()
    }

    fn take_error(&self) -> bool {
        self.socket.take_error()
    }
}
