// SPDX-License-Identifier: GPL-2.0

//! Directories and files in debugfs whose data is reference-counted.
//!
//! `kernel::debugfs` has no place for the owner of a file's operations: they are in the module,
//! which may then go while the file is open. C header: `include/linux/debugfs.h`.

use core::marker::PhantomData;
use core::ptr::null_mut;

use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::ffi::{c_char, c_int, c_void};
use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::sync::atomic::{ordering::Full, Atomic};
use kernel::sync::Arc;

use super::compat::this_module;
use super::shim;

/// Only root may read the file.
const READ_BY_ROOT: u16 = 0o400;
/// Only root may write the file.
const WRITE_BY_ROOT: u16 = 0o200;

/// The data of a file that is read as text.
pub(crate) trait ShowFile: Send + Sync + 'static {
    /// Writes the text.
    ///
    /// Removing the file waits for this, so it must not wait for a lock that the remover holds.
    fn show(&self, to: &SeqFile);
}

/// The data of a file that any write to causes an action.
pub(crate) trait PokeFile: Send + Sync + 'static {
    /// Acts; as [`ShowFile::show`], it must not wait for the remover of the file.
    fn poke(&self);
}

/// A directory, which is removed with everything in it when this is dropped.
///
/// The drop waits for those who are reading or writing its files just now.
///
/// # Invariants
///
/// `dentry` is a directory that this owns. The private data of each file in it is one of `_data`.
pub(crate) struct Dir {
    dentry: *mut bindings::dentry,
    _data: KVec<Arc<dyn Send + Sync>>,
    /// It is removed later than this.
    _parent: Option<Arc<Dir>>,
}

// SAFETY: debugfs locks itself, and directories may be used from any thread.
unsafe impl Send for Dir {}
// SAFETY: as above.
unsafe impl Sync for Dir {}

impl Dir {
    /// Makes a directory called `name`, in `parent` or at the top of debugfs.
    ///
    /// # Errors
    ///
    /// `EEXIST`, `ENOMEM`, and those for a kernel without debugfs, or one that was booted without.
    pub(crate) fn new(name: &CStr, parent: Option<&Arc<Dir>>) -> Result<Self> {
        let parent_dentry = parent.map_or(null_mut(), |dir| dir.dentry);
        // SAFETY: the name is a string, which is copied; the parent is null or a directory that
        // exists as long as `parent`.
        let dentry = unsafe { shim::rnet_debugfs_dir(name.as_char_ptr(), parent_dentry) };
        // INVARIANT: made here, without a file.
        Ok(Self {
            dentry: from_err_ptr(dentry)?,
            _data: KVec::new(),
            _parent: parent.cloned(),
        })
    }

    /// Adds a file called `name` that shows `data`.
    ///
    /// # Errors
    ///
    /// Those of [`Dir::new`].
    pub(crate) fn show<T: ShowFile>(&mut self, name: &CStr, data: Arc<T>) -> Result {
        // SAFETY: the operations take the private data for a `T`.
        unsafe { self.add(name, READ_BY_ROOT, &Operations::<T>::SHOW, data) }
    }

    /// Adds a file called `name` that passes writes on to `data`.
    ///
    /// # Errors
    ///
    /// Those of [`Dir::new`].
    pub(crate) fn poke<T: PokeFile>(&mut self, name: &CStr, data: Arc<T>) -> Result {
        // SAFETY: as above.
        unsafe { self.add(name, WRITE_BY_ROOT, &Operations::<T>::POKE, data) }
    }

    /// Adds a file.
    ///
    /// # Safety
    ///
    /// `operations` may be used for a file whose inode's private data is `data`.
    unsafe fn add<T: Send + Sync + 'static>(
        &mut self,
        name: &CStr,
        mode: u16,
        operations: &'static bindings::file_operations,
        data: Arc<T>,
    ) -> Result {
        // CAST: C passes the pointer through as `void *`; the operations only read from it.
        let private = Arc::as_ptr(&data).cast_mut().cast::<c_void>();
        // INVARIANT: the data is kept before there is a file. It lives until `self` is dropped,
        // which removes the file first; if `self` is forgotten, it lives for ever.
        self._data.push(data, GFP_KERNEL)?;
        // SAFETY: the name is copied, the directory exists, and the operations are static. By the
        // requirement they suit the data.
        let file = unsafe {
            shim::rnet_debugfs_file(name.as_char_ptr(), mode, self.dentry, private, operations)
        };
        from_err_ptr(file).map(|_| ())
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // SAFETY: owned, by the type invariant. When this returns, no operation of a file is
        // running or will run, except `release`, which does not use the data.
        unsafe { shim::rnet_debugfs_remove(self.dentry) };
    }
}

