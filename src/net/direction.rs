// SPDX-License-Identifier: GPL-2.0

//! The two queues of a device.

use crate::kapi::{POLLIN, POLLOUT};

/// The index of the receive queue.
pub(crate) const RX: usize = Direction::Rx.index();
/// The index of the transmit queue.
pub(crate) const TX: usize = Direction::Tx.index();

/// Which queue of a pair this is, named from the guest's point of view.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Packets for the guest.
    Rx,
    /// Packets from the guest.
    Tx,
}

impl Direction {
    /// The index of the queue in every ioctl.
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Rx => 0,
            Self::Tx => 1,
        }
    }

    /// The queue with index `index`, if there is one.
    pub(crate) const fn of(index: usize) -> Option<Self> {
        match index {
            0 => Some(Self::Rx),
            1 => Some(Self::Tx),
            _ => None,
        }
    }

    /// The name of the queue in logs and statistics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rx => "rx",
            Self::Tx => "tx",
        }
    }

    /// The backend event that the queue waits for.
    pub(crate) const fn backend_event(self) -> u32 {
        match self {
            Self::Rx => POLLIN,
            Self::Tx => POLLOUT,
        }
    }
}
