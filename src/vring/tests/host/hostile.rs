// SPDX-License-Identifier: GPL-2.0

//! Guests and owners out to do harm: any bytes anywhere, any addresses, memory that changes between
//! two looks. The ring may answer what it likes, but never panics, works without end, or touches
//! what it was not given.

use proptest::prelude::*;
use vring::{Desc, MemTable, Region, RingAddrs, Segment, Segments, SplitRing, UserAddr};
use vring::{DESC_F_INDIRECT, MAX_CHAIN_SEGMENTS};

use crate::mock::driver::desc_bytes;
use crate::mock::{region, segment, MockMemory, Op};

/// Descriptors of one chain at most, as `split.rs` has it.
const MAX_DESCS: usize = 2048;
/// Most loads for one window of an indirect table.
const WINDOW_PIECES: usize = 16;

/// What is mapped: the rings, and two stretches of guest memory.
const AREAS: [(u64, usize); 3] = [(0x1_0000, 0x1000), (0x4_0000, 0x1000), (0x8_0000, 0x800)];

/// A source of bytes that a test can carry into a hook.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        // xorshift64*.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % below
    }

    /// A descriptor that leads somewhere more often than not.
    fn desc(&mut self) -> Desc {
        let wild = self.roll(40) == 0;
        let flags = [0, 1, 1, 1, 1, 2, 2, 3, 3, 5, 4, 6, 7][self.roll(13) as usize];
        let table = flags & DESC_F_INDIRECT != 0;
        Desc {
            addr: match self.roll(12) {
                0 => self.0,
                1 => u64::MAX - self.roll(64),
                _ => self.roll(0x1800),
            },
            len: match self.roll(12) {
                0 => self.0 as u32,
                1 => 0,
                _ if table => 16 * self.roll(100) as u32,
                _ => self.roll(300) as u32,
            },
            flags: if wild { self.0 as u16 } else { flags },
            next: self.roll(if wild { 0x1_0000 } else { 40 }) as u16,
        }
    }

    /// Changes something in memory.
    fn harm(&mut self, memory: &MockMemory, addrs: RingAddrs) {
        let (start, len) = AREAS[self.roll(3) as usize];
        match self.roll(4) {
            0 => {
                let at = start + self.roll(len as u64 - 8);
                memory.poke(at, &self.0.to_le_bytes());
            }
            1 if addrs == GOOD => {
                let index = memory.peek16(addrs.avail.0 + 2);
                let jump = self.roll(8) as u16;
                memory.poke16(addrs.avail.0 + 2, index.wrapping_add(jump).wrapping_sub(1));
            }
            _ => {
                let at = start + 16 * self.roll(len as u64 / 16);
                memory.poke(at, &desc_bytes(self.desc()));
            }
        }
    }
}

/// Ring addresses inside the first area, for rings of up to 64.
const GOOD: RingAddrs = RingAddrs {
    desc: UserAddr(0x1_0000),
    avail: UserAddr(0x1_0800),
    used: UserAddr(0x1_0c00),
};

/// One call of the owner or the worker.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Next,
    Rewind(u16),
    Complete(u16),
    HasWork,
    AskForCall,
    DisableKick,
    EnableKick,
    Start,
    SetBase(u16),
    SetAddrs(RingAddrs),
    SetSize(u32),
    SetFeatures(bool, bool),
}

fn addrs() -> impl Strategy<Value = RingAddrs> {
    let place = || {
        let near = (0..3usize, 0..0x1100u64)
            .prop_map(|(area, at)| UserAddr((AREAS[area].0 - 0x80 + at) & !1));
        let top = (0..0x40u64).prop_map(|at| UserAddr((u64::MAX - at) & !1));
        prop_oneof![6 => near, 1 => top]
    };
    let any = (place(), place(), place());
    let any = any.prop_map(|(desc, avail, used)| RingAddrs { desc, avail, used });
    prop_oneof![4 => Just(GOOD), 3 => any]
}

fn deed() -> impl Strategy<Value = Deed> {
    use Deed::*;
    prop_oneof![
        20 => Just(Next),
        2 => (0..4u16).prop_map(Rewind),
        3 => (0..90u16).prop_map(Complete),
        2 => Just(HasWork),
        2 => Just(AskForCall),
        1 => Just(DisableKick),
        3 => Just(EnableKick),
        1 => Just(Start),
        1 => any::<u16>().prop_map(SetBase),
        1 => addrs().prop_map(SetAddrs),
        1 => (0..7u32).prop_map(|shift| SetSize(1 << shift)),
        1 => any::<(bool, bool)>().prop_map(|(event, empty)| SetFeatures(event, empty)),
    ]
}

