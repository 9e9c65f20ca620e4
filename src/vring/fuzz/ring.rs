// SPDX-License-Identifier: GPL-2.0

//! The common part of the fuzz targets of both ring formats.

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use vring::{MemTable, Region, RingAddrs, UserAddr};

use crate::mock::{region, MockMemory};
use crate::watch::{Deed, Watch, Watched, AREAS, GOOD, MAX_SIZE};

/// The meaning of fuzz input in a format.
pub trait Target: Watched {
    /// Bytes of a descriptor of the ring or of a table; in a packed ring `next` is the id.
    fn desc_bytes(desc: vring::Desc) -> Vec<u8>;

    /// Makes more chains available, or makes some unavailable again.
    fn step(memory: &MockMemory, steps: i8);

    /// Changes the head, or whether a descriptor is available, at `entry`, below [`MAX_SIZE`].
    fn put_head(memory: &MockMemory, entry: u16, head: u16);

    /// Makes the first half of the descriptors available, one by one.
    fn publish(memory: &MockMemory);

    /// The base that input stands for.
    fn base(bits: u16) -> u32;
}

/// A descriptor whose address may be valid.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Desc {
    addr: Addr,
    len: Len,
    flags: u16,
    next: u8,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Addr {
    /// An address in guest memory or a little beyond.
    Near(u16),
    Any(u64),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Len {
    Bytes(u8),
    /// Of a table.
    Descs(u8),
    Any(u32),
}

/// What a guest does to its memory.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Write {
    Nothing,
    /// Changes what is available, by steps that may lead back.
    Index(i8),
    /// An entry of a split ring's available ring, or the availability of a packed ring's
    /// descriptor.
    Head {
        entry: u8,
        head: u16,
    },
    /// A descriptor of the ring's table.
    Desc {
        index: u8,
        desc: Desc,
    },
    /// A descriptor in guest memory, where tables are.
    TableDesc {
        index: u8,
        desc: Desc,
    },
    /// Any bytes anywhere.
    Bytes {
        area: u8,
        at: u16,
        bytes: [u8; 4],
    },
}

/// A call of the worker or the owner.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Call {
    Next,
    /// Takes up to all available chains.
    NextMany(u8),
    Rewind(u8),
    Complete(u8),
    CompleteInOrder([u8; 3]),
    HasWork,
    AskDriver,
    DisableKick,
    EnableKick,
    Start,
    SetBase(u16),
    Move([Place; 3]),
    SetSize(u8),
    SetFeatures(bool, bool),
    /// The guest's turn.
    Write(Write),
    ForgetPrefetch,
    AwaitKick,
    ForgetMemory,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Place {
    Good,
    Near { area: u8, at: u16 },
    Top(u8),
}

/// A run.
#[derive(Arbitrary, Debug)]
pub struct Input {
    /// More regions than the two of guest memory: first address, size, area, offset.
    regions: Vec<(u16, u16, u8, u16)>,
    setup: Vec<Write>,
    calls: Vec<Call>,
    /// The guest's writes, one for each access of the ring.
    meanwhile: Vec<Write>,
}

impl From<Desc> for vring::Desc {
    fn from(desc: Desc) -> Self {
        Self {
            addr: match desc.addr {
                Addr::Near(addr) => u64::from(addr) % 0x1900,
                Addr::Any(addr) => addr,
            },
            len: match desc.len {
                Len::Bytes(len) => u32::from(len),
                Len::Descs(count) => 16 * u32::from(count),
                Len::Any(len) => len,
            },
            // Mostly only flags that have a meaning.
            flags: if desc.flags < 0xf000 {
                desc.flags & 7
            } else {
                desc.flags
            },
            next: u16::from(desc.next),
        }
    }
}

impl Write {
    fn apply<F: Target>(self, memory: &MockMemory) {
        match self {
            Self::Nothing => {}
            Self::Index(steps) => F::step(memory, steps),
            Self::Head { entry, head } => F::put_head(memory, u16::from(entry) % MAX_SIZE, head),
            Self::Desc { index, desc } => {
                let at = GOOD.desc.0 + 16 * (u64::from(index) % u64::from(MAX_SIZE));
                memory.poke(at, &F::desc_bytes(desc.into()));
            }
            Self::TableDesc { index, desc } => {
                let at = AREAS[1].0 + 16 * u64::from(index);
                memory.poke(at, &F::desc_bytes(desc.into()));
            }
            Self::Bytes { area, at, bytes } => {
                let (start, len) = AREAS[usize::from(area) % AREAS.len()];
                let at = u64::from(at) % (len - bytes.len()) as u64;
                memory.poke(start + at, &bytes);
            }
        }
    }
}

