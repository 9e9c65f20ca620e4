// SPDX-License-Identifier: GPL-2.0

//! Virtual machines of KVM, of which none runs.

use super::check;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `KVM_CREATE_VM`, whose argument is the kind of machine.
const CREATE_VM: u64 = 0xae01;

/// Creates a virtual machine without memory and processors, which lasts as long as the descriptor.
///
/// # Errors
///
/// What the kernel answers, as when there is no KVM.
pub fn create_vm() -> io::Result<OwnedFd> {
    let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
    // SAFETY: the argument is a number, the usual kind of machine, so no memory of this process is
    // read or written.
    let fd = check(unsafe { libc::ioctl(kvm.as_raw_fd(), CREATE_VM, 0usize) })?;
    // SAFETY: the call succeeded, so its result is a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
