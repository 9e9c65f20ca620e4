// SPDX-License-Identifier: GPL-2.0

//! The backend of a queue: what it is started on, and what wakes it.

use kernel::prelude::*;

use super::queues::{Queues, Target};
use super::worker::Waker;
use crate::kapi::{Poller, Timer};

/// The first delay before a queue tries again what has failed, in milliseconds.
const FIRST_DELAY: u32 = 1;
/// The longest delay, in milliseconds: what comes back is noticed soon, and four tries a second cost
/// nothing that could be measured.
const LONGEST_DELAY: u32 = 256;
/// How long a queue keeps memory that it does not use, in milliseconds.
const IDLE: u32 = 1000;

/// What a queue is started on, and what wakes it: events of its file, or a timer where nothing tells.
///
/// A busy queue does not wait for events: each would cost who causes it a wake-up that changes nothing.
pub(crate) struct Backend<Q: Queues> {
    pub(crate) target: Q::Target,
    poller: Poller<Waker>,
    timer: Timer<Waker>,
    /// Whether the file has been waited for.
    in_use: bool,
    /// The delay before the last try, in milliseconds; 0 if there is nothing to try again.
    delay: u32,
    /// The owner has been told of a fault, and no round has gone well since.
    failing: bool,
    /// Packets that the queue had had when it was last asked whether it is idle.
    packets: u64,
}

impl<Q: Queues> Backend<Q> {
    /// The backend behind `fd` of the caller, for queue `index`, which `waker` wakes.
    ///
    /// # Errors
    ///
    /// Those of [`Target::from_fd`], `ENOMEM`.
    pub(crate) fn from_fd(fd: i32, index: usize, waker: Waker) -> Result<Self> {
        let target = Q::Target::from_fd(fd, index)?;
        let timer = Timer::new(waker.clone())?;
        let events = Q::Target::events(index);
        let poller = Poller::new(target.file().clone(), events, waker)?;
        Ok(Self {
            target,
            poller,
            timer,
            in_use: false,
            delay: 0,
            failing: false,
            packets: 0,
        })
    }

    /// Hands what the file becomes ready for to another waker, and `timer`, which wakes the same
    /// queue, what the old timer was to do.
    pub(crate) fn set_waker(&mut self, waker: Waker, timer: Timer<Waker>) {
        self.poller.set_waker(waker);
        // The queue is woken for its new worker, and starts the timer again if it needs it.
        self.timer = timer;
    }

    /// Wakes the queue when the file is ready, at once if it is now. Does nothing if armed: the
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
        if armed.is_err() && self.in_use && self.target.take_error() {
            armed = self.poller.arm();
        }
        self.in_use |= armed.is_ok();
        armed
    }

    /// No longer wakes the queue for the file.
    pub(crate) fn disarm(&mut self) {
        self.poller.disarm();
    }

    /// Wakes the queue after a while, longer each time in a row.
    pub(crate) fn retry_later(&mut self) {
        self.delay = match self.delay {
            0 => FIRST_DELAY,
            delay => delay.saturating_mul(2).min(LONGEST_DELAY),
        };
        self.timer.start(self.delay);
    }

    /// Takes note of a round that has met no trouble.
    #[inline]
    pub(crate) fn went_well(&mut self) {
        self.delay = 0;
        self.failing = false;
    }

    /// Takes note of a fault; whether it is the first one since a round went well.
    pub(crate) fn is_news(&mut self) -> bool {
        !core::mem::replace(&mut self.failing, true)
    }

    /// Whether the queue may give back memory: for a second, or nearly two, it has moved no packet, of
    /// which it has had `packets` so far. Asked at the end of each round that leaves the queue waiting,
    /// while it has such memory.
    #[inline]
    pub(crate) fn is_idle(&mut self, packets: impl FnOnce() -> u64) -> bool {
        !self.timer.is_running() && self.is_late(packets())
    }

    fn is_late(&mut self, packets: u64) -> bool {
        let moved = core::mem::replace(&mut self.packets, packets) != packets;
        if self.timer.take_expired() && !moved {
            return true;
        }
        self.timer.start(IDLE);
        false
    }
}
