// SPDX-License-Identifier: GPL-2.0

//! Waiting for a file's events without a thread, by a callback in the file's wait queue.
//!
//! C headers: `include/linux/poll.h`, `include/linux/wait.h`.

use core::ops::Deref;
use core::ptr::{addr_of_mut, null_mut, NonNull};

use kernel::bindings;
use kernel::container_of;
use kernel::ffi::{c_int, c_uint, c_void};
use kernel::fs::{File, LocalFile};
use kernel::prelude::*;
use kernel::sync::aref::ARef;

use super::shim;

/// There is data to read (`EPOLLIN`).
pub(crate) const POLLIN: u32 = 0x1;
/// There is room to write (`EPOLLOUT`).
pub(crate) const POLLOUT: u32 = 0x4;
/// There is data of normal priority to read (`EPOLLRDNORM`).
pub(crate) const POLLRDNORM: u32 = 0x40;
/// The file has an error (`EPOLLERR`).
const POLLERR: u32 = 0x8;

/// The action of a [`Poller`] on an event.
///
/// It borrows nothing, since a [`Poller`] that is forgotten while armed goes on using it.
pub(crate) trait Wake: Send + Sync + 'static {
    /// Wakes the waiter; called with interrupts off and a spinlock held, it must not sleep,
    /// allocate or free.
    fn wake(&self);

    /// Wakes the waiter for an event that a wait queue reports, under the queue's lock.
    #[inline]
    fn event(&self) {
        self.wake();
    }
}

/// A file that a [`Poller`] may wait for.
///
/// Some kinds of files, such as signalfds, use wait queues that are freed before the file, and
/// expect waiters to notice that.
///
/// # Invariants
///
/// The wait queues that the file's `poll` operation uses live as long as the file.
#[derive(Clone)]
pub(crate) struct PollFile(ARef<File>);

impl PollFile {
    /// Marks a file as one that may be waited for.
    ///
    /// # Safety
    ///
    /// The wait queues that its `poll` operation uses live as long as the file. The file has no
    /// position that `fdget_pos` would lock; only regular files and directories have one.
    pub(super) unsafe fn new(file: ARef<LocalFile>) -> Self {
        // SAFETY: by the requirement, no thread is in an `fdget_pos` region of the file.
        let file = unsafe { LocalFile::assume_no_fdget_pos(file) };
        // INVARIANT: by the requirement.
        Self(file)
    }
}

impl Deref for PollFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

/// A file, with a callback for its events that can be armed and disarmed.
///
/// # Invariants
///
/// `entry` comes from a `KBox`. `entry.head` is the wait queue of `file` that `entry.wait` is in,
/// or null when it is in none.
pub(crate) struct Poller<W: Wake> {
    entry: NonNull<Entry<W>>,
    file: PollFile,
}

/// The part of a poller that the wait queue points to.
struct Entry<W> {
    wait: bindings::wait_queue_entry,
    table: bindings::poll_table_struct,
    head: *mut bindings::wait_queue_head,
    events: u32,
    waker: W,
}

// SAFETY: the file is reference-counted, the entry is only changed through `&mut self`, and the
// waker may be used from any thread.
unsafe impl<W: Wake> Send for Poller<W> {}
// SAFETY: a shared reference gives access to the waker and the file only.
unsafe impl<W: Wake> Sync for Poller<W> {}

