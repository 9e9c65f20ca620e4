// SPDX-License-Identifier: GPL-2.0

//! The backend of a queue: its target, and the events and the timer that wake the queue.

use kernel::prelude::*;
use kernel::sync::Arc;

use super::queues::{Queues, Target};
use super::worker::{Counted, Waker};
use crate::kapi::{Counter, Poller, Timer};

/// The first delay before a queue retries what has failed, in milliseconds.
const FIRST_DELAY: u32 = 1;
/// The longest delay before a retry, in milliseconds.
///
/// It is short enough to notice soon when a retry can succeed. Four tries a second have no
/// measurable cost.
const LONGEST_DELAY: u32 = 256;
/// Time after which an idle queue gives back memory, in milliseconds.
const IDLE: u32 = 1000;

/// The target that a queue is started on, with the events of its file and the timer that wake the
/// queue.
///
/// The timer is for conditions that no event announces.
///
/// A busy queue does not wait for events: each would cost its sender a wake-up to no effect.
pub(crate) struct Backend<Q: Queues> {
    pub(crate) target: Q::Target,
    poller: Poller<Counted>,
    /// The number of the file's events.
    count: Arc<Counter>,
    timer: Timer<Waker>,
    /// Whether the poller has been armed on the file before.
    in_use: bool,
    /// The delay before the last retry, in milliseconds; 0 if there is nothing to retry.
    delay: u32,
    /// The owner has been told of a fault, and no round has succeeded since.
    failing: bool,
    /// The packet count of the queue at the last check for idleness.
    packets: u64,
}

impl<Q: Queues> Backend<Q> {
    /// Looks up the target `fd` in the caller's file table, for queue `index`, which `waker` wakes;
    /// `count` counts the events of its file.
    ///
    /// # Errors
    ///
    /// Those of [`Target::from_fd`], `ENOMEM`.
    pub(crate) fn from_fd(
        fd: i32,
        index: usize,
        waker: Waker,
        count: Arc<Counter>,
    ) -> Result<Self> {
        let target = Q::Target::from_fd(fd, index)?;
        let timer = Timer::new(waker.clone())?;
        let events = Q::Target::events(index);
        let waker = Counted::new(waker, count.clone());
        let poller = Poller::new(target.file().clone(), events, waker)?;
        Ok(Self {
            target,
            poller,
            count,
            timer,
            in_use: false,
            delay: 0,
            failing: false,
            packets: 0,
        })
    }

    /// Replaces the waker and the timer, which both have to wake the same queue as before.
    pub(crate) fn set_waker(&mut self, waker: Waker, timer: Timer<Waker>) {
        self.poller
            .set_waker(Counted::new(waker, self.count.clone()));
        // The new worker is woken for the queue, and starts the timer again if it needs it.
        self.timer = timer;
    }

    /// Arms the backend to wake the queue when the file is ready, at once if it is ready now.
    ///
    /// Does nothing if armed already: the queue has been woken for every event since.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the socket's device is gone. The first time also when the link of a packet
    /// socket is down, or has been down since its last use, as with vhost-net. Later, that error
    /// ends when the link is up again.
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

    /// Whether the queue waits for an event of the file.
    pub(crate) fn is_armed(&mut self) -> bool {
        self.poller.is_armed()
    }

    /// Whether the queue waits for the timer, to retry what has failed.
    pub(crate) fn is_retrying(&self) -> bool {
        self.delay != 0 && self.timer.is_running()
    }

    /// Stops waking the queue for events of the file.
    pub(crate) fn disarm(&mut self) {
        self.poller.disarm();
    }

    /// Starts the timer to wake the queue, with a delay that grows with each consecutive call.
    pub(crate) fn retry_later(&mut self) {
        self.delay = match self.delay {
            0 => FIRST_DELAY,
            delay => delay.saturating_mul(2).min(LONGEST_DELAY),
        };
        self.timer.start(self.delay);
    }

    /// Records a round without trouble.
    #[inline]
    pub(crate) fn went_well(&mut self) {
        self.delay = 0;
        self.failing = false;
    }

    /// Records a fault; returns whether it is the first one since a round without trouble.
    pub(crate) fn is_news(&mut self) -> bool {
        !core::mem::replace(&mut self.failing, true)
    }

    /// Whether the queue has been idle, and may give back memory.
    ///
    /// It is idle when it has moved no packet for one to two seconds; `packets` returns its packet
    /// count. The end of each round that leaves the queue waiting has to call this, as long as the
    /// queue has memory to give back.
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
