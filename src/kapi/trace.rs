// SPDX-License-Identifier: GPL-2.0

//! Trace events (`vhost_rnet:*`), which are for the operator.
//!
//! An event that is off costs a call that returns at once. `src/shim/trace.h` has their fields.

use super::shim;

/// The queue that an event is about.
#[derive(Clone, Copy, Default)]
pub(crate) struct Source {
    /// The number of the device.
    pub(crate) device: u64,
    /// The process id of the device's owner.
    pub(crate) owner: i32,
    /// The name of the queue.
    pub(crate) queue: &'static str,
}

/// The worker that an event is about.
#[derive(Clone, Copy)]
pub(crate) struct Thread {
    /// The number of the device.
    pub(crate) device: u64,
    /// The process id of the device's owner.
    pub(crate) owner: i32,
    /// The id of the worker.
    pub(crate) worker: u32,
}

/// Calls a function of the shim with a [`Source`], and with further arguments.
macro_rules! call {
    ($function:ident, $source:expr $(, $argument:expr)*) => {{
        let Source { device, owner, queue } = $source;
        // SAFETY: each pointer is to a string of the length that follows it.
        unsafe {
            shim::$function(device, owner, queue.as_ptr().cast(), queue.len() $(, $argument)*)
        }
    }};
}

/// A queue starts on a backend, or goes on after a fault.
pub(crate) fn queue_start(source: Source) {
    call!(rnet_trace_queue_start, source);
}

/// A queue stops, for `reason`.
pub(crate) fn queue_stop(source: Source, reason: &str) {
    call!(
        rnet_trace_queue_stop,
        source,
        reason.as_ptr().cast(),
        reason.len()
    );
}

/// The owner is told of the fault `name`, at the address `addr` if the fault has one.
pub(crate) fn fault(source: Source, name: &str, addr: Option<u64>) {
    call!(
        rnet_trace_fault,
        source,
        name.as_ptr().cast(),
        name.len(),
        addr.is_some(),
        addr.unwrap_or(0)
    );
}

/// The owner is asked to translate `iova` for the access `access` (`VHOST_ACCESS_*`).
pub(crate) fn miss(source: Source, iova: u64, access: u8) {
    call!(rnet_trace_miss, source, iova, access);
}

/// The owner has translated `size` bytes from `iova`, which a queue waited for, with the permission
/// `perm` (`VHOST_ACCESS_*`).
pub(crate) fn answer(source: Source, iova: u64, size: u64, perm: u8) {
    call!(rnet_trace_answer, source, iova, size, perm);
}

/// Whether [`round_end`] is on.
#[inline(always)]
pub(crate) fn traces_rounds() -> bool {
    // SAFETY: no requirements.
    unsafe { shim::rnet_traces_rounds() }
}

/// A round that has moved `packets` and `bytes` has ended, because of `why`.
pub(crate) fn round_end(source: Source, packets: u64, bytes: u64, why: &str) {
    call!(
        rnet_trace_round_end,
        source,
        packets,
        bytes,
        why.as_ptr().cast(),
        why.len()
    );
}

/// The watchdog has a queue look for work.
pub(crate) fn watchdog(source: Source) {
    call!(rnet_trace_watchdog, source);
}

/// The thread `tid` of a worker has begun.
pub(crate) fn worker_start(thread: Thread, tid: i32) {
    // SAFETY: no requirements.
    unsafe { shim::rnet_trace_worker_start(thread.device, thread.owner, thread.worker, tid) }
}

/// The thread `tid` of a worker has ended, or will run no more.
pub(crate) fn worker_end(thread: Thread, tid: i32) {
    // SAFETY: no requirements.
    unsafe { shim::rnet_trace_worker_end(thread.device, thread.owner, thread.worker, tid) }
}
