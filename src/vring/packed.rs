// SPDX-License-Identifier: GPL-2.0

//! Packed virtqueues (virtio 1.3, section 2.8).
//!
//! One ring holds available and used descriptors. The driver makes a descriptor available by
//! setting its flags; the device gives it back by overwriting flags, id and length. Two bits of the
//! flags, compared with a wrap counter, say whether a descriptor is available or used
//! ([`Position`]). The device has two positions in the ring: that of the next chain to take, and
//! that of the next used descriptor to write. Both advance by the number of descriptors that a
//! chain occupies, although one used descriptor completes the whole chain. The descriptors between
//! the two positions are those that the device has taken and not given back.
//!
//! The ring's size need not be a power of two, so positions are not masked.
//!
//! What was read ahead, `kicks` and `since` describe the memory at the ring's addresses, in the
//! layout of its features: calls that change addresses or features discard them. The positions
//! stay, since memory does not record them: only the owner moves them.

mod ahead;
mod avail;
mod events;
mod look;
mod used;

use crate::addr::UserAddr;
use crate::chain::Window;
use crate::desc::{DESC_SIZE, EVENT_DISABLE, EVENT_ENABLE};
use crate::fault::Fault;
use crate::memory::Memory;
use crate::position::Position;
use crate::ring::{RingAddrs, MAX_RING_SIZE};
use crate::segment::{Access, Hint};
use ahead::Ahead;
use events::Kicks;

/// Length of the driver's or the device's event suppression structure, in bytes.
const EVENT_SIZE: u64 = 4;

/// Value of `since` when there is no earlier decision, or it no longer counts.
const LONG_AGO: u32 = u32::MAX;

/// The device side of a packed ring.
#[derive(Debug)]
pub struct PackedRing {
    /// From 1 to [`MAX_RING_SIZE`].
    size: u16,
    addrs: RingAddrs,
    event_idx: bool,
    /// Position of the next chain, and the descriptors read ahead from there.
    ahead: Ahead,
    /// Position of the next used descriptor to write.
    used: Position,
    /// The owner has set a base without that, and the ring has not been started since.
    used_unset: bool,
    /// Number of descriptors used since the last decision whether to call.
    since: u32,
    kicks: Kicks,
    window: Window,
    hint: Hint,
}

impl Default for PackedRing {
    /// A ring of one descriptor without addresses, as in a new device.
    // Inline, so that it is constructed in place: it is large for the kernel's stack.
    #[inline(always)]
    fn default() -> Self {
        Self {
            size: 1,
            addrs: RingAddrs::default(),
            event_idx: false,
            ahead: Ahead::default(),
            used: Position::START,
            used_unset: false,
            since: LONG_AGO,
            kicks: Kicks::Unknown,
            window: Window::default(),
            hint: Hint::default(),
        }
    }
}

/// Set-up, by the owner.
impl PackedRing {
    /// How the device accesses descriptors.
    pub const DESC_ACCESS: Access = Access::Write;

    /// Resets to the state of [`PackedRing::default`].
    ///
    /// The buffers for reading ahead keep their contents, which are not used.
    pub fn reset(&mut self) {
        // A new field does not compile until it is named here.
        let Self {
            size,
            addrs,
            event_idx,
            ahead,
            used,
            used_unset,
            since,
            kicks,
            window: _,
            hint,
        } = self;
        *size = 1;
        *addrs = RingAddrs::default();
        *event_idx = false;
        ahead.go_to(Position::START);
        *used = Position::START;
        *used_unset = false;
        *since = LONG_AGO;
        *kicks = Kicks::Unknown;
        *hint = Hint::default();
    }

    /// Forgets where the last buffer was found; to be called when the translation table changes.
    pub fn forget_hint(&mut self) {
        self.hint = Hint::default();
    }

    /// Sets the number of descriptors; returns `false` without a change unless it is from 1 to
    /// [`MAX_RING_SIZE`].
    ///
    /// The positions stay as the owner has set them; [`PackedRing::start`] checks them against the
    /// size.
    #[must_use]
    pub fn set_size(&mut self, size: u32) -> bool {
        match u16::try_from(size) {
            Ok(size @ 1..=MAX_RING_SIZE) => {
                self.forget_memory();
                self.size = size;
                true
            }
            _ => false,
        }
    }

    /// Moves the ring; the old memory is not accessed any more, and what was known of it is
    /// discarded.
    pub fn set_addrs(&mut self, addrs: RingAddrs) {
        self.addrs = addrs;
        self.forget_memory();
    }

