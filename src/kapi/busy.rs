// SPDX-License-Identifier: GPL-2.0

//! Waiting without sleep, for a short time and while nobody else wants the CPU.
//!
//! C headers: `include/linux/sched.h`, `include/linux/processor.h`.

use kernel::current;
use kernel::processor::cpu_relax;
use kernel::time::{Delta, Instant, Monotonic};

use super::shim;

/// The longest that a round spends so, from the beginning of its first wait on, whatever the owner
/// wants: the queue's mutex is held.
const MAX_TOTAL: Delta = Delta::from_millis(100);

/// The time that a round may spend looking again and again.
pub(crate) struct BusyTime {
    /// The longest single wait, in microseconds.
    wait: u32,
    /// When the round waited first.
    first: Option<Instant<Monotonic>>,
}

/// A single wait.
pub(crate) struct BusyPoll {
    start: Instant<Monotonic>,
    limit: Delta,
    /// The round's time ends before the wait's own.
    cut: bool,
}

/// What a wait has led to.
pub(crate) enum Polled {
    /// There is work.
    Work,
    /// There is none, in the time that a wait may take.
    Nothing,
    /// There is none so far, but the round has waited long enough: another one may go on.
    Cut,
}

impl BusyTime {
    /// The time of a round whose waits take up to `wait` microseconds each.
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
    /// Whether to look once more: the time is not over, no other task wants the CPU, and no signal
    /// is pending (`vhost_can_busy_poll()`). Lets the CPU relax first.
    #[inline]
    pub(crate) fn goes_on(&self) -> bool {
        cpu_relax();
        !need_resched() && self.is_in_time() && !current!().signal_pending()
    }

    /// How a wait has ended that found nothing.
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

/// Whether another task waits for the CPU that this one has.
#[inline]
fn need_resched() -> bool {
    // SAFETY: looks at a flag of the current task.
    unsafe { shim::rnet_need_resched() }
}
