// SPDX-License-Identifier: GPL-2.0

//! Kernel threads that use the memory of the process that started them.
//!
//! Such a thread is in its creator's cgroups, but does not belong to any process: no process limit
//! counts it, and no signal ends it. What it allocates is charged to the memory cgroup that its
//! creator is in when it starts. C header: `include/linux/kthread.h`.

use core::ptr::NonNull;

use kernel::bindings;
use kernel::error::{from_err_ptr, to_result};
use kernel::ffi::{c_int, c_void};
use kernel::mm::MmWithUser;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::{Arc, Completion};

use super::{shim, OwnerMemory, Work};

/// A running kernel thread that does a [`Work`]; dropping it stops it.
///
/// The drop waits until the thread has left [`Work::run`], so it must not happen under a lock that
/// `run` takes, nor in the thread itself. It may free the creator's memory.
///
/// # Invariants
///
/// `task` runs [`main`] with a pointer to `*_shared`, and `kthread_stop()` has not been called for
/// it.
pub(crate) struct Kthread {
    task: NonNull<bindings::task_struct>,
    /// Keeps alive the data that the thread uses.
    _shared: Arc<dyn Send + Sync>,
}

/// The data that the thread uses.
#[pin_data]
struct Shared<T: Work> {
    work: Arc<T>,
    /// The creator's memory, which is kept as long as the thread.
    mm: ARef<MmWithUser>,
    /// Completed once the thread is in [`main`].
    #[pin]
    entered: Completion,
}

// SAFETY: a kernel thread may be woken and stopped from any thread; the `Arc` is `Send`, since its
// content is `Send` and `Sync`.
unsafe impl Send for Kthread {}
// SAFETY: waking is the only operation on a shared reference, and is allowed from any context.
unsafe impl Sync for Kthread {}

impl Kthread {
    /// Starts a thread in the memory and cgroups of the calling process, named `name`, of which the
    /// first 15 bytes are used.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a caller without user memory, and those of `kthread_create()` and
    /// `cgroup_attach_task_all()`.
    pub(crate) fn start<T: Work>(work: Arc<T>, name: &CStr) -> Result<Self> {
        let mm = ARef::from(current!().mm().ok_or(EINVAL)?);
        let shared = Arc::pin_init(
            pin_init!(Shared {
                work,
                mm,
                entered <- Completion::new(),
            }),
            GFP_KERNEL,
        )?;
        // CAST: C passes the pointer through as `void *`; `main` only reads from it.
        let arg = Arc::as_ptr(&shared).cast_mut().cast::<c_void>();
        // SAFETY: `main` takes what `arg` points to. That lives until the drop has seen the thread
        // end, or, without a drop, for ever, as it borrows nothing. The format takes one string,
        // which is copied.
        let task = from_err_ptr(unsafe {
            bindings::kthread_create_on_node(
                Some(main::<T>),
                arg,
                bindings::NUMA_NO_NODE,
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        })?;
        let task = NonNull::new(task).ok_or(ENOMEM)?;
        // SAFETY: the new thread waits to be woken or stopped.
        unsafe { bindings::wake_up_process(task.as_ptr()) };
        // INVARIANT: created for `main` above.
        let thread = Self {
            task,
            _shared: shared.clone(),
        };
        // Before it enters `main`, a thread sets its affinity. Afterwards, the affinity is up to
        // the cgroup.
        shared.entered.wait_for_completion();
        // SAFETY: the calling task is alive, and so is the thread until it is stopped.
        to_result(unsafe {
            bindings::cgroup_attach_task_all(current!().as_ptr(), thread.task.as_ptr())
        })?;
        Ok(thread)
    }

    /// Wakes the thread, so that it looks for work, in any context.
    #[inline]
    pub(crate) fn wake(&self) {
        // SAFETY: by the type invariant the thread has not been stopped, and it does not end before
        // that.
        unsafe { bindings::wake_up_process(self.task.as_ptr()) };
    }
}

impl Drop for Kthread {
    fn drop(&mut self) {
        // SAFETY: by the type invariant, this is the first and last stop. It returns when the
        // thread no longer uses `shared`.
        unsafe { bindings::kthread_stop(self.task.as_ptr()) };
    }
}

/// The main function of the thread.
///
/// # Safety
///
/// `data` points to a [`Shared<T>`] that is alive until the thread has been stopped.
unsafe extern "C" fn main<T: Work>(data: *mut c_void) -> c_int {
    // SAFETY: by the requirement.
    let Shared { work, mm, entered } = unsafe { &*data.cast::<Shared<T>>() };
    // SAFETY: the current task is a kernel thread without user memory so far; `mm` has users as
    // long as this thread uses it.
    unsafe { bindings::kthread_use_mm(mm.as_raw()) };
    // SAFETY: `mm` is alive, and the thread, which is new, has no cgroup to charge so far.
    unsafe { shim::rnet_charge_begin(mm.as_raw()) };
    entered.complete_all();
    loop {
        // SAFETY: called in the task itself, as are the calls below. The state is set before the
        // reasons to wake up are checked, so that no wake-up gets lost.
        unsafe { shim::rnet_set_sleeping() };
        // SAFETY: called in a kernel thread.
        if unsafe { bindings::kthread_should_stop() } {
            break;
        }
        if work.pending() {
            // SAFETY: as above.
            unsafe { shim::rnet_set_running() };
            // SAFETY: `mm` is in use.
            work.run(unsafe { OwnerMemory::of_thread() });
        } else {
            // SAFETY: no lock is held.
            unsafe { bindings::schedule() };
        }
    }
    // SAFETY: as above.
    unsafe { shim::rnet_set_running() };
    // SAFETY: undoes `rnet_charge_begin()` above.
    unsafe { shim::rnet_charge_end() };
    // SAFETY: undoes `kthread_use_mm()` above.
    unsafe { bindings::kthread_unuse_mm(mm.as_raw()) };
    0
}
