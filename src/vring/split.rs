// SPDX-License-Identifier: GPL-2.0

//! Split virtqueues (virtio 1.3, section 2.7).
//!
//! Index arithmetic: `last_avail`, `avail` and `last_used` count modulo 2^16 and are masked to a
//! ring position only when an address is computed. The driver owns the entries of the available
//! ring from `avail` on; the device owns those from `last_avail` up to `avail`, the first
//! `prefetch.len - prefetch.next` of which it has already read.
//!
//! `avail`, `seen`, the prefetch, `kicks` and `called` describe the memory at the ring's addresses,
//! in the layout of its features: calls that change addresses or features discard them.
//! `last_avail` and `last_used` stay, as in the in-tree vhost: only the owner moves them.

mod avail;
mod used;
mod kicks;
mod look;

use crate::addr::UserAddr;
use crate::chain::Window;
use crate::desc::{
    RawDesc, AVAIL_ENTRY_SIZE, DESC_SIZE, OFFSET_ENTRIES, OFFSET_FLAGS, OFFSET_INDEX,
    USED_ENTRY_SIZE, USED_F_NO_NOTIFY,
};
use crate::fault::Fault;
use crate::memory::Memory;
use crate::ring::{RingAddrs, PREFETCH};
use crate::segment::{Access, Hint};
use kicks::Kicks;

/// Heads and first descriptors of chains that have been read and not handed out yet.
#[derive(Debug)]
struct Prefetch {
    heads: [u16; PREFETCH],
    descs: [RawDesc; PREFETCH],
    /// Index of the next chain to hand out.
    next: usize,
    /// Number of chains read.
    len: usize,
}

/// The device side of a split ring.
#[derive(Debug)]
pub struct SplitRing {
    /// A power of two, at most [`MAX_RING_SIZE`](crate::MAX_RING_SIZE).
    size: u16,
    addrs: RingAddrs,
    event_idx: bool,
    notify_on_empty: bool,
    /// The next entry of the available ring to hand out.
    last_avail: u16,
    /// The driver's index as last read and found valid.
    avail: u16,
    /// The driver's index as last read, valid or not.
    seen: u16,
    /// The next entry of the used ring to fill.
    last_used: u16,
    /// `last_used` at the last decision whether to call; `None` when there is none, or it no longer
    /// counts.
    called: Option<u16>,
    kicks: Kicks,
    prefetch: Prefetch,
    window: Window,
    hint: Hint,
}

impl Default for SplitRing {
    /// A ring of one descriptor without addresses, as in a new device.
    // Inline, so that it is constructed in place: it is large for the kernel's stack.
    #[inline(always)]
    fn default() -> Self {
        Self {
            size: 1,
            addrs: RingAddrs::default(),
            event_idx: false,
            notify_on_empty: false,
            last_avail: 0,
            avail: 0,
            seen: 0,
            last_used: 0,
            called: None,
            kicks: Kicks::Unknown,
            prefetch: Prefetch {
                heads: [0; PREFETCH],
                descs: [[0; 2]; PREFETCH],
                next: 0,
                len: 0,
            },
            window: Window::default(),
            hint: Hint::default(),
        }
    }
}

/// Set-up, by the owner.
impl SplitRing {
    /// How the device accesses descriptors.
    pub const DESC_ACCESS: Access = Access::Read;

    /// Resets to the state of [`SplitRing::default`].
    ///
    /// The buffers for reading ahead keep their contents, which are not used.
    pub fn reset(&mut self) {
        // A new field does not compile until it is named here.
        let Self {
            size,
            addrs,
            event_idx,
            notify_on_empty,
            last_avail,
            avail,
            seen,
            last_used,
            called,
            kicks,
            prefetch: _,
            window: _,
            hint,
        } = self;
        *size = 1;
        *addrs = RingAddrs::default();
        *event_idx = false;
        *notify_on_empty = false;
        *last_avail = 0;
        *avail = 0;
        *seen = 0;
        *last_used = 0;
        *called = None;
        *kicks = Kicks::Unknown;
        *hint = Hint::default();
        self.forget_prefetch();
    }

    /// Forgets where the last buffer was found; to be called when the translation table changes.
    pub fn forget_hint(&mut self) {
        self.hint = Hint::default();
    }

