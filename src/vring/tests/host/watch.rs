// SPDX-License-Identifier: GPL-2.0

//! What a ring may do, whatever is in memory and whatever happens to it meanwhile.

use vring::{
    CompleteWork, GetWork, KickControl, MemTable, Region, RingAddrs, Segment, Segments, SplitRing,
    UserAddr,
};
use vring::{MAX_CHAIN_DESCS, MAX_CHAIN_SEGMENTS};

use crate::mock::{segment, MockMemory, Op};

/// Most loads for one window of an indirect table.
const WINDOW_PIECES: usize = 16;

/// The largest ring that is watched, in descriptors.
pub const MAX_SIZE: u16 = 64;

/// What is mapped: the rings, and two stretches of guest memory.
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
    /// [`GetWork::rewind`] of so many of the chains taken, as far as there are that many.
    Rewind(u16),
    /// [`SplitRing::forget_prefetch`].
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
    /// [`SplitRing::start`].
    Start,
    /// [`SplitRing::set_base`].
    SetBase(u16),
    /// [`SplitRing::set_addrs`].
    SetAddrs(RingAddrs),
    /// [`SplitRing::set_size`].
    SetSize(u32),
    /// [`SplitRing::set_features`].
    SetFeatures(bool, bool),
    /// [`SplitRing::forget_memory`].
    ForgetMemory,
}

/// A ring in use, and what is known of it.
pub struct Watch {
    ring: SplitRing,
    memory: MockMemory,
    table: MemTable<Vec<Region>>,
    /// The driver's index as the ring last read it; `None` since it was told where to continue, or
    /// that it has to read it again.
    avail: Option<u16>,
    /// Chains taken since then and not given back.
    taken: u16,
    /// The device's index as it has to be in memory.
    used: u16,
}

impl Watch {
    /// A ring of [`MAX_SIZE`] descriptors.
    pub fn new(memory: MockMemory, table: MemTable<Vec<Region>>, addrs: RingAddrs) -> Self {
        let mut ring = SplitRing::default();
        assert!(ring.set_size(u32::from(MAX_SIZE)));
        ring.set_addrs(addrs);
        Self {
            ring,
            memory,
            table,
            avail: None,
            taken: 0,
            used: 0,
        }
    }

    /// What the ring and the guest share.
    pub fn memory(&self) -> &MockMemory {
        &self.memory
    }

    /// Makes one call and checks what it did; whether it gave a chain or completed some.
    ///
    /// # Panics
    ///
    /// When the ring did what it may not.
    pub fn check(&mut self, deed: Deed) -> bool {
        self.memory.take_log();
        self.memory.take_loaded();
        let (base, used) = (self.ring.base(), self.used);
        let done = match deed {
            Deed::Next => self.next(),
            _ => self.call(deed),
        };
        self.look_at_index(base);
        let log = self.memory.take_log();
        let budget = self.budget(deed);
        assert!(log.len() <= budget, "{deed:?} makes {} accesses", log.len());
        let mut told = 0;
        for op in &log {
            assert!(self.is_allowed(op), "{deed:?} makes {op:?}");
            if let Op::StoreRelease(addr, index) = op {
                told += 1;
                assert_eq!(*addr, self.ring.addrs().used.wrapping_add(2));
                assert_eq!(*index, used.wrapping_add(deed.completes()), "{deed:?}");
            }
        }
        // The driver is told of nothing but what was completed, and then once.
        let completes = matches!(deed, Deed::Complete(_) | Deed::CompleteInOrder(_));
        assert!(told <= usize::from(completes), "{deed:?}");
        assert!(told == 1 || !(completes && done), "{deed:?}");
        done
    }

    /// Any call but for a chain.
    fn call(&mut self, deed: Deed) -> bool {
        let Self { ring, memory, .. } = self;
        let memory = &*memory;
        let done = match deed {
            Deed::Next => false,
            Deed::Rewind(chains) => {
                let chains = chains.min(self.taken);
                ring.rewind(chains, 0);
                self.taken -= chains;
                false
            }
            Deed::ForgetPrefetch => {
                ring.forget_prefetch();
                false
            }
            Deed::Complete(count) => {
                let used: Vec<_> = (0..count)
                    .map(|id| SplitRing::used_entry(id, 1, 1))
                    .collect();
                ring.complete(memory, &used).is_ok()
            }
            Deed::CompleteInOrder(groups) => {
                let used = groups.map(|count| SplitRing::used_entry(count, 1, 1));
                ring.complete_in_order(memory, &used, &groups).is_ok()
            }
            Deed::HasWork => ring.has_work(memory).is_err(),
            Deed::AskForCall => ring.needs_call(memory),
            Deed::DisableKick => ring.disable_kick(memory).is_ok(),
            Deed::EnableKick => ring.enable_kick(memory).is_ok(),
            Deed::AwaitKick => {
                let awaits = ring.await_kick(memory).is_ok();
                // That index the ring does not go by.
                memory.take_loaded();
                awaits
            }
            Deed::Start => {
                let started = ring.start(memory).is_ok();
                if started {
                    self.avail = None;
                    self.taken = 0;
                    let index = ring.addrs().used.wrapping_add(2);
                    let found = memory.loaded_from(index);
                    self.used = found.expect("the ring looks where to continue");
                    // The two rings may lie at the same place.
                    memory.take_loaded();
                }
                started
            }
            Deed::SetBase(base) => {
                ring.set_base(base);
                self.avail = None;
                self.taken = 0;
                false
            }
            Deed::SetAddrs(addrs) => {
                ring.set_addrs(addrs);
                self.avail = None;
                self.taken = 0;
                false
            }
            Deed::SetSize(size) => {
                self.avail = None;
                self.taken = 0;
                ring.set_size(size)
            }
            Deed::ForgetMemory => {
                ring.forget_memory();
                self.avail = None;
                self.taken = 0;
                false
            }
            Deed::SetFeatures(event, empty) => {
                ring.set_features(event, empty);
                false
            }
        };
        if done {
            self.used = self.used.wrapping_add(deed.completes());
        }
        done
    }

