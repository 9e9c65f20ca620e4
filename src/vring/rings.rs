// SPDX-License-Identifier: GPL-2.0

//! A virtqueue's ring in the format that driver and owner have negotiated.

use crate::fault::Fault;
use crate::look::{Look, Offer, Progress};
use crate::memory::{LoadMemory, Memory};
use crate::packed::PackedRing;
use crate::ring::{GetWork, RingAddrs};
use crate::segment::Access;
use crate::split::SplitRing;

/// A ring of each format; the owner sets up, and a round uses, the one in force.
#[derive(Debug)]
pub struct Rings {
    split: SplitRing,
    packed: PackedRing,
    is_packed: bool,
    /// The number of descriptors that the owner has set; the ring in force may not be able to have
    /// it.
    size: u16,
}

/// The ring in force.
#[derive(Debug)]
pub enum InForce<'a> {
    /// A split ring.
    Split(&'a mut SplitRing),
    /// A packed ring.
    Packed(&'a mut PackedRing),
}

/// Evaluates an expression with the ring in force.
macro_rules! with_ring {
    ($rings:expr, |$ring:ident| $what:expr) => {
        if $rings.is_packed {
            let $ring = &$rings.packed;
            $what
        } else {
            let $ring = &$rings.split;
            $what
        }
    };
    ($rings:expr, |mut $ring:ident| $what:expr) => {
        if $rings.is_packed {
            let $ring = &mut $rings.packed;
            $what
        } else {
            let $ring = &mut $rings.split;
            $what
        }
    };
}

impl Default for Rings {
    /// A split ring of one descriptor without addresses, as in a new device.
    // Inline, so that it is constructed in place: it is large for the kernel's stack.
    #[inline(always)]
    fn default() -> Self {
        Self {
            split: SplitRing::default(),
            packed: PackedRing::default(),
            is_packed: false,
            size: 1,
        }
    }
}

impl Rings {
    /// The ring in force.
    #[inline(always)]
    pub fn in_force(&mut self) -> InForce<'_> {
        if self.is_packed {
            InForce::Packed(&mut self.packed)
        } else {
            InForce::Split(&mut self.split)
        }
    }

    /// The split ring, in force or not.
    #[inline(always)]
    pub fn split(&mut self) -> &mut SplitRing {
        &mut self.split
    }

    /// The packed ring, in force or not.
    #[inline(always)]
    pub fn packed(&mut self) -> &mut PackedRing {
        &mut self.packed
    }

    /// Whether the packed ring is in force.
    #[inline]
    #[must_use]
    pub const fn is_packed(&self) -> bool {
        self.is_packed
    }

    /// Resets to the state of [`Rings::default`].
    pub fn reset(&mut self) {
        // A new field does not compile until it is named here.
        let Self {
            split,
            packed,
            is_packed,
            size,
        } = self;
        split.reset();
        packed.reset();
        *is_packed = false;
        *size = 1;
    }

    /// Applies the negotiated `VIRTIO_F_RING_PACKED`, `VIRTIO_F_EVENT_IDX` and
    /// `VIRTIO_F_NOTIFY_ON_EMPTY`; packed rings do not have the last.
    ///
    /// When the format changes, the ring that comes into force takes the size and the addresses
    /// that the owner has set, and is otherwise as after a reset: a base has another meaning in the
    /// other format.
    pub fn set_features(&mut self, is_packed: bool, event_idx: bool, notify_on_empty: bool) {
        if is_packed != self.is_packed {
            let addrs = self.addrs();
            let size = u32::from(self.size);
            self.is_packed = is_packed;
            with_ring!(self, |mut ring| {
                ring.reset();
                ring.set_addrs(addrs);
                // `has_size` reports a size that this format does not have.
                let _ = ring.set_size(size);
            });
        }
        self.split.set_features(event_idx, notify_on_empty);
        self.packed.set_features(event_idx);
    }

    /// Sets the number of descriptors; returns `false` without a change if the format in force does
    /// not allow it.
    #[must_use]
    pub fn set_size(&mut self, size: u32) -> bool {
        let is_set = with_ring!(self, |mut ring| ring.set_size(size));
        if is_set {
            self.size = self.size();
        }
        is_set
    }

    /// Whether the ring in force has the number of descriptors that the owner has set.
    ///
    /// The owner may have set a number before the format that the format does not allow; the ring
    /// then has one descriptor.
    #[must_use]
    pub fn has_size(&self) -> bool {
        self.size() == self.size
    }

    /// Number of descriptors.
    #[must_use]
    pub fn size(&self) -> u16 {
        with_ring!(self, |ring| ring.size())
    }

    /// Moves the ring.
    pub fn set_addrs(&mut self, addrs: RingAddrs) {
        with_ring!(self, |mut ring| ring.set_addrs(addrs));
    }

    /// Where the ring lies.
    #[must_use]
    pub fn addrs(&self) -> RingAddrs {
        with_ring!(self, |ring| ring.addrs())
    }

    /// Whether `addrs` are aligned as the format in force needs (virtio 1.3, sections 2.7 and
    /// 2.8.10).
    ///
    /// The alignment of a split ring's descriptor table is not checked, as in the in-tree vhost.
    #[must_use]
    pub const fn is_aligned(&self, addrs: &RingAddrs) -> bool {
        let RingAddrs { desc, avail, used } = addrs;
        if self.is_packed {
            desc.0 & 15 == 0 && avail.0 & 3 == 0 && used.0 & 3 == 0
        } else {
            avail.0 & 1 == 0 && used.0 & 3 == 0
        }
    }

    /// Lengths of the three parts of the ring, in bytes.
    #[must_use]
    pub fn extents(&self) -> [u64; 3] {
        with_ring!(self, |ring| ring.extents())
    }

    /// How the device accesses descriptors.
    #[must_use]
    pub const fn desc_access(&self) -> Access {
        if self.is_packed {
            PackedRing::DESC_ACCESS
        } else {
            SplitRing::DESC_ACCESS
        }
    }

    /// Sets where to continue, by [`SplitRing::set_base`] or [`PackedRing::set_base`]; returns
    /// `false` without a change if the format in force has no such base.
    #[must_use]
    pub fn set_base(&mut self, base: u32) -> bool {
        if self.is_packed {
            self.packed.set_base(base);
            return true;
        }
        match u16::try_from(base) {
            Ok(base) => {
                self.split.set_base(base);
                true
            }
            Err(_) => false,
        }
    }

    /// Where to continue.
    #[must_use]
    pub fn base(&self) -> u32 {
        if self.is_packed {
            self.packed.base()
        } else {
            u32::from(self.split.base())
        }
    }

    /// Forgets all that is known of memory ([`SplitRing::forget_memory`]).
    pub fn forget_memory(&mut self) {
        with_ring!(self, |mut ring| ring.forget_memory());
    }

    /// Forgets what was read ahead ([`SplitRing::forget_prefetch`]).
    pub fn forget_prefetch(&mut self) {
        with_ring!(self, |mut ring| ring.forget_prefetch());
    }

    /// Forgets where the last buffer was found ([`SplitRing::forget_hint`]).
    pub fn forget_hint(&mut self) {
        with_ring!(self, |mut ring| ring.forget_hint());
    }

    /// Starts the ring ([`SplitRing::start`], [`PackedRing::start`]).
    ///
    /// # Errors
    ///
    /// Those of the ring in force.
    pub fn start<M: Memory>(&mut self, memory: &M) -> Result<(), Fault> {
        with_ring!(self, |mut ring| ring.start(memory))
    }
}

impl Look for Rings {
    fn progress(&self) -> Progress {
        with_ring!(self, |ring| ring.progress())
    }

    fn offer<M: LoadMemory>(&self, memory: &M) -> Result<Offer, Fault> {
        with_ring!(self, |ring| ring.offer(memory))
    }

    fn wants_calls<M: LoadMemory>(&self, memory: &M) -> Result<bool, Fault> {
        with_ring!(self, |ring| ring.wants_calls(memory))
    }
}
