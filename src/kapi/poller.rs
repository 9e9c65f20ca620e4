// SPDX-License-Identifier: GPL-2.0

//! Waiting for a file's events without a thread: a callback in the file's wait queue.
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

/// There is something to read (`EPOLLIN`).
pub(crate) const POLLIN: u32 = 0x1;
/// There is room to write (`EPOLLOUT`).
pub(crate) const POLLOUT: u32 = 0x4;
/// As [`POLLIN`], of ordinary priority (`EPOLLRDNORM`).
pub(crate) const POLLRDNORM: u32 = 0x40;
/// The file is broken (`EPOLLERR`).
const POLLERR: u32 = 0x8;

/// What a [`Poller`] does when an event comes.
///
/// It borrows nothing: a [`Poller`] that is forgotten while armed goes on with it.
pub(crate) trait Wake: Send + Sync + 'static {
    /// Called with interrupts off and a spinlock held: must not sleep, allocate or free.
    fn wake(&self);
}

/// A file that a [`Poller`] may wait for.
///
/// Some kinds of files, such as signalfds, name wait queues that go before the file does, and expect
/// who waits there to see them go.
///
/// # Invariants
///
/// The wait queues that the file's `poll` operation names live as long as the file.
#[derive(Clone)]
pub(crate) struct PollFile(ARef<File>);

impl PollFile {
    /// The file as one to wait for.
    ///
    /// # Safety
    ///
    /// The wait queues that its `poll` operation names live as long as the file. It has no position
    /// that `fdget_pos` would lock, as only regular files and directories have one.
    pub(super) unsafe fn new(file: ARef<LocalFile>) -> Self {
        // SAFETY: by the requirement, nobody is in an `fdget_pos` region of the file.
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

/// A file, and a callback for events on it that can be armed and disarmed.
///
/// # Invariants
///
/// `entry` comes from a `KBox`. `entry.head` is the wait queue of `file` that `entry.wait` is in, or
/// null when it is in none.
pub(crate) struct Poller<W: Wake> {
    entry: NonNull<Entry<W>>,
    file: PollFile,
}

/// The part that the wait queue points to.
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
    /// A poller for `events` ([`POLLIN`], [`POLLOUT`]) of `file`, not armed.
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
        // INVARIANT: in no wait queue yet.
        Ok(Self {
            entry: NonNull::new(KBox::into_raw(entry)).ok_or(ENOMEM)?,
            file,
        })
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Starts waiting; wakes at once for an event that is there already. Does nothing if armed.
    ///
    /// # Errors
    ///
    /// `EINVAL`, and not armed, if the file is broken (for a tap: its device is gone).
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

    /// Whether it waits.
    #[inline]
    pub(crate) fn is_armed(&mut self) -> bool {
        // SAFETY: `&mut self` gives the only access to `head`.
        !unsafe { (*self.entry.as_ptr()).head }.is_null()
    }

    /// Replaces the waker, from the next event on. Armed afterwards if it was before and the file is
    /// not broken; the new waker is then woken at once for an event that is there already.
    pub(crate) fn set_waker(&mut self, waker: W) {
        let armed = self.is_armed();
        let entry = self.entry.as_ptr();
        self.disarm();
        // SAFETY: the entry is in no queue now, so that `&mut self` gives the only access to it.
        unsafe { (*entry).waker = waker };
        if armed {
            // A broken file has no more events.
            let _ = self.arm();
        }
    }

    /// Stops waiting. No callback is running or will run when it returns.
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

/// Called by a file's `poll` operation for the wait queue it will wake.
///
/// # Safety
///
/// `table` is that of an [`Entry<W>`], to which the caller has the only access; `head` outlives the
/// file's last reference.
unsafe extern "C" fn enqueue<W: Wake>(
    _file: *mut bindings::file,
    head: *mut bindings::wait_queue_head,
    table: *mut bindings::poll_table_struct,
) {
    // SAFETY: by the requirement on `table`.
    let entry = unsafe { container_of!(table, Entry<W>, table) };
    // SAFETY: the caller has the only access. A file that names a second queue keeps the first.
    unsafe {
        if (*entry).head.is_null() {
            (*entry).head = head;
            bindings::add_wait_queue(head, addr_of_mut!((*entry).wait));
        }
    }
}

/// Called by the wait queue.
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
    // CAST: the key is a set of 32 event bits in a pointer's clothes.
    if key as usize as u32 & events != 0 {
        waker.wake();
    }
    0
}
