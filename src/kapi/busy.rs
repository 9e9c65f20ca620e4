// SPDX-License-Identifier: GPL-2.0

//! Busy polling for a short time, while no other task wants the CPU.
//!
//! C headers: `include/linux/sched.h`, `include/linux/processor.h`.

use kernel::current;
use kernel::processor::cpu_relax;
use kernel::time::{Delta, Instant, Monotonic};

use super::shim;

/// The longest time from a round's first wait to the end of its last.
///
/// It limits what the owner asks for, since the queue's mutex is held.
const MAX_TOTAL: Delta = Delta::from_millis(100);

/// The time that a round may spend busy polling.
pub(crate) struct BusyTime {
    /// The longest single wait, in microseconds.
    wait: u32,
    /// When the round began its first wait.
    first: Option<Instant<Monotonic>>,
}

/// A single wait.
pub(crate) struct BusyPoll {
    start: Instant<Monotonic>,
    limit: Delta,
    /// The round's time ends before this wait's own.
    cut: bool,
}

/// The result of a wait.
pub(crate) enum Polled {
    /// There is work.
    Work,
    /// There is no work, within the time that a wait may take.
    Nothing,
    /// There is no work so far, and the round has no time left: another round may go on waiting.
    Cut,
}

impl BusyTime {
    /// Makes the time of a round whose waits take up to `wait` microseconds each.
    #[inline]
    pub(crate) fn new(wait: u32) -> Self {
        Self { wait, first: None }
    }

    /// Whether the round is to wait at all.
    #[inline]
    pub(crate) fn is_wanted(&self) -> bool {
        self.wait != 0
    }

    /// Begins a wait.
    pub(crate) fn poll(&mut self) -> BusyPoll {
        let start = Instant::now();
        let first = *self.first.get_or_insert(start);
        let wait = Delta::from_micros(i64::from(self.wait));
        let left = MAX_TOTAL - (start - first);
        let cut = left < wait;
        BusyPoll {
            start,
            limit: if cut { left } else { wait },
            cut,
        }
    }
}

impl BusyPoll {
    /// Relaxes the CPU, then tells whether to look for work once more (`vhost_can_busy_poll()`).
    ///
    /// That is so while the time is not over, no other task wants the CPU, and no signal is
    /// pending.
    #[inline]
    pub(crate) fn goes_on(&self) -> bool {
        cpu_relax();
        !need_resched() && self.is_in_time() && !current!().signal_pending()
    }

    /// The result of a wait that has found no work.
    pub(crate) fn ended(&self) -> Polled {
        match self.cut && !self.is_in_time() {
            true => Polled::Cut,
            false => Polled::Nothing,
        }
    }

    #[inline]
    fn is_in_time(&self) -> bool {
        self.start.elapsed() <= self.limit
    }
}

/// Whether another task waits for this CPU.
#[inline]
fn need_resched() -> bool {
    // SAFETY: only reads a flag of the current task.
    unsafe { shim::rnet_need_resched() }
}
