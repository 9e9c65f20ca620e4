// SPDX-License-Identifier: GPL-2.0

//! The two queues of a device.

use crate::kapi::{POLLIN, POLLOUT};

/// Which queue of a pair, seen from the guest; its index in every ioctl.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Packets for the guest.
    Rx,
    /// Packets from the guest.
    Tx,
}

impl Direction {
    /// Name in logs and statistics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rx => "rx",
            Self::Tx => "tx",
        }
    }

    /// The event of the backend that lets the queue go on.
    pub(crate) const fn backend_event(self) -> u32 {
        match self {
            Self::Rx => POLLIN,
            Self::Tx => POLLOUT,
        }
    }
}