    /// Asks for a chain, behind a segment that has nothing to do with it.
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
        self.look_at_index(base);
        assert_eq!(out.as_slice()[0], kept);
        let new = out.from(1);
        let Some(chain) = chain else {
            assert!(new.is_empty());
            assert_eq!(self.ring.base(), base);
            return false;
        };
        assert_eq!(self.ring.base(), base.wrapping_add(1));
        assert_eq!(chain.readable + chain.writable, new.len());
        assert!(new.len() <= MAX_CHAIN_SEGMENTS);
        assert!((1..=MAX_CHAIN_DESCS).contains(&chain.descs));
        assert!(chain.slots <= self.ring.size());
        assert!((1..=chain.descs).contains(&u32::from(chain.slots)));
        assert!(chain.id < self.ring.size());
        assert_eq!(new.iter().map(|s| s.len).sum::<u64>(), chain.len);
        for part in new {
            assert!(self.is_guest_memory(part.addr.0, part.len), "{part:?}");
        }
        let avail = self.avail.expect("the index is read before any entry");
        // After chains were given back it may be more than the ring has entries, never so many.
        self.taken += 1;
        let ahead = avail.wrapping_sub(base);
        assert!(
            (1..0x8000).contains(&ahead),
            "took {base}, {avail} is not there"
        );
        true
    }

    /// Takes note of the driver's index, if the ring has read it when it stood at `base`.
    fn look_at_index(&mut self, base: u16) {
        let index = self.ring.addrs().avail.wrapping_add(2);
        let read = self.memory.loaded_from(index);
        // One that is too far ahead is not taken over.
        let taken_over = |avail: &u16| avail.wrapping_sub(base) <= self.ring.size();
        self.avail = read.filter(taken_over).or(self.avail);
    }

    /// Whether `len` bytes at `addr` are the image of guest memory.
    fn is_guest_memory(&self, addr: u64, len: u64) -> bool {
        self.table.regions().iter().any(|region| {
            let offset = addr.wrapping_sub(region.user.0);
            offset < region.size && len <= region.size - offset
        })
    }

    /// Whether the ring may make this access.
    fn is_allowed(&self, op: &Op) -> bool {
        let RingAddrs { desc, avail, used } = self.ring.addrs();
        let [desc_len, avail_len, used_len] = self.ring.extents();
        let within = |place: UserAddr, extent: u64| {
            op.ranges().iter().all(|range| {
                // CAST: back to where it wrapped.
                let offset = (range.start as u64).wrapping_sub(place.0);
                offset < extent && (range.end - range.start) <= u128::from(extent - offset)
            })
        };
        match op {
            Op::Barrier => true,
            // Of memory that is mediated.
            Op::StoreBytes(..) | Op::SetBits(..) => false,
            // Of a packed ring.
            Op::LoadAvailable { .. } | Op::StoreDesc { .. } => false,
            Op::Touch(_) | Op::LoadEvent(_) | Op::StoreEvent(..) => false,
            Op::LoadBytes(addr, len) => self.is_guest_memory(addr.0, *len as u64),
            Op::Gather(table, _) => *table == desc && within(desc, desc_len),
            Op::LoadAcquire(_) | Op::LoadSlice(..) => within(avail, avail_len),
            // The used index when the ring starts, else what the driver wishes.
            Op::Load(_) => within(avail, avail_len) || within(used, used_len),
            Op::Store(..) | Op::StoreRelease(..) | Op::StoreUsed(..) => {
                op.ranges().iter().all(|range| range.is_empty()) || within(used, used_len)
            }
        }
    }

    /// The most accesses that one call may make.
    fn budget(&self, deed: Deed) -> usize {
        match deed {
            // The index; entries and descriptors, perhaps twice; then each descriptor by itself.
            Deed::Next => 5 + MAX_CHAIN_DESCS as usize * (1 + WINDOW_PIECES),
            Deed::Complete(count) => 2 + usize::from(count / self.ring.size()) + 1,
            Deed::CompleteInOrder(groups) => 2 * groups.len() + 1,
            _ => 3,
        }
    }
}

impl Deed {
    /// How many chains it completes.
    fn completes(self) -> u16 {
        match self {
            Self::Complete(count) => count,
            Self::CompleteInOrder(groups) => groups.iter().sum(),
            _ => 0,
        }
    }
}