/// Tables over the areas and over nothing at all, overlapping, in any order, up to the very top.
fn regions() -> impl Strategy<Value = Vec<Region>> {
    let sound = vec![
        region((0, 0x1000, 0x4_0000)),
        region((0x1000, 0x800, 0x8_0000)),
    ];
    let odd = (0..0x1800u64, 1..0x900u64, 0..5usize, 0..0x100u64).prop_map(
        |(guest, size, where_to, at)| {
            let user = match where_to {
                0 => 0x4_0000 + at,
                1 => 0x8_0000 + at,
                // The rings themselves, the null page, the top.
                2 => 0x1_0000 + at,
                3 => at,
                _ => u64::MAX - at,
            };
            region((guest, size, user))
        },
    );
    let top = (1..0x100u64).prop_map(|size| region((u64::MAX - size + 1, size, 0x4_0000)));
    let odd = proptest::collection::vec(prop_oneof![8 => odd, 1 => top], 0..12);
    prop_oneof![2 => Just(sound), 3 => odd]
}

/// Whether `len` bytes at `addr` are the image of guest memory.
fn is_guest_memory(table: &MemTable<Vec<Region>>, addr: u64, len: u64) -> bool {
    table.regions().iter().any(|region| {
        let offset = addr.wrapping_sub(region.user.0);
        offset < region.size && len <= region.size - offset
    })
}

