// SPDX-License-Identifier: GPL-2.0

//! The ring in which a tap keeps packets for its reader, consumed many at a time.
//!
//! C headers: `include/linux/ptr_ring.h`, `include/linux/if_tun.h`.

use core::ptr::{null_mut, NonNull};

use kernel::error::from_err_ptr;
use kernel::ffi::c_void;
use kernel::prelude::*;

use super::{shim, PollFile};

/// The most packets taken from the ring at once.
const BATCH: usize = 64;

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

/// The consumer's end of a tap's ring.
///
/// # Invariants
///
/// `ring` belongs to `file`. `packets[next..len]` came from it, in order, and are owned; `lens` has
/// their lengths. `next` and `len` are at most `BATCH`.
pub(super) struct Ring {
    file: PollFile,
    ring: NonNull<shim::CPtrRing>,
    packets: [*mut c_void; BATCH],
    /// Lengths of the packets in bytes, VLAN tags included.
    lens: [u32; BATCH],
    next: usize,
    len: usize,
}

impl Ring {
    /// The ring of a tun or tap file.
    ///
    /// # Errors
    ///
    /// `ENOTSOCK` for any other file.
    pub(super) fn of_tap(file: PollFile) -> Result<impl Init<Self>> {
        // SAFETY: both functions check the kind of the file first; the file is open.
        let ring = from_err_ptr(unsafe { shim::tun_get_tx_ring(file.as_ptr()) })
            // SAFETY: as above.
            .or_else(|_| from_err_ptr(unsafe { shim::tap_get_ptr_ring(file.as_ptr()) }))
            .map_err(|_| ENOTSOCK)?;
        let ring = NonNull::new(ring).ok_or(ENOTSOCK)?;
        // INVARIANT: `ring` is the file's own; there are no packets yet.
        Ok(init!(Self {
            file,
            ring,
            packets: [null_mut(); BATCH],
            lens: [0; BATCH],
            next: 0,
            len: 0,
        }))
    }

    /// Number of packets taken from the ring and not handed out, after taking a new batch if there
    /// are none.
    #[inline]
    pub(super) fn backlog(&mut self) -> usize {
        self.fill();
        self.len.saturating_sub(self.next)
    }

    /// Whether there are packets taken from the ring and not handed out.
    #[inline]
    pub(super) fn has_left(&self) -> bool {
        self.next < self.len
    }

    /// Takes a batch of packets from the ring if none of the last batch are left; returns whether
    /// there are any then.
    #[inline]
    fn fill(&mut self) -> bool {
        if self.next < self.len {
            return true;
        }
        self.next = 0;
        // SAFETY: the file keeps its ring alive; up to `BATCH` pointers and lengths are written.
        // INVARIANT: the packets are owned now.
        self.len = unsafe {
            shim::rnet_ring_consume(
                self.ring.as_ptr(),
                self.file.as_ptr(),
                self.packets.as_mut_ptr(),
                self.lens.as_mut_ptr(),
                BATCH,
            )
        };
        self.len != 0
    }

    /// Length in bytes of the next packet, including a VLAN tag.
    #[inline]
    pub(super) fn next_len(&mut self) -> Option<usize> {
        if !self.fill() {
            return None;
        }
        // SAFETY: `next` is less than `len`, which is at most `BATCH`.
        // CAST: `u32` fits `usize`.
        Some(unsafe { *self.lens.get_unchecked(self.next) } as usize)
    }

    /// Takes the next packet, if [`Ring::next_len`] has found one.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Packet> {
        if self.next >= self.len {
            return None;
        }
        // SAFETY: `next` is less than `len`, which is at most `BATCH`.
        let packet = unsafe { *self.packets.get_unchecked(self.next) };
        // INVARIANT: the packet is moved out of the range, which shrinks by it.
        self.next = self.next.wrapping_add(1);
        Some(Packet(packet))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if let Some(rest) = self.packets.get_mut(self.next..self.len) {
            // SAFETY: the file keeps its ring alive, and the packets came from it. Those that no
            // longer fit are freed.
            unsafe { shim::rnet_ring_unconsume(self.ring.as_ptr(), rest.as_mut_ptr(), rest.len()) };
        }
    }
}
