// SPDX-License-Identifier: GPL-2.0

//! The ring formats, so that tests can be generic over them.

use std::fmt::Debug;

use vring::{
    Desc, Fault, Look, Memory, PackedRing, Position, Ring, RingAddrs, SplitRing, UserAddr,
};

use super::driver::{indirect, Buf, Driver};
use super::memory::MockMemory;
use super::op::Op;
use super::packed::PackedDriver;

/// A ring format, with its device side and its driver side.
pub trait Format: Debug + 'static {
    /// The device's side.
    type Ring: SetUp;
    /// The driver's side.
    type Driver: DriverSide;
    /// Sizes that rings of this format may have, including the smallest and the largest.
    const SIZES: &'static [u16];
    /// Whether the device writes descriptors.
    const WRITES_DESCS: bool;
    /// Number of accesses that may fail in a completion across the end of the ring.
    const COMPLETION: usize;
    /// Whether [`vring::KickControl`] tells the device only once to look for the same chains.
    ///
    /// If not, it does so until the device looks, and `await_kick` makes it look once in any case.
    const NEWS_IS_KNOWN: bool;
    /// Whether a request for no kicks is stored also with event indexes, when the event could
    /// merely not be moved on.
    const STORES_OFF: bool;

    /// Where the device continues in a ring of `size` after taking `chains` chains of `slots`
    /// descriptors from `at` on.
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
    const WRITES_DESCS: bool = false;
    // The elements before the end of the ring, those behind it, and the index.
    const COMPLETION: usize = 3;
    const NEWS_IS_KNOWN: bool = true;
    const STORES_OFF: bool = false;

    fn go_on(at: u16, _size: u16, chains: u16, _slots: u16) -> u16 {
        at.wrapping_add(chains)
    }
}

impl Format for Packed {
    type Ring = PackedRing;
    type Driver = PackedDriver;
    const SIZES: &'static [u16] = &[1, 2, 3, 8, 63, 64, 65, 300, 1000, 32767, 32768];
    const WRITES_DESCS: bool = true;
    const COMPLETION: usize = 1;
    const NEWS_IS_KNOWN: bool = false;
    const STORES_OFF: bool = true;

    fn go_on(at: u16, size: u16, _chains: u16, slots: u16) -> u16 {
        Position::from_bits(at).advance(size, slots).bits()
    }
}

/// The owner's set-up of a ring of any format.
pub trait SetUp: Ring + Look + Default + Debug {
    /// Sets the number of descriptors.
    fn set_size(&mut self, size: u32) -> bool;
    /// Moves the ring.
    fn set_addrs(&mut self, addrs: RingAddrs);
    /// Where the ring lies.
    fn addrs(&self) -> RingAddrs;
    /// Lengths of its parts.
    fn extents(&self) -> [u64; 3];
    /// Applies `VIRTIO_F_EVENT_IDX` and, if the format has it, `VIRTIO_F_NOTIFY_ON_EMPTY`.
    fn set_features(&mut self, event_idx: bool, notify_on_empty: bool);
    /// The base in the format's own layout; the place of the next chain is in the lower half.
    fn base(&self) -> u32;
    /// Sets the base.
    fn set_base(&mut self, base: u32);
    /// Discards what it knows of memory.
    fn forget_memory(&mut self);
    /// Discards what it has read ahead.
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
    /// A driver of a ring that has already advanced by `start` descriptors (packed) or chains
    /// (split), with memory and base to match.
    fn new(memory: &MockMemory, addrs: RingAddrs, size: u16, start: u16, event_idx: bool) -> Self;
    /// The base that the owner has to set in the device for the ring as it is, with all chains
    /// given back.
    fn base(&self) -> u32;
    /// Number of descriptors not in use.
    fn free(&self) -> usize;
    /// Adds a chain; returns its id, or `None` when too few descriptors are free.
    fn add(&mut self, memory: &MockMemory, bufs: &[Buf]) -> Option<u16>;
    /// Adds a chain of one descriptor, which may be any.
    fn add_desc(&mut self, memory: &MockMemory, desc: Desc) -> Option<u16>;
    /// The bytes of an indirect table.
    fn table(bufs: &[Buf]) -> Vec<u8>;
    /// Adds a chain as an indirect table at guest address `table`, user address `user`.
    fn add_indirect(
        &mut self,
        memory: &MockMemory,
        table: u64,
        user: UserAddr,
        bufs: &[Buf],
    ) -> Option<u16> {
        memory.poke(user.0, &Self::table(bufs));
        self.add_desc(memory, indirect(table, bufs.len() as u32))
    }
    /// The place of the first chain that it has not made available yet, as the lower half of a
    /// base.
    fn published(&self) -> u16;
    /// The place of the first chain that the device does not know to be available after the access
    /// `op`, if that access tells.
    fn known_by(&self, op: &Op) -> Option<u16>;
    /// Makes the added chains available; returns whether the device wants a kick for them.
    fn publish(&mut self, memory: &MockMemory) -> bool;
    /// Takes the next used chain: id and length.
    fn poll(&mut self, memory: &MockMemory) -> Option<(u16, u32)>;
    /// Takes the next group of used chains, under `VIRTIO_F_IN_ORDER`: their ids, in the order in
    /// which they were added, and the length of the last.
    fn poll_group(&mut self, memory: &MockMemory) -> Option<(Vec<u16>, u32)>;
    /// Whether there is a used chain to take.
    fn has_used(&self, memory: &MockMemory) -> bool;
    /// Asks for a call when `more + 1` further chains have been used; without event indexes for any
    /// call.
    fn want_calls(&mut self, memory: &MockMemory, more: u16);
    /// Asks for no calls.
    fn no_calls(&mut self, memory: &MockMemory);
    /// Whether the event that [`DriverSide::want_calls`] asked for has occurred.
    fn is_due(&self, memory: &MockMemory) -> bool;
    /// Changes the ring's place and features, but not its contents.
    fn move_to(&mut self, addrs: RingAddrs, event_idx: bool);
    /// Writes to the device area that no kick is wanted.
    fn ask_for_no_kick(&self, memory: &MockMemory);
}
