// SPDX-License-Identifier: GPL-2.0

//! Misc devices that can be waited for with `poll`, which `kernel::miscdevice` leaves out.
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

/// A misc device whose files have events to wait for.
pub(crate) trait PollDevice: MiscDevice {
    /// Registers with `table` the wait queues that are woken on events, and gives the events there
    /// are by now (`EPOLLIN` and the like).
    fn poll(
        device: <Self::Ptr as ForeignOwnable>::Borrowed<'_>,
        file: &File,
        table: PollTable<'_>,
    ) -> u32;
}

/// Registers a misc device like [`MiscDeviceRegistration::register`], with `poll`.
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
    // SAFETY: on success the slot is initialised as the type's invariants ask for: it holds a
    // registered `struct miscdevice`, made by `into_raw`, with the file operations that this made
    // and two more. On failure nothing refers to it, and nothing in it needs to be dropped. It is
    // not moved, only written in place.
    unsafe { pin_init::pin_init_from_closure(init) }
}

/// The file operations of a misc device.
struct Operations<T>(PhantomData<T>);

impl<T: PollDevice> Operations<T> {
    const ALL: bindings::file_operations = bindings::file_operations {
        poll: Some(Self::poll),
        // As vhost: a stream of messages has no position, and who asks for one gets no error.
        llseek: Some(bindings::noop_llseek),
        ..Self::WITHOUT_POLL
    };

    /// Those of `kernel::miscdevice`, the owner among them.
    const WITHOUT_POLL: bindings::file_operations = {
        let device = MiscDeviceOptions { name: c"" }.into_raw::<T>();
        // SAFETY: `into_raw` points to a constant.
        unsafe { *device.fops }
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
        // SAFETY: the `open` of `kernel::miscdevice` stored there what `into_foreign` gave, and its
        // `release`, which takes it back, comes after this call.
        let device = unsafe { <T::Ptr as ForeignOwnable>::borrow(private) };
        // SAFETY: the file is valid during the call. `poll` is called with a reference to it, or
        // from a task that holds its descriptor, in either case outside of `fdget_pos` regions.
        let file = unsafe { File::from_raw_file(file) };
        // SAFETY: the caller gives null or a table that is valid during the call.
        let table = unsafe { PollTable::from_raw(table) };
        T::poll(device, file, table)
    }
}

/// Whether a read or write must not wait: the file has `O_NONBLOCK`.
pub(crate) fn is_nonblocking<T: ForeignOwnable>(kiocb: &Kiocb<'_, T>) -> bool {
    // SAFETY: the kiocb is valid, and holds on to its file.
    let file = unsafe { (*kiocb.as_raw()).ki_filp };
    // SAFETY: the file is valid for as long as the kiocb is borrowed. If the system call has
    // looked it up with `fdget_pos`, this is the thread that did.
    unsafe { LocalFile::from_raw_file(file) }.flags() & O_NONBLOCK != 0
}
