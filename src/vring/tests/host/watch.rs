// SPDX-License-Identifier: GPL-2.0

//! Checks of what a ring may do, whatever memory contains and however it changes.

use std::collections::BTreeSet;

use vring::{
    Chain, MemTable, PackedRing, Position, Region, RingAddrs, Segment, Segments, SplitRing,
};
use vring::{CompleteWork, GetWork, KickControl, UserAddr, MAX_CHAIN_DESCS, MAX_CHAIN_SEGMENTS};

use crate::mock::{segment, Format, MockMemory, Op, Packed, SetUp, Split};

/// Most loads for one window of an indirect table.
const WINDOW_PIECES: usize = 16;

/// The largest ring that is watched, in descriptors.
pub const MAX_SIZE: u16 = 64;

/// The mapped areas: the rings, and two areas of guest memory.
pub const AREAS: [(u64, usize); 3] = [(0x1_0000, 0x1000), (0x4_0000, 0x1000), (0x8_0000, 0x800)];

/// Ring addresses inside the first area, for rings of up to [`MAX_SIZE`].
pub const GOOD: RingAddrs = RingAddrs {
    desc: UserAddr(0x1_0000),
    avail: UserAddr(0x1_0800),
    used: UserAddr(0x1_0c00),
};

/// One call of the owner or the worker.
#[derive(Clone, Copy, Debug)]
pub enum Deed {
    /// [`GetWork::next_chain`].
    Next,
    /// [`GetWork::rewind`] of up to so many of the chains taken.
    Rewind(u16),
    /// [`SetUp::forget_prefetch`].
    ForgetPrefetch,
    /// [`CompleteWork::complete`] of so many chains.
    Complete(u16),
    /// [`CompleteWork::complete_in_order`] of groups of so many chains.
    CompleteInOrder([u16; 3]),
    /// [`GetWork::has_work`].
    HasWork,
    /// [`CompleteWork::needs_call`].
    AskForCall,
    /// [`KickControl::disable_kick`].
    DisableKick,
    /// [`KickControl::enable_kick`].
    EnableKick,
    /// [`KickControl::await_kick`].
    AwaitKick,
    /// [`SetUp::start`].
    Start,
    /// [`SetUp::set_base`].
    SetBase(u32),
    /// [`SetUp::set_addrs`].
    SetAddrs(RingAddrs),
    /// [`SetUp::set_size`].
    SetSize(u32),
    /// [`SetUp::set_features`].
    SetFeatures(bool, bool),
    /// [`SetUp::forget_memory`].
    ForgetMemory,
}

/// A format whose rings can be watched.
pub trait Watched: Format {
    /// What is known of a ring.
    type Known: Default;

    /// The ring's base was set, or it has to read everything again.
    fn forget(known: &mut Self::Known);

    /// The ring has been started.
    fn started(known: &mut Self::Known, ring: &Self::Ring, memory: &MockMemory);

    /// Records what the ring has read; its base was `base`.
    fn look(known: &mut Self::Known, ring: &Self::Ring, memory: &MockMemory, base: u32);

    /// Checks that the chain that the ring took at `base` was available.
    fn took(known: &mut Self::Known, ring: &Self::Ring, base: u32, chain: &Chain);

    /// The ring has rewound `slots` descriptors to its present position.
    fn rewound(known: &mut Self::Known, ring: &Self::Ring, slots: u16);

    /// Checks by `log` that the driver was told of the `done` completed chains or groups, or of
    /// nothing.
    fn told(known: &mut Self::Known, ring: &Self::Ring, log: &[Op], deed: Deed, done: bool);

    /// Whether the ring may make this access to its own parts; `within` checks the access against
    /// an address and a length.
    fn is_allowed(ring: &Self::Ring, op: &Op, within: impl Fn(UserAddr, u64) -> bool) -> bool;
}

/// What is known of a split ring.
#[derive(Default)]
pub struct KnownSplit {
    /// The driver's index as the ring last read it; `None` after its base was set or it has to read
    /// the index again.
    avail: Option<u16>,
    /// The used index that memory has to contain.
    used: u16,
}

impl Watched for Split {
    type Known = KnownSplit;

    fn forget(known: &mut KnownSplit) {
        known.avail = None;
    }

    fn started(known: &mut KnownSplit, ring: &SplitRing, memory: &MockMemory) {
        let index = ring.addrs().used.wrapping_add(2);
        let found = memory.loaded_from(index);
        known.used = found.expect("the ring looks where to continue");
        // The two rings may lie at the same place.
        memory.take_loaded();
    }