    /// Sets the number of descriptors; returns `false` without a change unless it is a power of two
    /// from 1 to [`MAX_RING_SIZE`](crate::MAX_RING_SIZE).
    #[must_use]
    pub fn set_size(&mut self, size: u32) -> bool {
        match u16::try_from(size) {
            Ok(size) if size.is_power_of_two() => {
                self.size = size;
                self.forget_memory();
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

    /// Discards all that is known of memory: the ring is read again, and the driver is told again
    /// whether to kick.
    ///
    /// To be called when the translation of the ring's addresses or the byte order changes,
    /// together with [`SplitRing::forget_hint`].
    pub fn forget_memory(&mut self) {
        self.forget_prefetch();
        self.forget_index();
        self.kicks = Kicks::Unknown;
        self.called = None;
    }

    /// Discards the driver's index, so that everything up to it is looked for again.
    #[inline]
    fn forget_index(&mut self) {
        self.avail = self.last_avail;
        // An index in memory equal to `last_avail` means that nothing is available.
        self.seen = self.last_avail;
    }

    /// Where the ring lies.
    #[must_use]
    pub const fn addrs(&self) -> RingAddrs {
        self.addrs
    }

    /// Lengths of the descriptor table, the available ring and the used ring, in bytes.
    #[must_use]
    pub fn extents(&self) -> [u64; 3] {
        let size = u64::from(self.size);
        let event = if self.event_idx { 2 } else { 0 };
        // No wrap: at most 2^15 entries of at most 16 bytes.
        let ring = |entry: u64| {
            size.wrapping_mul(entry)
                .wrapping_add(OFFSET_ENTRIES)
                .wrapping_add(event)
        };
        [
            size.wrapping_mul(DESC_SIZE),
            ring(AVAIL_ENTRY_SIZE),
            ring(USED_ENTRY_SIZE),
        ]
    }

    /// Applies the negotiated `VIRTIO_F_EVENT_IDX` and `VIRTIO_F_NOTIFY_ON_EMPTY`.
    pub fn set_features(&mut self, event_idx: bool, notify_on_empty: bool) {
        if event_idx != self.event_idx {
            // The last request for kicks had the form of the old features, and the driver's
            // requests so far were about earlier calls.
            self.kicks = Kicks::Unknown;
            self.called = None;
        }
        self.event_idx = event_idx;
        self.notify_on_empty = notify_on_empty;
    }

    /// Sets the index of the available ring to continue at.
    pub fn set_base(&mut self, base: u16) {
        self.last_avail = base;
        self.forget_index();
        self.forget_prefetch();
    }

    /// The index of the available ring to continue at; chains handed out and not rewound are before
    /// it.
    #[must_use]
    pub const fn base(&self) -> u16 {
        self.last_avail
    }

    /// Starts the ring: loads the used index from memory and repeats the last request about kicks
    /// to the driver, or asks for kicks if the last request is not known.
    ///
    /// # Errors
    ///
    /// [`Fault::Unmapped`] when the used ring cannot be accessed; the ring then keeps its used
    /// index.
    pub fn start<M: Memory>(&mut self, memory: &M) -> Result<(), Fault> {
        let (kicks, flags) = match self.kicks {
            Kicks::Off => (Kicks::Off, USED_F_NO_NOTIFY),
            Kicks::On | Kicks::Unknown => (Kicks::On, 0),
        };
        self.set_kicks(memory, kicks, OFFSET_FLAGS, flags)?;
        // For `kicks_are_on`: the request is visible before any look for work. Pairs with the
        // driver's full barrier between moving the index and reading the request.
        memory.full_barrier();
        self.last_used = u16::from_le(memory.load(self.used_at(OFFSET_INDEX))?);
        self.called = None;
        // Another backend may have served the ring meanwhile.
        self.forget_index();
        self.forget_prefetch();
        Ok(())
    }
}

impl SplitRing {
    #[inline(always)]
    fn mask(&self) -> u16 {
        // No wrap: the size is a power of two.
        self.size.wrapping_sub(1)
    }

    #[inline(always)]
    fn avail_at(&self, offset: u64) -> UserAddr {
        self.addrs.avail.wrapping_add(offset)
    }

    #[inline(always)]
    fn used_at(&self, offset: u64) -> UserAddr {
        self.addrs.used.wrapping_add(offset)
    }
}
