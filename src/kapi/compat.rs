// SPDX-License-Identifier: GPL-2.0

//! Differences between the kernels that the module is built for.
//!
//! The rest of `kapi` uses what the newest one has, by the names here. `Kbuild` sets a `cfg` for
//! the kernels before it. `src/shim/compat.h` has the differences in C.

#[cfg(rnet_before_7_3)]
pub(super) use before_7_3::{full_barrier, this_module, with_owner};
#[cfg(rnet_before_7_3)]
pub(crate) use before_7_3::{process_id, EBADFD, ENOBUFS, ENOTSOCK, EOPNOTSUPP};
#[cfg(not(rnet_before_7_3))]
pub(super) use since_7_3::{full_barrier, this_module, with_owner};
#[cfg(not(rnet_before_7_3))]
pub(crate) use since_7_3::{process_id, EBADFD, ENOBUFS, ENOTSOCK, EOPNOTSUPP};

/// Linux 7.3 and later.
#[cfg(not(rnet_before_7_3))]
mod since_7_3 {
    use kernel::bindings;
    use kernel::current;
    pub(crate) use kernel::error::code::{EBADFD, ENOBUFS, ENOTSOCK, EOPNOTSUPP};
    use kernel::sync::barrier;

    /// A full memory barrier between processors.
    #[inline]
    pub(crate) fn full_barrier() {
        barrier::smp_mb(barrier::Full);
    }

    /// The module, as the owner of file operations.
    pub(crate) const fn this_module() -> *mut bindings::module {
        kernel::module::this_module::<crate::LocalModule>().as_ptr()
    }

    /// The id of the calling thread's process, in the initial namespace.
    pub(crate) fn process_id() -> i32 {
        current!().tgid()
    }

    /// Returns the file operations of `kernel::miscdevice`, whose owner is the module.
    pub(crate) const fn with_owner(
        operations: bindings::file_operations,
    ) -> bindings::file_operations {
        operations
    }
}

/// Linux 7.2. This goes when 7.3 is the oldest kernel that `Kbuild` accepts.
#[cfg(rnet_before_7_3)]
mod before_7_3 {
    use core::num::NonZeroI32;

    use kernel::bindings;
    use kernel::current;
    use kernel::error::Error;
    use kernel::prelude::EINVAL;
    use kernel::sync::barrier;

    // `kernel::error::code` lacks these.
    /// File descriptor in bad state.
    pub(crate) const EBADFD: Error = error(bindings::EBADFD);
    /// No buffer space available.
    pub(crate) const ENOBUFS: Error = error(bindings::ENOBUFS);
    /// Socket operation on non-socket.
    pub(crate) const ENOTSOCK: Error = error(bindings::ENOTSOCK);
    /// Operation not supported on transport endpoint.
    pub(crate) const EOPNOTSUPP: Error = error(bindings::EOPNOTSUPP);

    /// Makes an error in a constant, as `Error::from_errno` cannot.
    const fn error(number: u32) -> Error {
        assert!(0 < number && number <= bindings::MAX_ERRNO);
        // CAST: asserted above to be small.
        let Some(number) = NonZeroI32::new(-(number as i32)) else {
            unreachable!();
        };
        // SAFETY: an `Error` wraps a `NonZeroI32` alone, so that both have the same layout: the
        // compiler checks the size here, and the constant below the value. The number is in the
        // range of the type's invariants.
        unsafe { core::mem::transmute::<NonZeroI32, Error>(number) }
    }

    const _: () = {
        // SAFETY: as in `error()`, and an `Error` is never zero.
        let number = unsafe { core::mem::transmute::<Error, NonZeroI32>(EINVAL) };
        // CAST: small.
        assert!(number.get() == -(bindings::EINVAL as i32));
    };

    /// A full memory barrier between processors.
    #[inline]
    pub(crate) fn full_barrier() {
        barrier::smp_mb();
    }

    /// The module, as the owner of file operations.
    pub(crate) const fn this_module() -> *mut bindings::module {
        crate::THIS_MODULE.as_ptr()
    }

    /// The id of the calling thread's process, in the initial namespace.
    pub(crate) fn process_id() -> i32 {
        // SAFETY: the calling thread exists, and its process id does not change.
        unsafe { (*current!().as_ptr()).tgid }
    }

    /// Returns the file operations of `kernel::miscdevice` with the module as their owner.
    ///
    /// There they have none. An open file would then not keep the module loaded, and the file's
    /// next operation would run code that is gone.
    pub(crate) const fn with_owner(
        operations: bindings::file_operations,
    ) -> bindings::file_operations {
        bindings::file_operations {
            owner: this_module(),
            ..operations
        }
    }
}