    fn look(known: &mut KnownSplit, ring: &SplitRing, memory: &MockMemory, base: u32) {
        let index = ring.addrs().avail.wrapping_add(2);
        let read = memory.loaded_from(index);
        // The ring does not accept an index that is too far ahead.
        let taken_over = |avail: &u16| avail.wrapping_sub(base as u16) <= ring.size();
        known.avail = read.filter(taken_over).or(known.avail);
    }

    fn took(known: &mut KnownSplit, ring: &SplitRing, base: u32, chain: &Chain) {
        assert!(chain.id < ring.size());
        let avail = known.avail.expect("the index is read before any entry");
        // After a rewind it may be more than the ring has entries, but never so many.
        let ahead = avail.wrapping_sub(base as u16);
        assert!(
            (1..0x8000).contains(&ahead),
            "took {base}, {avail} is not there"
        );
    }

    fn rewound(_: &mut KnownSplit, _: &SplitRing, _: u16) {}

    fn told(known: &mut KnownSplit, ring: &SplitRing, log: &[Op], deed: Deed, done: bool) {
        let mut told = 0;
        let new = known.used.wrapping_add(deed.completes());
        for op in log {
            if let Op::StoreRelease(addr, index) = op {
                told += 1;
                assert_eq!(*addr, ring.addrs().used.wrapping_add(2));
                assert_eq!(*index, new, "{deed:?}");
            }
        }
        // The driver is told of completed chains only, and once.
        let completes = matches!(deed, Deed::Complete(_) | Deed::CompleteInOrder(_));
        assert!(told <= usize::from(completes), "{deed:?}");
        assert!(told == 1 || !(completes && done), "{deed:?}");
        if completes && done {
            known.used = new;
        }
    }

    fn is_allowed(ring: &SplitRing, op: &Op, within: impl Fn(UserAddr, u64) -> bool) -> bool {
        let RingAddrs { desc, avail, used } = ring.addrs();
        let [desc_len, avail_len, used_len] = ring.extents();
        match op {
            Op::Gather(table, _) => *table == desc && within(desc, desc_len),
            Op::LoadAcquire(_) | Op::LoadSlice(..) => within(avail, avail_len),
            // The used index when the ring starts, or else the driver's flags or event.
            Op::Load(_) => within(avail, avail_len) || within(used, used_len),
            Op::Store(..) | Op::StoreRelease(..) | Op::StoreUsed(..) => {
                op.ranges().iter().all(|range| range.is_empty()) || within(used, used_len)
            }
            _ => false,
        }
    }
}

/// What is known of a packed ring.
#[derive(Default)]
pub struct KnownPacked {
    /// Positions whose descriptors the ring found available and has not handed out since.
    available: BTreeSet<u16>,
}

/// The positions of `slots` descriptors from `base` on.
fn positions(ring: &PackedRing, base: u16, slots: u16) -> impl Iterator<Item = u16> {
    let size = ring.size();
    (0..slots).map(move |step| Position::from_bits(base).advance(size, step).bits())
}

impl Watched for Packed {
    type Known = KnownPacked;

    fn forget(known: &mut KnownPacked) {
        known.available.clear();
    }

    fn started(known: &mut KnownPacked, _: &PackedRing, memory: &MockMemory) {
        known.available.clear();
        memory.take_available();
    }

    fn look(known: &mut KnownPacked, ring: &PackedRing, memory: &MockMemory, _: u32) {
        for (addr, wrap, count) in memory.take_available() {
            let offset = addr.0.wrapping_sub(ring.addrs().desc.0) / 16;
            let bits = offset as u16 | u16::from(wrap) << 15;
            known.available.extend(positions(ring, bits, count as u16));
        }
    }

    fn took(known: &mut KnownPacked, ring: &PackedRing, base: u32, chain: &Chain) {
        for at in positions(ring, base as u16, chain.slots) {
            assert!(
                known.available.remove(&at),
                "took {at:#x}, which is not there"
            );
        }
    }

    fn rewound(known: &mut KnownPacked, ring: &PackedRing, slots: u16) {
        known
            .available
            .extend(positions(ring, ring.base() as u16, slots));
    }

