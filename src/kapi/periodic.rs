// SPDX-License-Identifier: GPL-2.0

//! Work that a kernel thread does again and again.
//!
//! `kernel::workqueue` cannot cancel delayed work, which would outlive the module.
//! C header: `include/linux/workqueue.h`.

use core::ptr::NonNull;

use kernel::bindings;
use kernel::container_of;
use kernel::prelude::*;

use super::shim;

/// What is done again and again.
pub(crate) trait Chore: Send + Sync + 'static {
    /// Does it once, in process context; returns after how many milliseconds to do it again, `None`
    /// for never.
    ///
    /// Dropping the [`Periodic`] waits for this, so it must not wait for a lock that is held then.
    fn run(&self) -> Option<u32>;
}

/// A [`Chore`] that is done until this is dropped; the drop waits for it.
///
/// # Invariants
///
/// `shared` comes from a `KBox`; only [`run`] and the drop access it.
pub(crate) struct Periodic<T: Chore> {
    shared: NonNull<Shared<T>>,
}

struct Shared<T> {
    work: bindings::delayed_work,
    chore: T,
}

// SAFETY: the work may be started and cancelled from any thread, and the chore is `Send`.
unsafe impl<T: Chore> Send for Periodic<T> {}
// SAFETY: a shared reference gives access to nothing.
unsafe impl<T: Chore> Sync for Periodic<T> {}

impl<T: Chore> Periodic<T> {
    /// Starts to do `chore`, for the first time in `millis` milliseconds.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn start(chore: T, millis: u32) -> Result<Self> {
        let shared = Shared {
            work: pin_init::zeroed(),
            chore,
        };
        let shared = KBox::into_raw(KBox::new(shared, GFP_KERNEL)?);
        // SAFETY: the work is at its final place, and initialized before it is started. `run` takes
        // it for that of a `Shared<T>`.
        unsafe {
            let work = &raw mut (*shared).work;
            shim::rnet_work_init(work);
            (*work).work.func = Some(run::<T>);
            shim::rnet_work_start(work, millis);
        }
        // INVARIANT: just boxed.
        Ok(Self {
            shared: NonNull::new(shared).ok_or(ENOMEM)?,
        })
    }
}

impl<T: Chore> Drop for Periodic<T> {
    fn drop(&mut self) {
        let shared = self.shared.as_ptr();
        // SAFETY: initialized by `start`. When this returns, the work is neither running nor will
        // run, even if it has just started itself again.
        unsafe { bindings::cancel_delayed_work_sync(&raw mut (*shared).work) };
        // SAFETY: by the type invariant, and nothing else refers to it any more.
        drop(unsafe { KBox::from_raw(shared) });
    }
}

/// # Safety
///
/// `work` is that of a [`Shared<T>`] of a [`Periodic`] that has not been dropped.
unsafe extern "C" fn run<T: Chore>(work: *mut bindings::work_struct) {
    // SAFETY: by the requirement.
    let delayed = unsafe { container_of!(work, bindings::delayed_work, work) };
    // SAFETY: as above.
    let shared = unsafe { container_of!(delayed, Shared<T>, work) };
    // SAFETY: the chore lives until the work has been cancelled.
    if let Some(millis) = unsafe { &(*shared).chore }.run() {
        // SAFETY: the work is initialized, and lives as the chore.
        unsafe { shim::rnet_work_start(delayed, millis) };
    }
}
