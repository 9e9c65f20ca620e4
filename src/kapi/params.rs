// SPDX-License-Identifier: GPL-2.0

//! Module parameters, which an administrator may change at any time
//! (`/sys/module/vhost_rnet/parameters`).

use super::shim;

/// Number of threads that a device starts with, 1 or 2 (`threads_per_device`).
pub(crate) fn threads_per_device() -> u32 {
    // SAFETY: only reads the parameter.
    unsafe { shim::rnet_threads_per_device() }
}

/// Time between two looks of the watchdog, in milliseconds; 0 for none (`watchdog_ms`).
pub(crate) fn watchdog_ms() -> u32 {
    // SAFETY: only reads the parameter.
    unsafe { shim::rnet_watchdog_ms() }
}
