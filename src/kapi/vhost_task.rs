// SPDX-License-Identifier: GPL-2.0

//! Worker threads that belong to the process that they work for.
//!
//! A vhost task is a thread of its creator: it shares the creator's memory, is accounted to the
//! same cgroups and ends with the process. C header: `include/linux/sched/vhost_task.h`.

use core::ptr::NonNull;

use kernel::error::from_err_ptr;
use kernel::ffi::c_void;
use kernel::prelude::*;
use kernel::sync::Arc;

use super::{shim, OwnerMemory};

/// The work of a [`VhostTask`] or a [`Kthread`](super::Kthread).
///
/// It borrows nothing, since a thread that is forgotten instead of dropped goes on using it.
pub(crate) trait Work: Send + Sync + 'static {
    /// Whether there is work; must not sleep, since the thread is about to.
    fn pending(&self) -> bool;

    /// Does the work, in the thread and with the creator's memory.
    fn run(&self, memory: OwnerMemory<'_>);

    /// Tells that the thread has been killed and will not run again.
    ///
    /// It is called once, in the thread; never in a kernel thread, which cannot be killed.
    fn killed(&self);
}

/// A running worker thread; dropping it stops it.
///
/// The drop waits until the thread has left [`Work::run`], so it must not happen under a lock that
/// `run` takes, nor in the thread itself.
///
/// # Invariants
///
/// `task` came from `vhost_task_create()` with a pointer to `*work` and has been started, and
/// `vhost_task_stop()` has not been called for it.
pub(crate) struct VhostTask {
    task: NonNull<shim::CVhostTask>,
    /// Keeps alive what the thread points to.
    _work: Arc<dyn Work>,
}

// SAFETY: a vhost task may be woken and stopped from any thread; `Arc<dyn Work>` is `Send`, since
// every `Work` is `Send` and `Sync`.
unsafe impl Send for VhostTask {}
// SAFETY: waking is the only operation on a shared reference, and is allowed from any context.
unsafe impl Sync for VhostTask {}

impl VhostTask {
    /// Starts a thread of the calling process, named `name`, of which the first 15 bytes are used.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a caller without user memory, and those of `copy_process()`: `ENOMEM`,
    /// `EAGAIN`, `EINTR`.
    pub(crate) fn start<T: Work>(work: Arc<T>, name: &CStr) -> Result<Self> {
        if current!().mm().is_none() {
            return Err(EINVAL);
        }
        // CAST: C passes the pointer through as `void *`; `run` and `killed` only read from it.
        let arg = Arc::as_ptr(&work).cast_mut().cast::<c_void>();
        // SAFETY: the caller has user memory. Both functions take what `arg` points to. That lives
        // until the drop has seen the thread end, or, without a drop, for ever, as it borrows
        // nothing. The name is copied.
        let task = from_err_ptr(unsafe {
            shim::vhost_task_create(run::<T>, killed::<T>, arg, name.as_char_ptr())
        })?;
        let task = NonNull::new(task).ok_or(ENOMEM)?;
        // SAFETY: the task has just been created and has not been started.
        unsafe { shim::vhost_task_start(task.as_ptr()) };
        // INVARIANT: created and started above.
        Ok(Self { task, _work: work })
    }

    /// Wakes the thread, so that it looks for work.
    ///
    /// It may be called in any context, even after the thread was killed.
    #[inline]
    pub(crate) fn wake(&self) {
        // SAFETY: until it is stopped, the task holds a reference to its thread, dead or alive; by
        // the type invariant it has not been stopped.
        unsafe { shim::vhost_task_wake(self.task.as_ptr()) };
    }
}

impl Drop for VhostTask {
    fn drop(&mut self) {
        // SAFETY: by the type invariant, this is the first and last stop. It returns when the
        // thread no longer uses `work`.
        unsafe { shim::vhost_task_stop(self.task.as_ptr()) };
    }
}

/// # Safety
///
/// `data` points to a live `T`, and the running thread has user memory.
unsafe extern "C" fn run<T: Work>(data: *mut c_void) -> bool {
    // SAFETY: by the requirement.
    let work = unsafe { &*data.cast::<T>() };
    // The caller has set the state for sleeping before it calls this, so that no wake-up gets lost.
    if !work.pending() {
        return false;
    }
    // SAFETY: called in the task itself.
    unsafe { shim::rnet_set_running() };
    // SAFETY: by the requirement. No thread loses its memory before it ends.
    work.run(unsafe { OwnerMemory::of_thread() });
    true
}

/// # Safety
///
/// `data` points to a live `T`.
unsafe extern "C" fn killed<T: Work>(data: *mut c_void) {
    // SAFETY: by the requirement.
    unsafe { &*data.cast::<T>() }.killed();
}
