// SPDX-License-Identifier: GPL-2.0

//! The formats of rings, so that one body of tests serves them all.

use std::fmt::Debug;

use vring::{Fault, Memory, PackedRing, Position, Ring, RingAddrs, SplitRing, UserAddr};

use super::driver::{Buf, Driver};
use super::memory::MockMemory;
use super::op::Op;
use super::packed::PackedDriver;

/// A format: its device's side and its driver's.
pub trait Format: Debug + 'static {
    /// The device's side.
    type Ring: SetUp;
    /// The driver's side.
    type Driver: DriverSide;
    /// Sizes that rings of this format may have, the smallest and the largest among them.
    const SIZES: &'static [u16];
    /// How many accesses a completion across the end of the ring makes that may fail.
    const COMPLETION: usize;
    /// Whether what [`vring::KickControl`] tells the device to look for is known from then on. If not, it
    /// tells of it until the device looks; and awaiting a kick has it look once, whatever there is.
    const NEWS_IS_KNOWN: bool;

    /// Where the device's side goes on that was at `at` in a ring of `size` and took `chains` chains of
    /// `slots` descriptors.
    fn go_on(at: u16, size: u16, chains: u16, slots: u16) -> u16;
}

/// Split rings.
#[derive(Debug)]
pub struct Split;

/// Packed rings.
#[derive(Debug)]
pub struct Packed;

impl Format for Split {
    type Ring = SplitRing;
    type Driver = Driver;
    const SIZES: &'static [u16] = &[1, 2, 4, 8, 64, 256, 1024, 16384, 32768];
    // Elements before and behind the end, and the index.
    const COMPLETION: usize = 3;
    const NEWS_IS_KNOWN: bool = true;

    fn go_on(at: u16, _size: u16, chains: u16, _slots: u16) -> u16 {
        at.wrapping_add(chains)
    }
}

impl Format for Packed {
    type Ring = PackedRing;
    type Driver = PackedDriver;
    const SIZES: &'static [u16] = &[1, 2, 3, 8, 63, 64, 65, 300, 1000, 32767, 32768];
    const COMPLETION: usize = 1;
    const NEWS_IS_KNOWN: bool = false;

    fn go_on(at: u16, size: u16, _chains: u16, slots: u16) -> u16 {
        Position::from_bits(at).advance(size, slots).bits()
    }
}

/// What the owner does to a ring of any format.
pub trait SetUp: Ring + Default + Debug {
    /// Sets the number of descriptors.
    fn set_size(&mut self, size: u32) -> bool;
    /// Moves the ring.
    fn set_addrs(&mut self, addrs: RingAddrs);
    /// Where the ring lies.
    fn addrs(&self) -> RingAddrs;
    /// Lengths of its parts.
    fn extents(&self) -> [u64; 3];
    /// Takes over `VIRTIO_F_EVENT_IDX` and, where there is such a thing, `VIRTIO_F_NOTIFY_ON_EMPTY`.
    fn set_features(&mut self, event_idx: bool, notify_on_empty: bool);
    /// Where it goes on, in the words of the format; where the next chain is, in the lower half.
    fn base(&self) -> u32;
    /// Lets it go on there.
    fn set_base(&mut self, base: u32);
    /// Forgets what it knows of memory.
    fn forget_memory(&mut self);
    /// Forgets what it has read ahead.
    fn forget_prefetch(&mut self);
    /// Starts it.
    fn start<M: Memory>(&mut self, memory: &M) -> Result<(), Fault>;
}

macro_rules! set_up {
    ($ring:ty, |$self:ident, $event_idx:ident, $empty:ident| $features:expr,
     |$base:ident| $from:expr) => {
        impl SetUp for $ring {
            fn set_size(&mut self, size: u32) -> bool {
                self.set_size(size)
            }

            fn set_addrs(&mut self, addrs: RingAddrs) {
                self.set_addrs(addrs);
            }

            fn addrs(&self) -> RingAddrs {
                self.addrs()
            }

            fn extents(&self) -> [u64; 3] {
                self.extents()
            }

            fn set_features(&mut self, $event_idx: bool, $empty: bool) {
                let $self = self;
                $features;
            }

            fn base(&self) -> u32 {
                self.base().into()
            }

            fn set_base(&mut self, $base: u32) {
                self.set_base($from);
            }

            fn forget_memory(&mut self) {
                self.forget_memory();
            }

            fn forget_prefetch(&mut self) {
                self.forget_prefetch();
            }

            fn start<M: Memory>(&mut self, memory: &M) -> Result<(), Fault> {
                self.start(memory)
            }
        }
    };
}

set_up!(
    SplitRing,
    |ring, event_idx, empty| ring.set_features(event_idx, empty),
    |base| base as u16
);
set_up!(
    PackedRing,
    |ring, event_idx, _empty| ring.set_features(event_idx),
    |base| base
);

/// The driver's side of a ring of any format.
pub trait DriverSide: Debug {
    /// A driver of a ring that has gone on by `start` descriptors or chains before, as its memory and the
    /// base say.
    fn new(memory: &MockMemory, addrs: RingAddrs, size: u16, start: u16, event_idx: bool) -> Self;
    /// What the owner has to give the device as the base of the ring as it is, all chains given back.
    fn base(&self) -> u32;
    /// Number of descriptors not in use.
    fn free(&self) -> usize;
    /// Adds a chain; its id, or `None` when too few descriptors are free.
    fn add(&mut self, memory: &MockMemory, bufs: &[Buf]) -> Option<u16>;
    /// Adds a chain as an indirect table at guest address `table`, user address `user`.
    fn add_indirect(
        &mut self,
        memory: &MockMemory,
        table: u64,
        user: UserAddr,
        bufs: &[Buf],
    ) -> Option<u16>;
    /// Where the first chain will be that it has not made available, as the lower half of a base.
    fn published(&self) -> u16;
    /// Where the first chain is that the device does not know to be available, if it finds that out by the
    /// access `op`.
    fn known_by(&self, op: &Op) -> Option<u16>;
    /// Makes available what was added; whether the device wants a kick for it.
    fn publish(&mut self, memory: &MockMemory) -> bool;
    /// Takes the next used chain: id and length.
    fn poll(&mut self, memory: &MockMemory) -> Option<(u16, u32)>;
    /// Whether there is a used chain to take.
    fn has_used(&self, memory: &MockMemory) -> bool;
    /// Asks for a call when, besides what has been taken, `more` chains and one have been used; without
    /// event indexes for any call.
    fn want_calls(&mut self, memory: &MockMemory, more: u16);
    /// Asks for no calls.
    fn no_calls(&mut self, memory: &MockMemory);
    /// Whether the event that [`DriverSide::want_calls`] asked for is there.
    fn is_due(&self, memory: &MockMemory) -> bool;
    /// The ring's place and features are others now; what it contains is not.
    fn move_to(&mut self, addrs: RingAddrs, event_idx: bool);
    /// Leaves the device's wish as if nobody wished for a kick.
    fn ask_for_no_kick(&self, memory: &MockMemory);
}
