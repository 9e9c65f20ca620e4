// SPDX-License-Identifier: GPL-2.0

//! Malicious guests and owners: any bytes anywhere, any addresses, memory that changes between two
//! accesses.
//!
//! The ring may return anything, but must not panic, run without end, or access memory that it was
//! not given.

use proptest::prelude::*;
use vring::{Desc, GetWork, MemTable, Region, RingAddrs, Segment, Segments, UserAddr};
use vring::{DESC_F_INDIRECT, MAX_CHAIN_SEGMENTS};

use crate::for_both_formats;
use crate::mock::driver::desc_bytes;
use crate::mock::packed::packed_bytes;
use crate::mock::{region, MockMemory, Packed, SetUp, Split};
use crate::watch::{Deed, Watch, Watched, AREAS, GOOD, MAX_SIZE};

/// Memory contents that are mostly valid for a format.
trait Hostile: Watched {
    /// Bytes of a descriptor of the ring, or of a table.
    fn desc_bytes(dice: &mut Dice) -> Vec<u8>;

    /// Makes some descriptors available, with others in between that are not.
    fn publish(dice: &mut Dice, memory: &MockMemory);

    /// Changes which descriptors are available.
    fn step(dice: &mut Dice, memory: &MockMemory);
}

impl Hostile for Split {
    fn desc_bytes(dice: &mut Dice) -> Vec<u8> {
        desc_bytes(dice.desc())
    }

    fn publish(dice: &mut Dice, memory: &MockMemory) {
        // Entries that name descriptors of the ring, and an index a little ahead.
        for entry in 0..u64::from(MAX_SIZE) {
            let head = dice.roll(66) as u16;
            memory.poke16(GOOD.avail.0 + 4 + 2 * entry, head);
        }
        memory.poke16(GOOD.avail.0 + 2, 60);
    }

    fn step(dice: &mut Dice, memory: &MockMemory) {
        let index = memory.peek16(GOOD.avail.0 + 2);
        // Ahead, or anywhere near the start, which may be back.
        let index = match dice.roll(3) {
            0 => dice.roll(u64::from(MAX_SIZE)) as u16,
            _ => index.wrapping_add(dice.roll(8) as u16).wrapping_sub(1),
        };
        memory.poke16(GOOD.avail.0 + 2, index);
    }
}

impl Hostile for Packed {
    fn desc_bytes(dice: &mut Dice) -> Vec<u8> {
        let desc = dice.desc();
        // A table is seldom followed by another descriptor, or all of them would be faults.
        let table = desc.flags & DESC_F_INDIRECT != 0 && dice.roll(8) != 0;
        let flags = desc.flags & !u16::from(table);
        let lap = dice.roll(8) != 0;
        packed_bytes(Desc { flags, ..desc }, dice.0 as u16, lap)
    }

    fn publish(dice: &mut Dice, memory: &MockMemory) {
        for _ in 0..4 {
            let offset = dice.roll(u64::from(MAX_SIZE));
            memory.poke16(GOOD.desc.0 + 16 * offset + 14, 1 << 15);
        }
    }

    fn step(dice: &mut Dice, memory: &MockMemory) {
        let offset = dice.roll(u64::from(MAX_SIZE));
        let flags = [1 << 7, 1 << 15, 0, 1 << 7 | 1 << 15][dice.roll(4) as usize];
        let rest = dice.roll(4) as u16;
        memory.poke16(GOOD.desc.0 + 16 * offset + 14, flags | rest);
    }
}

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

    /// A descriptor whose address is mostly valid.
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
    fn harm<F: Hostile>(&mut self, memory: &MockMemory, addrs: RingAddrs) {
        let (start, len) = AREAS[self.roll(3) as usize];
        match self.roll(4) {
            0 => {
                let at = start + self.roll(len as u64 - 8);
                memory.poke(at, &self.0.to_le_bytes());
            }
            1 if addrs == GOOD => F::step(self, memory),
            _ => {
                let at = start + 16 * self.roll(len as u64 / 16);
                memory.poke(at, &F::desc_bytes(self));
            }
        }
    }
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
        2 => Just(ForgetPrefetch),
        3 => (0..90u16).prop_map(Complete),
        1 => [1..20u16, 1..20u16, 1..20u16].prop_map(CompleteInOrder),
        2 => Just(HasWork),
        2 => Just(AskForCall),
        1 => Just(DisableKick),
        3 => Just(EnableKick),
        2 => Just(AwaitKick),
        1 => Just(Start),
        // Near the start, on both laps of both positions, or anywhere.
        1 => prop_oneof![
            any::<u32>().prop_map(|bits| SetBase(bits & 0x803f_803f)),
            any::<u32>().prop_map(SetBase),
        ],
        1 => addrs().prop_map(SetAddrs),
        1 => prop_oneof![(0..7u32).prop_map(|shift| 1 << shift), 1..65u32].prop_map(SetSize),
        1 => any::<(bool, bool)>().prop_map(|(event, empty)| SetFeatures(event, empty)),
        1 => Just(ForgetMemory),
    ]
}