    fn told(_: &mut KnownPacked, ring: &PackedRing, log: &[Op], deed: Deed, done: bool) {
        let stores = log.iter().filter_map(|op| match op {
            Op::StoreDesc { at, release, .. } => Some((*at, *release)),
            _ => None,
        });
        let stores: Vec<_> = stores.collect();
        assert!(stores.len() <= deed.entries(), "{deed:?}");
        if deed.entries() == 0 || !done {
            return;
        }
        assert_eq!(stores.len(), deed.entries());
        let (last, others) = stores.split_last().expect("at least one");
        assert!(last.1 && others.iter().all(|(_, release)| !release));
        // The ring's used position is behind them now.
        let used = Position::from_bits((ring.base() >> 16) as u16);
        let first = used.retreat(ring.size(), deed.completes());
        let first = 16 * u64::from(first.offset());
        assert_eq!(last.0, ring.addrs().desc.wrapping_add(first), "{deed:?}");
    }

    fn is_allowed(ring: &PackedRing, op: &Op, within: impl Fn(UserAddr, u64) -> bool) -> bool {
        let RingAddrs { desc, avail, used } = ring.addrs();
        let [desc_len, ..] = ring.extents();
        match op {
            Op::LoadAvailable { .. } | Op::StoreDesc { .. } | Op::Touch(_) => {
                within(desc, desc_len)
            }
            Op::LoadEvent(addr) => *addr == avail,
            Op::StoreEvent(addr, _) => *addr == used,
            _ => false,
        }
    }
}

/// A ring in use, and what is known of it.
pub struct Watch<F: Watched> {
    ring: F::Ring,
    memory: MockMemory,
    table: MemTable<Vec<Region>>,
    known: F::Known,
    /// Descriptor counts of the chains taken since the base was set and not given back.
    taken: Vec<u16>,
}

impl<F: Watched> Watch<F> {
    /// A ring of [`MAX_SIZE`] descriptors.
    pub fn new(memory: MockMemory, table: MemTable<Vec<Region>>, addrs: RingAddrs) -> Self {
        let mut ring = F::Ring::default();
        assert!(ring.set_size(u32::from(MAX_SIZE)));
        ring.set_addrs(addrs);
        Self {
            ring,
            memory,
            table,
            known: F::Known::default(),
            taken: Vec::new(),
        }
    }

    /// The memory that ring and guest share.
    pub fn memory(&self) -> &MockMemory {
        &self.memory
    }

    /// Makes one call and checks its effects; returns whether it took or completed a chain.
    ///
    /// # Panics
    ///
    /// When the ring did something that it must not do.
    pub fn check(&mut self, deed: Deed) -> bool {
        self.memory.take_log();
        self.memory.take_loaded();
        self.memory.take_available();
        let base = self.ring.base();
        let done = match deed {
            Deed::Next => self.next(),
            _ => self.call(deed),
        };
        self.look(base);
        let log = self.memory.take_log();
        let budget = self.budget(deed);
        assert!(log.len() <= budget, "{deed:?} makes {} accesses", log.len());
        for op in &log {
            assert!(self.is_allowed(op), "{deed:?} makes {op:?}");
        }
        F::told(&mut self.known, &self.ring, &log, deed, done);
        done
    }

    fn look(&mut self, base: u32) {
        F::look(&mut self.known, &self.ring, &self.memory, base);
    }

    /// The ring continues elsewhere, or reads everything again.
    fn forget(&mut self) {
        F::forget(&mut self.known);
        self.taken.clear();
    }

    /// Makes any call except [`Deed::Next`].
    fn call(&mut self, deed: Deed) -> bool {
        let Self { ring, memory, .. } = self;
        let memory = &*memory;
        match deed {
            Deed::Next => false,
            Deed::Rewind(chains) => {
                let chains = self.taken.len().min(usize::from(chains));
                let back = self.taken.split_off(self.taken.len() - chains);
                let slots = back
                    .iter()
                    .fold(0, |sum: u16, slots| sum.wrapping_add(*slots));
                ring.rewind(chains as u16, slots);
                F::rewound(&mut self.known, ring, slots);
                false
            }
            Deed::ForgetPrefetch => {
                ring.forget_prefetch();
                false
            }
            Deed::Complete(count) => {
                let used: Vec<_> = (0..count).map(|id| F::Ring::used_entry(id, 1, 1)).collect();
                ring.complete(memory, &used).is_ok()
            }
            Deed::CompleteInOrder(groups) => {
                let used = groups.map(|count| F::Ring::used_entry(count, count, 1));
                ring.complete_in_order(memory, &used, &groups).is_ok()
            }
            Deed::HasWork => ring.has_work(memory).is_err(),
            Deed::AskForCall => ring.needs_call(memory),
            Deed::DisableKick => ring.disable_kick(memory).is_ok(),
            Deed::EnableKick => ring.enable_kick(memory).is_ok(),
            Deed::AwaitKick => {
                let awaits = ring.await_kick(memory).is_ok();
                // The ring does not use the index that this finds.
                memory.take_loaded();
                awaits
            }
            Deed::Start => {
                let started = ring.start(memory).is_ok();
                if started {
                    F::started(&mut self.known, ring, memory);
                    self.forget();
                }
                started
            }
            Deed::SetBase(base) => {
                ring.set_base(base);
                self.forget();
                false
            }
            Deed::SetAddrs(addrs) => {
                ring.set_addrs(addrs);
                self.forget();
                false
            }
            Deed::SetSize(size) => {
                let is_set = ring.set_size(size);
                if is_set {
                    self.forget();
                }
                is_set
            }
            Deed::ForgetMemory => {
                ring.forget_memory();
                self.forget();
                false
            }
            Deed::SetFeatures(event, empty) => {
                ring.set_features(event, empty);
                false
            }
        }
    }