    /// Discards all that is known of memory: descriptors are read again, and the driver is told
    /// again whether to kick.
    ///
    /// To be called when the translation of the ring's addresses changes, together with
    /// [`PackedRing::forget_hint`].
    pub fn forget_memory(&mut self) {
        let at = self.position();
        self.ahead.go_to(at);
        self.kicks = Kicks::Unknown;
        self.since = LONG_AGO;
    }

    /// Where the ring lies.
    #[must_use]
    pub const fn addrs(&self) -> RingAddrs {
        self.addrs
    }

    /// Lengths of the ring and of the driver's and the device's event suppression structure, in
    /// bytes.
    #[must_use]
    pub fn extents(&self) -> [u64; 3] {
        // No wrap: at most 2^15 descriptors.
        let ring = u64::from(self.size).wrapping_mul(DESC_SIZE);
        [ring, EVENT_SIZE, EVENT_SIZE]
    }

    /// Applies the negotiated `VIRTIO_F_EVENT_IDX`.
    pub fn set_features(&mut self, event_idx: bool) {
        if event_idx != self.event_idx {
            // The last request for kicks had the form of the old features, and the driver's
            // requests so far were about earlier calls.
            self.kicks = Kicks::Unknown;
            self.since = LONG_AGO;
        }
        self.event_idx = event_idx;
    }

    /// Sets the positions to continue at: the lower half of `base` is that of the next chain, the
    /// upper half that of the next used descriptor, each with its wrap counter in bit 15.
    ///
    /// Any base is kept exactly as it is set, so that the owner reads it back. Positions beyond the
    /// end of the ring are accepted, since the owner may still set the size.
    pub fn set_base(&mut self, base: u32) {
        // CAST: the halves of a word.
        let (avail, used) = (base as u16, (base >> 16) as u16);
        self.ahead.go_to(Position::from_bits(avail));
        self.used = Position::from_bits(used);
        self.used_unset = used == 0;
    }

    /// The positions to continue at, as [`PackedRing::set_base`] takes them; chains handed out and
    /// not rewound count as taken.
    #[must_use]
    pub fn base(&self) -> u32 {
        u32::from(self.position().bits()) | u32::from(self.used.bits()) << 16
    }

    /// Starts the ring: repeats the last request about kicks to the driver, or asks for kicks if
    /// the last request is not known.
    ///
    /// The ring continues at the positions that the owner has set, or else where it stopped: memory
    /// does not record them. A used position of 0 means that the owner has set none (DPDK's
    /// virtio-user): every chain taken has been given back, so both positions are the same.
    ///
    /// # Errors
    ///
    /// [`Fault::Base`] when a position is beyond the end of the ring; [`Fault::Unmapped`] when the
    /// device's event cannot be written.
    pub fn start<M: Memory>(&mut self, memory: &M) -> Result<(), Fault> {
        self.check(self.position())?;
        if core::mem::take(&mut self.used_unset) {
            self.used = self.position();
        }
        self.check(self.used)?;
        let (kicks, flags) = match self.kicks {
            Kicks::Off => (Kicks::Off, EVENT_DISABLE),
            Kicks::On | Kicks::Awaited(_) | Kicks::Unknown => (Kicks::On, EVENT_ENABLE),
        };
        self.set_kicks(memory, kicks, flags, None)?;
        // For `kicks_are_on`: the request is visible before any look for work. Pairs with the
        // driver's full barrier between making a chain available and reading the request.
        memory.full_barrier();
        self.since = LONG_AGO;
        // Another backend may have served the ring meanwhile.
        let at = self.position();
        self.ahead.go_to(at);
        Ok(())
    }
}

impl PackedRing {
    /// Position of the next chain.
    #[inline]
    fn position(&self) -> Position {
        self.ahead.position(self.size)
    }

    /// Checks that a position is within the ring, since the owner may have set any.
    #[inline]
    fn check(&self, at: Position) -> Result<(), Fault> {
        if at.offset() < self.size {
            Ok(())
        } else {
            Err(Fault::Base {
                base: self.base(),
                size: self.size,
            })
        }
    }

    /// User address of the descriptor at a position within the ring.
    #[inline]
    fn desc_at(&self, at: Position) -> UserAddr {
        desc_at(self.addrs.desc, at)
    }
}

/// User address of the descriptor at a position of the ring at `ring`.
#[inline]
fn desc_at(ring: UserAddr, at: Position) -> UserAddr {
    // No wrap: at most 2^15 descriptors.
    ring.wrapping_add(u64::from(at.offset()).wrapping_mul(DESC_SIZE))
}
