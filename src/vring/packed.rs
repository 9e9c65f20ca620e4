// SPDX-License-Identifier: GPL-2.0

//! Packed virtqueues (virtio 1.3, section 2.8).
//!
//! One ring has it all. The driver makes a descriptor available by its flags, the device gives it back
//! by overwriting them, together with id and length; whose it is on which way round the ring, two bits
//! and a wrap counter say ([`Position`]). The device has two positions in it: where it takes the next
//! chain, and where the next used descriptor goes. Both go on by the descriptors that chains occupy,
//! not by chains, and used descriptors leave gaps. Between the two lies what the device has taken and
//! not given back.
//!
//! The ring's size is any number: there are no masks.
//!
//! What the ring knows of memory (what was read ahead, `kicks`, `since`) it knows of the memory at its
//! addresses, as its features lay it out: calls that change either make it forget that. The positions
//! stay, since nothing in memory tells them: they are the owner's to move.

mod ahead;
mod avail;
mod events;
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

/// Length of the driver's and the device's event, in bytes.
const EVENT_SIZE: u64 = 4;

/// Descriptors used since a decision that was never made, or no longer counts.
const LONG_AGO: u32 = u32::MAX;

/// The device side of a packed ring.
#[derive(Debug)]
pub struct PackedRing {
    /// From 1 to [`MAX_RING_SIZE`].
    size: u16,
    addrs: RingAddrs,
    event_idx: bool,
    /// Where the next chain is, and what of it has been read already.
    ahead: Ahead,
    /// Where the next used descriptor goes.
    used: Position,
    /// Descriptors used since the last decision whether to call.
    since: u32,
    kicks: Kicks,
    window: Window,
    hint: Hint,
}

impl Default for PackedRing {
    /// A ring of one descriptor, without addresses: as a device starts.
    // Inline, so that it is made where it stays: it is large for the kernel's stack.
    #[inline(always)]
    fn default() -> Self {
        Self {
            size: 1,
            addrs: RingAddrs::default(),
            event_idx: false,
            ahead: Ahead::default(),
            used: Position::START,
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

    /// Back to the state of [`PackedRing::default`]. What was read ahead stays where it is, unused.
    pub fn reset(&mut self) {
        // All of them named, so that none is forgotten.
        let Self {
            size,
            addrs,
            event_idx,
            ahead,
            used,
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
        *since = LONG_AGO;
        *kicks = Kicks::Unknown;
        *hint = Hint::default();
    }

    /// Forgets where the last buffer was found: buffers are looked up in another table from now on.
    pub fn forget_hint(&mut self) {
        self.hint = Hint::default();
    }

    /// Sets the number of descriptors; `false`, and no change, unless it is one from 1 to
    /// [`MAX_RING_SIZE`].
    ///
    /// The positions stay as the owner has set them; whether a ring of this size has them,
    /// [`PackedRing::start`] finds out.
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

    /// Moves the ring; nothing at the old place is accessed any more, and nothing known of it counts
    /// at the new one.
    pub fn set_addrs(&mut self, addrs: RingAddrs) {
        self.addrs = addrs;
        self.forget_memory();
    }

    /// Forgets all that is known of memory: it is read again, and the driver is told again whether to
    /// kick.
    ///
    /// For a ring whose addresses stay, while what they mean changes: their translation. The other half
    /// of that is [`PackedRing::forget_hint`].
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

    /// Lengths of the ring, the driver's event and the device's event, in bytes.
    #[must_use]
    pub fn extents(&self) -> [u64; 3] {
        // No wrap: at most 2^15 descriptors.
        let ring = u64::from(self.size).wrapping_mul(DESC_SIZE);
        [ring, EVENT_SIZE, EVENT_SIZE]
    }

    /// Takes over what driver and owner negotiated: `VIRTIO_F_EVENT_IDX`.
    pub fn set_features(&mut self, event_idx: bool) {
        if event_idx != self.event_idx {
            // The driver has been told in a way that no longer counts, and what it wished so far was
            // about other calls.
            self.kicks = Kicks::Unknown;
            self.since = LONG_AGO;
        }
        self.event_idx = event_idx;
    }

    /// Sets both positions to continue with: in the lower half of `base` that of the next chain, in the
    /// upper one that of the next used descriptor, each with its wrap counter in bit 15.
    ///
    /// An upper half of 0 beside another lower one is none (DPDK's virtio-user): all that was taken has
    /// been given back, so both are the same. Positions that the ring does not have are kept as they
    /// are, since its size may yet be set.
    pub fn set_base(&mut self, base: u32) {
        // CAST: the halves of a word.
        let (avail, used) = (base as u16, (base >> 16) as u16);
        self.ahead.go_to(Position::from_bits(avail));
        self.used = Position::from_bits(if used == 0 { avail } else { used });
    }

    /// The positions to continue with, as [`PackedRing::set_base`] takes them: chains handed out and not
    /// rewound are before that of the next chain.
    #[must_use]
    pub fn base(&self) -> u32 {
        u32::from(self.position().bits()) | u32::from(self.used.bits()) << 16
    }

    /// Starts the ring: tells the driver whether to kick, as it was when the ring stopped; if that is not
    /// known, to kick.
    ///
    /// The positions are those of the base, or where the ring stopped: memory does not tell them.
    ///
    /// # Errors
    ///
    /// [`Fault::Base`] when the ring does not have them; [`Fault::Unmapped`] when the device's event
    /// cannot be written.
    pub fn start<M: Memory>(&mut self, memory: &M) -> Result<(), Fault> {
        self.check(self.position())?;
        self.check(self.used)?;
        let (kicks, flags) = match self.kicks {
            Kicks::Off => (Kicks::Off, EVENT_DISABLE),
            Kicks::On | Kicks::Awaited(_) | Kicks::Unknown => (Kicks::On, EVENT_ENABLE),
        };
        self.set_kicks(memory, kicks, flags, None)?;
        // For `kicks_are_on`: the driver knows before any look for work. Pairs with its full barrier
        // between making a chain available and reading the wish.
        memory.full_barrier();
        self.since = LONG_AGO;
        // Others may have served the ring meanwhile.
        let at = self.position();
        self.ahead.go_to(at);
        Ok(())
    }
}

impl PackedRing {
    /// Where the next chain is.
    #[inline]
    fn position(&self) -> Position {
        self.ahead.position(self.size)
    }

    /// Makes sure that the ring has a position: the owner may have set any.
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

    /// User address of the descriptor at a position that the ring has.
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