    /// Takes a chain into a list that already holds an unrelated segment.
    fn next(&mut self) -> bool {
        let base = self.ring.base();
        let kept = segment(7, 7);
        let mut storage = vec![Segment::default(); MAX_CHAIN_SEGMENTS + 10];
        let mut out = Segments::new(&mut storage);
        out.push(kept).unwrap();
        let chain = self
            .ring
            .next_chain(&self.memory, &self.table, &mut out)
            .ok()
            .flatten();
        F::look(&mut self.known, &self.ring, &self.memory, base);
        assert_eq!(out.as_slice()[0], kept);
        let new = out.from(1);
        let Some(chain) = chain else {
            assert!(new.is_empty());
            assert_eq!(self.ring.base(), base);
            return false;
        };
        let size = self.ring.size();
        let next = F::go_on(base as u16, size, 1, chain.slots);
        assert_eq!(self.ring.base(), base & 0xffff_0000 | u32::from(next));
        assert_eq!(chain.readable + chain.writable, new.len());
        assert!(new.len() <= MAX_CHAIN_SEGMENTS);
        assert!((1..=MAX_CHAIN_DESCS).contains(&chain.descs));
        assert!(chain.slots <= size);
        assert!((1..=chain.descs).contains(&u32::from(chain.slots)));
        assert_eq!(new.iter().map(|s| s.len).sum::<u64>(), chain.len);
        for part in new {
            assert!(self.is_guest_memory(part.addr.0, part.len), "{part:?}");
        }
        F::took(&mut self.known, &self.ring, base, &chain);
        self.taken.push(chain.slots);
        true
    }

    /// Whether guest memory maps to all `len` bytes at `addr`.
    fn is_guest_memory(&self, addr: u64, len: u64) -> bool {
        self.table.regions().iter().any(|region| {
            let offset = addr.wrapping_sub(region.user.0);
            offset < region.size && len <= region.size - offset
        })
    }

    /// Whether the ring may make this access.
    fn is_allowed(&self, op: &Op) -> bool {
        let within = |place: UserAddr, extent: u64| {
            op.ranges().iter().all(|range| {
                // CAST: reverses the widening, wrapped addresses included.
                let offset = (range.start as u64).wrapping_sub(place.0);
                offset < extent && (range.end - range.start) <= u128::from(extent - offset)
            })
        };
        match op {
            Op::Barrier => true,
            // These are accesses of mediated memory only.
            Op::StoreBytes(..) | Op::SetBits(..) => false,
            Op::LoadBytes(addr, len) => self.is_guest_memory(addr.0, *len as u64),
            _ => F::is_allowed(&self.ring, op, within),
        }
    }

    /// The most accesses that one call may make.
    fn budget(&self, deed: Deed) -> usize {
        match deed {
            // A look for work, perhaps twice; then each descriptor by itself.
            Deed::Next => 5 + MAX_CHAIN_DESCS as usize * (1 + WINDOW_PIECES),
            // Each descriptor by itself, after a check of up to two pages and the ring's end; or
            // many together.
            Deed::Complete(count) => 3 + usize::from(count),
            Deed::CompleteInOrder(groups) => 3 + 2 * groups.len(),
            _ => 3,
        }
    }
}

impl Deed {
    /// Number of used entries passed to the ring.
    fn entries(self) -> usize {
        match self {
            Self::Complete(count) => usize::from(count),
            Self::CompleteInOrder(groups) => groups.len(),
            _ => 0,
        }
    }

    /// Number of chains that it completes.
    fn completes(self) -> u16 {
        match self {
            Self::Complete(count) => count,
            Self::CompleteInOrder(groups) => groups.iter().sum(),
            _ => 0,
        }
    }
}
