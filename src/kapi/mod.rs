// SPDX-License-Identifier: GPL-2.0

//! Safe types for kernel interfaces that `rust/kernel` does not offer yet.
//!
//! Only this part of the module has `unsafe` code and uses `kernel::bindings`. Each file could go
//! upstream separately, but for `compat`, which hides how the kernels differ.

#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

mod busy;
mod chardev;
mod compat;
mod counter;
mod debugfs;
mod eventfd;
mod flag;
mod frames;
mod kthread;
mod packet;
mod pages;
mod params;
mod peek;
mod periodic;
mod poller;
mod ring;
mod shim;
mod socket;
mod ticks;
mod timer;
pub(crate) mod trace;
mod tun;
mod user;
mod vhost_task;

pub(crate) use busy::{BusyTime, Polled};
pub(crate) use chardev::{is_nonblocking, register_pollable, PollDevice};
pub(crate) use compat::{process_id, EBADFD, ENOBUFS, ENOTSOCK, EOPNOTSUPP};
pub(crate) use counter::Counter;
pub(crate) use debugfs::{Dir, PokeFile, ShowFile, Top};
pub(crate) use eventfd::{kick_file, EventFd};
pub(crate) use flag::Flag;
pub(crate) use frames::{Frames, FRAMES};
pub(crate) use kthread::Kthread;
pub(crate) use params::{threads_per_device, watchdog_ms};
pub(crate) use peek::Peek;
pub(crate) use periodic::{Chore, Periodic};
pub(crate) use poller::{PollFile, Poller, Wake, POLLIN, POLLOUT, POLLRDNORM};
pub(crate) use socket::{InterfaceName, Socket};
pub(crate) use ticks::Ticks;
pub(crate) use timer::Timer;
pub(crate) use user::{access_ok, OwnerMemory};
pub(crate) use vhost_task::{VhostTask, Work};

/// Whether another line may be logged now, by the kernel's default limit for repeated messages.
pub(crate) fn log_allowed() -> bool {
    // SAFETY: no requirements.
    unsafe { shim::rnet_log_allowed() }
}

/// Lets other tasks run if one is waiting for the CPU; only for task context.
pub(crate) fn cond_resched() {
    // SAFETY: the callers are in task context and hold at most mutexes, so they may sleep.
    unsafe { shim::rnet_cond_resched() }
}

/// Whether the current task has been killed and is about to end.
pub(crate) fn is_dying() -> bool {
    // SAFETY: only reads the signals of the current task.
    unsafe { shim::rnet_is_dying() }
}

/// Returns `index` if it is less than `len`, also under speculative execution
/// (`array_index_nospec()`).
pub(crate) fn index_nospec(index: usize, len: usize) -> Option<usize> {
    // SAFETY: only computes a number.
    (index < len).then(|| unsafe { shim::rnet_index_nospec(index, len) })
}
