// SPDX-License-Identifier: GPL-2.0

//! Guest addresses and user addresses, as two distinct types.

/// An address as the guest names it: guest-physical, in bytes.
///
/// It is not trusted until a [`Translate`](crate::Translate) has translated it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestAddr(pub u64);

/// An address in the owner's address space, in bytes.
///
/// It may be unmapped at any time: only a [`Memory`](crate::Memory) accesses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct UserAddr(pub u64);

impl UserAddr {
    /// The address `bytes` further on; it wraps at the end of the address space.
    ///
    /// A wrapped address is not accessible to user space, so an access to it fails like any other
    /// access outside the owner's memory.
    #[inline]
    #[must_use]
    pub const fn wrapping_add(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}
