// SPDX-License-Identifier: GPL-2.0

//! The only place with `unsafe`: thin safe wrappers over system calls and shared mappings.

#![allow(unsafe_code, reason = "each block below carries its proof")]

pub mod ballast;
pub mod ioctl;
pub mod kcov;
pub mod kvm;
pub mod mapping;
pub mod net;
pub mod process;
pub mod userfault;

/// Turns the C convention of a negative result into an [`std::io::Error`].
fn check(result: libc::c_int) -> std::io::Result<libc::c_int> {
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