/// Whether the ring may make this access.
fn is_allowed(op: &Op, ring: &SplitRing, table: &MemTable<Vec<Region>>) -> bool {
    let RingAddrs { desc, avail, used } = ring.addrs();
    let [desc_len, avail_len, used_len] = ring.extents();
    let within = |place: UserAddr, extent: u64| {
        op.ranges().iter().all(|range| {
            // CAST: back to where it wrapped.
            let offset = (range.start as u64).wrapping_sub(place.0);
            offset < extent && (range.end - range.start) <= u128::from(extent - offset)
        })
    };
    match op {
        Op::Barrier => true,
        Op::LoadBytes(addr, len) => is_guest_memory(table, addr.0, *len as u64),
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
fn budget(deed: Deed, ring: &SplitRing) -> usize {
    match deed {
        // The index; entries and descriptors, perhaps twice; then each descriptor by itself.
        Deed::Next => 5 + MAX_DESCS * (1 + WINDOW_PIECES),
        Deed::Complete(count) => 2 + usize::from(count / ring.size()) + 1,
        _ => 3,
    }
}

/// Makes one call and checks what it did.
fn check(
    deed: Deed,
    ring: &mut SplitRing,
    memory: &MockMemory,
    table: &MemTable<Vec<Region>>,
) -> Result<bool, TestCaseError> {
    memory.take_log();
    let base = ring.base();
    let mut took = false;
    match deed {
        Deed::Next => {
            let mut storage = vec![Segment::default(); MAX_CHAIN_SEGMENTS + 10];
            let mut out = Segments::new(&mut storage);
            let kept = segment(7, 7);
            out.push(kept).unwrap();
            match ring.next_chain(memory, table, &mut out) {
                Ok(Some(chain)) => {
                    took = true;
                    let new = out.from(1);
                    prop_assert_eq!(chain.readable + chain.writable, new.len());
                    prop_assert!(new.len() <= MAX_CHAIN_SEGMENTS);
                    prop_assert!(chain.head < ring.size());
                    prop_assert_eq!(new.iter().map(|s| s.len).sum::<u64>(), chain.len);
                    for part in new {
                        prop_assert!(is_guest_memory(table, part.addr.0, part.len));
                    }
                }
                Ok(None) | Err(_) => prop_assert_eq!(out.len(), 1),
            }
            prop_assert_eq!(out.as_slice()[0], kept);
            prop_assert_eq!(ring.base(), base.wrapping_add(u16::from(took)));
        }
        Deed::Rewind(chains) => ring.rewind(chains),
        Deed::Complete(count) => {
            let used: Vec<_> = (0..count).map(|id| SplitRing::used_entry(id, 1)).collect();
            let _ = ring.complete(memory, &used);
        }
        Deed::HasWork => {
            let _ = ring.has_work(memory);
        }
        Deed::AskForCall => {
            let _ = ring.needs_call(memory);
        }
        Deed::DisableKick => {
            let _ = ring.disable_kick(memory);
        }
        Deed::EnableKick => {
            let _ = ring.enable_kick(memory);
        }
        Deed::Start => {
            let _ = ring.start(memory);
        }
        Deed::SetBase(base) => ring.set_base(base),
        Deed::SetAddrs(addrs) => ring.set_addrs(addrs),
        Deed::SetSize(size) => {
            let _ = ring.set_size(size);
        }
        Deed::SetFeatures(event, empty) => ring.set_features(event, empty),
    }
    let log = memory.take_log();
    prop_assert!(log.len() <= budget(deed, ring), "{} accesses", log.len());
    for op in &log {
        prop_assert!(is_allowed(op, ring, table), "{:?} makes {:?}", deed, op);
    }
    Ok(took)
}

/// A machine with memory full of `dice`.
fn machine(dice: &mut Dice, plain: bool) -> (MockMemory, SplitRing) {
    let memory = MockMemory::default();
    for (start, len) in AREAS {
        memory.map(start, len);
        for at in (start..start + len as u64).step_by(16) {
            if plain {
                memory.poke(at, &desc_bytes(dice.desc()));
            } else {
                for half in [at, at + 8] {
                    let word = dice.roll(u64::MAX) ^ dice.roll(u64::MAX) << 20;
                    memory.poke(half, &word.to_le_bytes());
                }
            }
        }
    }
    if plain {
        // Entries that name descriptors of a ring of 64, and an index a little ahead.
        for entry in 0..64 {
            let head = dice.roll(66) as u16;
            memory.poke16(GOOD.avail.0 + 4 + 2 * entry, head);
        }
        memory.poke16(GOOD.avail.0 + 2, 60);
    }
    let mut ring = SplitRing::default();
    assert!(ring.set_size(64));
    (memory, ring)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn no_memory_however_wild_does_harm(
        seed in 1..u64::MAX,
        plain in any::<bool>(),
        regions in regions(),
        addrs in addrs(),
        deeds in proptest::collection::vec(deed(), 1..60),
    ) {
        let (memory, mut ring) = machine(&mut Dice(seed), plain);
        ring.set_addrs(addrs);
        let table = MemTable::new(regions).unwrap();
        for deed in deeds {
            check(deed, &mut ring, &memory, &table)?;
        }
    }

    #[test]
    fn memory_that_changes_between_two_looks_does_no_harm(
        seed in 1..u64::MAX,
        regions in regions(),
        addrs in addrs(),
        deeds in proptest::collection::vec(deed(), 1..60),
    ) {
        let mut dice = Dice(seed);
        let (memory, mut ring) = machine(&mut dice, true);
        ring.set_addrs(addrs);
        let table = MemTable::new(regions).unwrap();
        memory.on_access(move |memory, _| dice.harm(memory, addrs));
        for deed in deeds {
            check(deed, &mut ring, &memory, &table)?;
        }
    }
}

/// The two above prove little if every chain is refused at its head.
#[test]
fn the_wild_runs_get_somewhere() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let table = MemTable::new(vec![
        region((0, 0x1000, 0x4_0000)),
        region((0x1000, 0x800, 0x8_0000)),
    ])
    .unwrap();
    let (mut chains, mut faults) = (0, std::collections::BTreeSet::new());
    for _ in 0..200 {
        let (memory, mut ring) = machine(&mut dice, true);
        ring.set_addrs(GOOD);
        for base in 0..60 {
            ring.set_base(base);
            let mut storage = vec![Segment::default(); MAX_CHAIN_SEGMENTS];
            let mut out = Segments::new(&mut storage);
            match ring.next_chain(&memory, &table, &mut out) {
                Ok(chain) => chains += usize::from(chain.is_some()),
                Err(fault) => {
                    faults.insert(fault.name());
                }
            }
        }
    }
    assert!(chains > 1000, "{chains}");
    for name in [
        "chain_too_long",
        "desc_index",
        "indirect_length",
        "nested_indirect",
        "outside_memory",
        "readable_after_writable",
    ] {
        assert!(faults.contains(name), "{name} not in {faults:?}");
    }
}
