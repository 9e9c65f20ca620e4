// SPDX-License-Identifier: GPL-2.0

//! Times that cost one load to take, as precise as the kernel's ticks (1 to 10 ms).
//!
//! C header: `include/linux/jiffies.h`.

use core::cell::UnsafeCell;

use kernel::bindings;

/// A time, or never, which one thread at a time sets and any thread reads.
pub(crate) struct Ticks(UnsafeCell<u64>);

// SAFETY: as for `Counter`, by volatile accesses of a machine word.
unsafe impl Sync for Ticks {}

/// The value of [`Ticks::never`], which the counter has passed before it starts
/// (`INITIAL_JIFFIES`).
const NEVER: u64 = 0;

impl Ticks {
    /// No time.
    pub(crate) const fn never() -> Self {
        Self(UnsafeCell::new(NEVER))
    }

    /// Now.
    pub(crate) fn now() -> Self {
        Self(UnsafeCell::new(jiffies()))
    }

    /// Sets it to now.
    #[inline(always)]
    pub(crate) fn set_now(&self) {
        // SAFETY: the pointer is valid; for concurrent accesses see above.
        unsafe { self.0.get().write_volatile(jiffies()) };
    }

    /// Milliseconds since then; none since never.
    pub(crate) fn elapsed_ms(&self) -> Option<u64> {
        // SAFETY: the pointer is valid; for concurrent accesses see above.
        let then = unsafe { self.0.get().read_volatile() };
        if then == NEVER {
            return None;
        }
        // The two loads are not ordered: another processor may have set a later time meanwhile.
        let ticks = jiffies().saturating_sub(then);
        // SAFETY: only computes a number.
        Some(unsafe { bindings::jiffies64_to_msecs(ticks) })
    }
}

/// The kernel's count of ticks, whole in 64 bits.
#[inline(always)]
fn jiffies() -> u64 {
    // CAST: a machine word of 64 bits.
    // SAFETY: the counter exists as long as the kernel, and changes at any time.
    unsafe { (&raw const bindings::jiffies).read_volatile() as u64 }
}
