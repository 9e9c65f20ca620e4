// SPDX-License-Identifier: GPL-2.0

//! The device that a tun file is attached to.
//!
//! C header: `include/uapi/linux/if_tun.h`.

use kernel::bindings;
use kernel::ffi::c_ulong;
use kernel::fs::LocalFile;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::uaccess::{UserPtr, UserSlice};

use super::compat::EBADFD;

/// `TUNGETIFF`: writes a `struct ifreq` with the device's name and flags.
const TUNGETIFF: u32 = 0x8004_54d2;
/// Length of a device's name in a `struct ifreq`, in bytes, before `ifr_flags`.
const IFNAMSIZ: usize = 16;
/// The device carries IP packets without an Ethernet header.
const IFF_TUN: u16 = 0x0001;

/// `PROT_READ | PROT_WRITE`.
const PROT_READ_WRITE: c_ulong = 0x3;
/// `MAP_PRIVATE | MAP_ANONYMOUS`.
const MAP_PRIVATE_ANONYMOUS: c_ulong = 0x22;

/// A page of the calling process's memory, which is unmapped when this is dropped.
///
/// # Invariants
///
/// The page at `addr` has been mapped into the memory of the current process, which is also that of
/// the task that drops this.
struct UserPage {
    addr: usize,
    /// Not `Send`: another task may have other memory.
    _not_send: core::marker::PhantomData<*mut ()>,
}

impl UserPage {
    /// Maps a zeroed page.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when the process may not map more memory, `EINVAL` when the caller has no user
    /// memory.
    fn new() -> Result<Self> {
        if current!().mm().is_none() {
            return Err(EINVAL);
        }
        // SAFETY: the current task has user memory, and requests a new anonymous mapping at any
        // address.
        let addr = unsafe {
            bindings::vm_mmap(
                core::ptr::null_mut(),
                0,
                PAGE_SIZE,
                PROT_READ_WRITE,
                MAP_PRIVATE_ANONYMOUS,
                0,
            )
        };
        // An error number is not a multiple of a page.
        if addr % PAGE_SIZE != 0 {
            return Err(ENOMEM);
        }
        // INVARIANT: mapped above.
        Ok(Self {
            addr,
            _not_send: core::marker::PhantomData,
        })
    }
}

impl Drop for UserPage {
    fn drop(&mut self) {
        // SAFETY: `new` mapped the page in the same process. If the process has replaced the
        // mapping since, losing the new one is its own doing.
        unsafe { bindings::vm_munmap(self.addr, PAGE_SIZE) };
    }
}

/// What a tun file is attached to.
pub(super) struct Interface {
    /// Packets sent to it are Ethernet frames, rather than IP packets.
    pub(super) is_ethernet: bool,
    /// Its name at the moment, ended by a zero.
    pub(super) name: [u8; IFNAMSIZ],
}

/// Looks up what a tun file is attached to.
///
/// The kernel reports it only by an ioctl that writes to user memory, so this function makes that
/// ioctl. The kind of a device never changes. Another thread of the process may have changed the
/// answer, so neither is to be trusted with more than the process may do.
///
/// # Errors
///
/// `EBADFD` when the file has no device, and the errors of mapping a page of the calling process.
pub(super) fn interface(file: &LocalFile) -> Result<Interface> {
    let page = UserPage::new()?;
    // SAFETY: an open file has operations.
    let ioctl = unsafe { (*(*file.as_ptr()).f_op).unlocked_ioctl }.ok_or(ENOTTY)?;
    // SAFETY: the file is open and these are its operations. The ioctl accepts any user address.
    let ret = unsafe { ioctl(file.as_ptr(), TUNGETIFF, page.addr) };
    if ret != 0 {
        return Err(EBADFD);
    }
    let at = UserPtr::from_addr(page.addr);
    let mut reader = UserSlice::new(at, IFNAMSIZ.wrapping_add(size_of::<u16>())).reader();
    let mut name: [u8; IFNAMSIZ] = reader.read()?;
    let flags: u16 = reader.read()?;
    if let Some(end) = name.last_mut() {
        *end = 0;
    }
    Ok(Interface {
        is_ethernet: flags & IFF_TUN == 0,
        name,
    })
}