impl<W: Wake> Poller<W> {
    /// Makes a poller for `events` ([`POLLIN`], [`POLLOUT`]) of `file`, which is not armed.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(file: PollFile, events: u32, waker: W) -> Result<Self> {
        let entry = KBox::new(
            Entry {
                wait: bindings::wait_queue_entry {
                    func: Some(wake::<W>),
                    ..pin_init::zeroed()
                },
                table: bindings::poll_table_struct {
                    _qproc: Some(enqueue::<W>),
                    _key: !0,
                },
                head: null_mut(),
                events,
                waker,
            },
            GFP_KERNEL,
        )?;
        // INVARIANT: the entry is in no wait queue yet.
        Ok(Self {
            entry: NonNull::new(KBox::into_raw(entry)).ok_or(ENOMEM)?,
            file,
        })
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Starts waiting, unless armed already, and wakes at once for an event that is already there.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the file has an error (for a tap: its device is gone); the poller is not armed
    /// then.
    pub(crate) fn arm(&mut self) -> Result {
        if self.is_armed() {
            return Ok(());
        }
        let entry = self.entry.as_ptr();
        // SAFETY: the file is open, and the table calls `enqueue` with itself, which is in `entry`.
        // INVARIANT: `enqueue` sets `head` when it adds the entry.
        let ready =
            unsafe { shim::rnet_vfs_poll(self.file.as_ptr(), addr_of_mut!((*entry).table)) };
        // SAFETY: `events` never changes, and `waker` only through `&mut self`.
        let (events, waker) = unsafe { ((*entry).events, &(*entry).waker) };
        if ready & events != 0 {
            waker.wake();
        }
        if ready & POLLERR != 0 {
            self.disarm();
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Whether the poller is armed.
    #[inline]
    pub(crate) fn is_armed(&mut self) -> bool {
        // SAFETY: `&mut self` gives the only access to `head`.
        !unsafe { (*self.entry.as_ptr()).head }.is_null()
    }

    /// Replaces the waker, from the next event on.
    ///
    /// The poller stays armed if it was, unless the file has an error. The new waker is then woken
    /// at once for an event that is already there.
    pub(crate) fn set_waker(&mut self, waker: W) {
        let armed = self.is_armed();
        let entry = self.entry.as_ptr();
        self.disarm();
        // SAFETY: the entry is in no queue now, so that `&mut self` gives the only access to it.
        unsafe { (*entry).waker = waker };
        if armed {
            // A file with an error has no more events.
            let _ = self.arm();
        }
    }

    /// Stops waiting; no callback is running or will run when this returns.
    pub(crate) fn disarm(&mut self) {
        let entry = self.entry.as_ptr();
        // SAFETY: `&mut self` gives the only access to `head`; by the type invariant the entry is
        // in that queue, which lives as long as the file, by the invariant of `PollFile`.
        unsafe {
            if !(*entry).head.is_null() {
                bindings::remove_wait_queue((*entry).head, addr_of_mut!((*entry).wait));
                (*entry).head = null_mut();
            }
        }
    }
}

impl<W: Wake> Drop for Poller<W> {
    fn drop(&mut self) {
        self.disarm();
        // SAFETY: by the type invariant it comes from a `KBox`; no queue points to it any more.
        drop(unsafe { KBox::from_raw(self.entry.as_ptr()) });
    }
}

/// Adds a poller to a wait queue; called by a file's `poll` operation.
///
/// # Safety
///
/// `table` is that of an [`Entry<W>`], which only the caller accesses; `head` outlives the file's
/// last reference.
unsafe extern "C" fn enqueue<W: Wake>(
    _file: *mut bindings::file,
    head: *mut bindings::wait_queue_head,
    table: *mut bindings::poll_table_struct,
) {
    // SAFETY: by the requirement on `table`.
    let entry = unsafe { container_of!(table, Entry<W>, table) };
    // SAFETY: only the caller accesses the entry. If a file uses a second queue, the entry stays in
    // the first.
    unsafe {
        if (*entry).head.is_null() {
            (*entry).head = head;
            bindings::add_wait_queue(head, addr_of_mut!((*entry).wait));
        }
    }
}

/// Handles an event; called by the wait queue.
///
/// # Safety
///
/// `wait` is that of an [`Entry<W>`] that stays in the queue during the call.
unsafe extern "C" fn wake<W: Wake>(
    wait: *mut bindings::wait_queue_entry,
    _mode: c_uint,
    _flags: c_int,
    key: *mut c_void,
) -> c_int {
    // SAFETY: by the requirement on `wait`.
    let entry = unsafe { container_of!(wait, Entry<W>, wait) };
    // SAFETY: the two fields do not change while the entry is in a queue.
    let (events, waker) = unsafe { ((*entry).events, &(*entry).waker) };
    // CAST: the key is a set of 32 event bits, passed as a pointer.
    if key as usize as u32 & events != 0 {
        waker.event();
    }
    0
}
