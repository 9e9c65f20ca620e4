// SPDX-License-Identifier: GPL-2.0

//! A one-shot timer that wakes a worker.
//!
//! The timer itself is that of `rust/kernel/time/hrtimer.rs`. Dropping its handle cancels it, so
//! that no callback outlives the module.

use kernel::impl_has_hr_timer;
use kernel::prelude::*;
use kernel::sync::{Arc, ArcBorrow};
use kernel::time::hrtimer::{
    ArcHrTimerHandle, HrTimer, HrTimerCallback, HrTimerCallbackContext, HrTimerPointer,
    HrTimerRestart, RelativeMode,
};
use kernel::time::{Delta, Monotonic};

use super::flag::Flag;
use super::poller::Wake;

/// A one-shot timer that wakes `W` when it expires; dropping it cancels it.
pub(crate) struct Timer<W: Wake + 'static> {
    shared: Arc<Shared<W>>,
    /// Present from a start until the timer is cancelled or has been seen to expire.
    handle: Option<ArcHrTimerHandle<Shared<W>>>,
}

/// The data that the callback uses.
#[pin_data]
struct Shared<W: Wake + 'static> {
    #[pin]
    timer: HrTimer<Self>,
    waker: W,
    /// The timer has expired since it was started.
    expired: Flag,
}

impl<W: Wake + 'static> Timer<W> {
    /// Makes a timer for `waker`, which is not started.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(waker: W) -> Result<Self> {
        let shared = Arc::pin_init(
            pin_init!(Shared {
                timer <- HrTimer::new(),
                waker,
                expired: Flag::new(),
            }),
            GFP_KERNEL,
        )?;
        Ok(Self {
            shared,
            handle: None,
        })
    }

    /// Starts the timer, or restarts it, to expire in `millis` milliseconds.
    pub(crate) fn start(&mut self, millis: u32) {
        self.cancel();
        let delay = Delta::from_millis(i64::from(millis));
        self.handle = Some(self.shared.clone().start(delay));
    }

    /// Stops the timer; no callback is running or will run when this returns.
    pub(crate) fn cancel(&mut self) {
        // This comes first, since dropping a handle cancels the most recent start of the timer.
        self.handle = None;
        self.shared.expired.take();
    }

    /// Whether the timer has been started, and has neither expired nor been cancelled since.
    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        self.handle.is_some() && !self.shared.expired.is_set()
    }

    /// Returns whether the timer has expired, once for each start.
    pub(crate) fn take_expired(&mut self) -> bool {
        if self.shared.expired.take() {
            self.handle = None;
            return true;
        }
        false
    }
}

impl<W: Wake + 'static> HrTimerCallback for Shared<W> {
    type Pointer<'a> = Arc<Self>;

    fn run(
        this: ArcBorrow<'_, Self>,
        _context: HrTimerCallbackContext<'_, Self>,
    ) -> HrTimerRestart {
        // The flag is set before the wake-up, so that the woken worker sees it.
        this.expired.set();
        this.waker.wake();
        HrTimerRestart::NoRestart
    }
}

impl_has_hr_timer! {
    impl{W: Wake + 'static} HasHrTimer<Self> for Shared<W> {
        mode: RelativeMode<Monotonic>, field: self.timer
    }
}