impl Place {
    fn or(self, good: UserAddr) -> UserAddr {
        match self {
            Self::Good => good,
            Self::Near { area, at } => {
                let (start, len) = AREAS[usize::from(area) % AREAS.len()];
                UserAddr((start - 0x80 + u64::from(at) % (len as u64 + 0x100)) & !1)
            }
            Self::Top(at) => UserAddr((u64::MAX - u64::from(at)) & !1),
        }
    }
}

impl Call {
    /// The calls that this input stands for; none if it is a write of the guest.
    fn deeds<F: Target>(self) -> Vec<Deed> {
        let deed = match self {
            Self::Next => Deed::Next,
            Self::NextMany(count) => {
                return vec![Deed::Next; usize::from(count.min(2 * MAX_SIZE as u8))]
            }
            Self::Rewind(chains) => Deed::Rewind(u16::from(chains)),
            Self::Complete(chains) => Deed::Complete(u16::from(chains)),
            Self::CompleteInOrder(groups) => {
                Deed::CompleteInOrder(groups.map(|chains| 1 + u16::from(chains % 64)))
            }
            Self::HasWork => Deed::HasWork,
            Self::AskDriver => Deed::AskForCall,
            Self::DisableKick => Deed::DisableKick,
            Self::EnableKick => Deed::EnableKick,
            Self::Start => Deed::Start,
            Self::SetBase(base) => Deed::SetBase(F::base(base)),
            Self::Move([desc, avail, used]) => Deed::SetAddrs(RingAddrs {
                desc: desc.or(GOOD.desc),
                avail: avail.or(GOOD.avail),
                used: used.or(GOOD.used),
            }),
            Self::SetSize(shift) => Deed::SetSize(1 << (shift % 7)),
            Self::SetFeatures(event, empty) => Deed::SetFeatures(event, empty),
            Self::Write(_) => return Vec::new(),
            Self::ForgetPrefetch => Deed::ForgetPrefetch,
            Self::AwaitKick => Deed::AwaitKick,
            Self::ForgetMemory => Deed::ForgetMemory,
        };
        vec![deed]
    }
}

/// The table of guest memory, with further regions that the owner may have set.
fn table(more: &[(u16, u16, u8, u16)]) -> MemTable<Vec<Region>> {
    let mut regions = vec![
        region((0, 0x1000, AREAS[1].0)),
        region((0x1000, 0x800, AREAS[2].0)),
    ];
    for &(guest, size, area, at) in more.iter().take(8) {
        // Beyond the areas nothing is mapped, up to the very top.
        let user = match AREAS.get(usize::from(area) % (AREAS.len() + 1)) {
            Some((start, _)) => start + u64::from(at),
            None => u64::MAX - u64::from(at),
        };
        regions.push(region((u64::from(guest), 1 + u64::from(size), user)));
    }
    MemTable::new(regions).unwrap()
}

/// Memory as a well-behaved guest leaves it, with half a ring of chains to take.
fn memory<F: Target>() -> MockMemory {
    let memory = MockMemory::default();
    for (start, len) in AREAS {
        memory.map(start, len);
    }
    for index in 0..MAX_SIZE {
        let buffer = vring::Desc {
            addr: 64 * u64::from(index),
            len: 64,
            flags: 0,
            next: 0,
        };
        memory.poke(GOOD.desc.0 + 16 * u64::from(index), &F::desc_bytes(buffer));
    }
    F::publish(&memory);
    memory
}

/// Runs the calls of `input` on a ring.
pub fn run<F: Target>(input: Input) {
    let memory = memory::<F>();
    for write in input.setup.iter().take(200) {
        write.apply::<F>(&memory);
    }
    let mut meanwhile = input.meanwhile.into_iter();
    memory.on_access(move |memory, _| {
        if let Some(write) = meanwhile.next() {
            write.apply::<F>(memory);
        }
    });
    let mut watch = Watch::<F>::new(memory, table(&input.regions), GOOD);
    for call in input.calls.iter().take(60) {
        if let Call::Write(write) = call {
            write.apply::<F>(watch.memory());
        }
        for deed in call.deeds::<F>() {
            watch.check(deed);
        }
    }
}
