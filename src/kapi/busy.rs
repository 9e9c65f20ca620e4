// SPDX-License-Identifier: GPL-2.0

//! Waiting without sleep, for a short time and while nobody else wants the CPU.
//!
//! C headers: `include/linux/sched.h`, `include/linux/processor.h`.

use kernel::current;
use kernel::processor::cpu_relax;
use kernel::time::{Delta, Instant, Monotonic};

use super::shim;

/// A limited time for looking again and again.
pub(crate) struct BusyPoll {
    start: Instant<Monotonic>,
    limit: Delta,
}

impl BusyPoll {
    /// A time of `micros` microseconds from now.
    pub(crate) fn new(micros: u32) -> Self {
        Self {
            start: Instant::now(),
            limit: Delta::from_micros(i64::from(micros)),
        }
    }

    /// Whether to look once more: the time is not over, no other task wants the CPU, and no signal
    /// is pending (`vhost_can_busy_poll()`). Lets the CPU relax first.
    #[inline]
    pub(crate) fn goes_on(&self) -> bool {
        cpu_relax();
        !need_resched() && self.start.elapsed() <= self.limit && !current!().signal_pending()
    }
}

/// Whether another task waits for the CPU that this one has.
#[inline]
fn need_resched() -> bool {
    // SAFETY: looks at a flag of the current task.
    unsafe { shim::rnet_need_resched() }
}