/// The operations of a file whose private data is a `T`.
struct Operations<T>(PhantomData<T>);

impl<T: ShowFile> Operations<T> {
    const SHOW: bindings::file_operations = bindings::file_operations {
        owner: this_module(),
        open: Some(open_shown::<T>),
        read: Some(bindings::seq_read),
        llseek: Some(bindings::seq_lseek),
        release: Some(bindings::single_release),
        ..pin_init::zeroed()
    };
}

impl<T: PokeFile> Operations<T> {
    const POKE: bindings::file_operations = bindings::file_operations {
        owner: this_module(),
        open: Some(open_poked),
        write: Some(poke::<T>),
        llseek: Some(bindings::noop_llseek),
        ..pin_init::zeroed()
    };
}

/// # Safety
///
/// `inode` is that of a file whose private data is a live `T`, and `file` is being opened.
unsafe extern "C" fn open_shown<T: ShowFile>(
    inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: by the requirement.
    let data = unsafe { (*inode).i_private };
    // SAFETY: the file is being opened, and `show` takes the data for what it is.
    unsafe { bindings::single_open(file, Some(show::<T>), data) }
}

/// # Safety
///
/// `seq` is that of a file that was opened by [`open_shown`] and is being read, so that it is not
/// removed meanwhile.
unsafe extern "C" fn show<T: ShowFile>(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
    // SAFETY: by the requirement, the private data is a `T`, which lives until the file is removed.
    let data = unsafe { &*(*seq).private.cast::<T>() };
    // SAFETY: only the caller uses the `seq_file` during the call.
    data.show(unsafe { SeqFile::from_raw(seq) });
    0
}

/// # Safety
///
/// `inode` is valid, and `file` is being opened.
unsafe extern "C" fn open_poked(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: by the requirement.
    unsafe { (*file).private_data = (*inode).i_private };
    0
}

/// # Safety
///
/// `file` was opened by [`open_poked`], its inode's private data is a `T`, and it is being written,
/// so that it is not removed meanwhile.
unsafe extern "C" fn poke<T: PokeFile>(
    file: *mut bindings::file,
    _from: *const c_char,
    len: usize,
    _position: *mut bindings::loff_t,
) -> isize {
    // SAFETY: by the requirement, the private data is a `T`, which lives until the file is removed.
    let data = unsafe { &*(*file).private_data.cast::<T>() };
    data.poke();
    // A write has at most `MAX_RW_COUNT` bytes.
    isize::try_from(len).unwrap_or(isize::MAX)
}

/// States of [`TOP`]'s lock.
const UNUSED: i32 = 0;
const SETTING_UP: i32 = 1;
const READY: i32 = 2;

/// State of [`TOP`]'s lock, which is set up once.
static STATE: Atomic<i32> = Atomic::new(UNUSED);

kernel::sync::global_lock! {
    // SAFETY: `Top::new` initializes the lock before it sets `READY`, and no other function uses
    // the lock before that.
    unsafe(uninit) static TOP: Mutex<Option<Arc<Dir>>> = None;
}

/// The module's own directory, in which there is one for each device.
///
/// It is removed with the last device's directory, after this has been dropped.
pub(crate) struct Top(());

impl Top {
    /// Makes the directory called `name`. Without it, as where debugfs is missing, devices have no
    /// directories.
    pub(crate) fn new(name: &CStr) -> Self {
        if STATE.cmpxchg(UNUSED, SETTING_UP, Full).is_ok() {
            // SAFETY: only here, once.
            unsafe { TOP.init() };
            STATE.xchg(READY, Full);
        }
        if STATE.cmpxchg(READY, READY, Full).is_ok() {
            let dir = Dir::new(name, None).and_then(|dir| Ok(Arc::new(dir, GFP_KERNEL)?));
            *TOP.lock() = dir.ok();
        }
        Self(())
    }

    /// The directory, while there is one.
    pub(crate) fn dir() -> Option<Arc<Dir>> {
        STATE.cmpxchg(READY, READY, Full).ok()?;
        TOP.lock().clone()
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        if STATE.cmpxchg(READY, READY, Full).is_ok() {
            let dir = TOP.lock().take();
            drop(dir);
        }
    }
}
