// SPDX-License-Identifier: GPL-2.0

//! Misc devices with a `poll` operation, which `kernel::miscdevice` does not support.
//!
//! C headers: `include/linux/fs.h`, `include/linux/miscdevice.h`.

use core::marker::PhantomData;

use kernel::bindings;
use kernel::error::to_result;
use kernel::fs::file::flags::O_NONBLOCK;
use kernel::fs::{File, Kiocb, LocalFile};
use kernel::miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration};
use kernel::prelude::*;
use kernel::sync::poll::PollTable;
use kernel::types::ForeignOwnable;

use super::compat::with_owner;

/// A misc device whose files have events that can be waited for.
pub(crate) trait PollDevice: MiscDevice {
    /// Registers with `table` the wait queues of the device's events, and returns the current
    /// events (`EPOLLIN` and the like).
    fn poll(
        device: <Self::Ptr as ForeignOwnable>::Borrowed<'_>,
        file: &File,
        table: PollTable<'_>,
    ) -> u32;
}

/// Registers a misc device with `poll`, otherwise like [`MiscDeviceRegistration::register`].
///
/// # Errors
///
/// Those of `misc_register()`.
pub(crate) fn register_pollable<T: PollDevice>(
    options: MiscDeviceOptions,
) -> impl PinInit<MiscDeviceRegistration<T>, Error> {
    let init = move |slot: *mut MiscDeviceRegistration<T>| {
        let slot = slot.cast::<bindings::miscdevice>();
        let mut device = options.into_raw::<T>();
        device.fops = &Operations::<T>::ALL;
        // SAFETY: the slot is valid for writes, and a `MiscDeviceRegistration` is laid out as the
        // `struct miscdevice` in it: it is transparent, and so is the `Opaque` that it wraps.
        unsafe { slot.write(device) };
        // SAFETY: the slot holds a valid `struct miscdevice`. The caller pins it until it is
        // dropped, which deregisters it.
        to_result(unsafe { bindings::misc_register(slot) })
    };
    // SAFETY: on success the slot is initialised as the type's invariants require: it holds a
    // registered `struct miscdevice` that `into_raw` made, with the file operations of `into_raw`
    // and two more. On failure nothing refers to the slot, and nothing in it needs to be dropped.
    // The slot is written in place and not moved.
    unsafe { pin_init::pin_init_from_closure(init) }
}

/// The file operations of a misc device.
struct Operations<T>(PhantomData<T>);

impl<T: PollDevice> Operations<T> {
    const ALL: bindings::file_operations = bindings::file_operations {
        poll: Some(Self::poll),
        // As in vhost: a stream of messages has no position, and a seek returns no error.
        llseek: Some(bindings::noop_llseek),
        ..Self::WITHOUT_POLL
    };

    /// The operations of `kernel::miscdevice`, and the owner.
    const WITHOUT_POLL: bindings::file_operations = {
        let device = MiscDeviceOptions { name: c"" }.into_raw::<T>();
        // SAFETY: `into_raw` points to a constant.
        with_owner(unsafe { *device.fops })
    };

    /// # Safety
    ///
    /// `file` must be a valid file of a `MiscDeviceRegistration<T>` between `open` and `release`,
    /// `table` null or valid, both for the whole call.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) -> bindings::__poll_t {
        // SAFETY: the file is valid.
        let private = unsafe { (*file).private_data };
        // SAFETY: the `open` of `kernel::miscdevice` stored the result of `into_foreign` there. Its
        // `release`, which takes that back, comes after this call.
        let device = unsafe { <T::Ptr as ForeignOwnable>::borrow(private) };
        // SAFETY: the file is valid during the call. The caller of `poll` has a reference to the
        // file, or is a task that holds its descriptor; in either case it is outside of `fdget_pos`
        // regions.
        let file = unsafe { File::from_raw_file(file) };
        // SAFETY: the caller passes null or a table that is valid during the call.
        let table = unsafe { PollTable::from_raw(table) };
        T::poll(device, file, table)
    }
}

/// Whether a read or write must not wait: the file has `O_NONBLOCK`.
pub(crate) fn is_nonblocking<T: ForeignOwnable>(kiocb: &Kiocb<'_, T>) -> bool {
    // SAFETY: the kiocb is valid, and holds a reference to its file.
    let file = unsafe { (*kiocb.as_raw()).ki_filp };
    // SAFETY: the file is valid for as long as the kiocb is borrowed. If the system call has looked
    // it up with `fdget_pos`, it was this thread that did.
    unsafe { LocalFile::from_raw_file(file) }.flags() & O_NONBLOCK != 0
}