/// Regions over the areas and over unmapped memory, overlapping, in any order, up to the top of the
/// address space.
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
                // The rings themselves, the null page, and the top of the address space.
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

/// Memory full of `dice`.
fn memory<F: Hostile>(dice: &mut Dice, plain: bool) -> MockMemory {
    let memory = MockMemory::default();
    for (start, len) in AREAS {
        memory.map(start, len);
        for at in (start..start + len as u64).step_by(16) {
            if plain {
                memory.poke(at, &F::desc_bytes(dice));
            } else {
                for half in [at, at + 8] {
                    let word = dice.roll(u64::MAX) ^ dice.roll(u64::MAX) << 20;
                    memory.poke(half, &word.to_le_bytes());
                }
            }
        }
    }
    if plain {
        F::publish(dice, &memory);
    }
    memory
}

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(500)
    }
}

fn no_memory_however_wild_does_harm<F: Hostile>() {
    proptest!(config(), |(
        seed in 1..u64::MAX,
        plain in any::<bool>(),
        regions in regions(),
        addrs in addrs(),
        deeds in proptest::collection::vec(deed(), 1..60),
    )| {
        let memory = memory::<F>(&mut Dice(seed), plain);
        let mut watch = Watch::<F>::new(memory, MemTable::new(regions).unwrap(), addrs);
        for deed in deeds {
            watch.check(deed);
        }
    });
}

fn memory_that_changes_between_two_looks_does_no_harm<F: Hostile>() {
    proptest!(config(), |(
        seed in 1..u64::MAX,
        regions in regions(),
        addrs in addrs(),
        deeds in proptest::collection::vec(deed(), 1..60),
    )| {
        let mut dice = Dice(seed);
        let memory = memory::<F>(&mut dice, true);
        let mut watch = Watch::<F>::new(memory, MemTable::new(regions).unwrap(), addrs);
        watch
            .memory()
            .on_access(move |memory, _| dice.harm::<F>(memory, addrs));
        for deed in deeds {
            watch.check(deed);
        }
    });
}

for_both_formats!(
    no_memory_however_wild_does_harm,
    memory_that_changes_between_two_looks_does_no_harm,
);

/// The two tests above prove little if every chain is refused at its first descriptor: chains, and
/// these faults, have to occur as well.
fn the_wild_runs_get_somewhere<F: Hostile>(names: &[&str]) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let table = MemTable::new(vec![
        region((0, 0x1000, 0x4_0000)),
        region((0x1000, 0x800, 0x8_0000)),
    ])
    .unwrap();
    let (mut chains, mut faults) = (0, std::collections::BTreeSet::new());
    for _ in 0..200 {
        let memory = memory::<F>(&mut dice, true);
        let mut ring = F::Ring::default();
        assert!(ring.set_size(u32::from(MAX_SIZE)));
        ring.set_addrs(GOOD);
        let start = ring.base() as u16;
        for base in 0..60 {
            ring.set_base(u32::from(start + base));
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
    for name in names {
        assert!(faults.contains(name), "{name} not in {faults:?}");
    }
}

#[test]
fn the_wild_runs_of_split_rings_get_somewhere() {
    the_wild_runs_get_somewhere::<Split>(&[
        "chain_too_long",
        "desc_index",
        "indirect_length",
        "nested_indirect",
        "outside_memory",
        "readable_after_writable",
    ]);
}

#[test]
fn the_wild_runs_of_packed_rings_get_somewhere() {
    the_wild_runs_get_somewhere::<Packed>(&[
        "indirect_length",
        "indirect_next",
        "outside_memory",
        "readable_after_writable",
        "unavailable",
    ]);
}
