// SPDX-License-Identifier: GPL-2.0

//! A packet on its way from a tap's ring to the tap's socket.
//!
//! C header: `include/linux/if_tun.h`.

use core::ptr::null_mut;

use kernel::ffi::c_void;

use super::shim;

/// A packet taken from a ring.
///
/// A tun's ring has `sk_buff`s and `xdp_frame`s, which the pointer's low bit tells apart; any other
/// tap's ring has only `sk_buff`s. A packet may only be passed to the socket that it came from, so
/// [`Socket`](super::Socket) keeps it private.
///
/// # Invariants
///
/// Owns what the pointer refers to. Null stands for the next packet in the socket's own queue.
pub(super) struct Packet(*mut c_void);

impl Packet {
    /// The next packet of a socket without a ring.
    pub(super) const QUEUED: Self = Self(null_mut());

    /// Takes ownership of the packet that `packet` refers to.
    ///
    /// # Safety
    ///
    /// `packet` came from a ring, and the caller owns it.
    #[inline]
    pub(super) unsafe fn from_raw(packet: *mut c_void) -> Self {
        // INVARIANT: by the requirement.
        Self(packet)
    }

    /// Returns the pointer, with ownership of the packet.
    pub(super) fn into_raw(self) -> *mut c_void {
        let packet = self.0;
        core::mem::forget(self);
        packet
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: owned, by the type invariant.
            unsafe { shim::tun_ptr_free(self.0) };
        }
    }
}
