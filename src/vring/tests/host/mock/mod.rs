// SPDX-License-Identifier: GPL-2.0

//! A driver and a device with a ring in shared memory.

pub mod driver;
pub mod format;
pub mod memory;
pub mod op;
pub mod packed;

use vring::{
    Access, Chain, CompleteWork, Fault, GetWork, GuestAddr, GuestRanges, Hint, MemTable, Region,
    RingAddrs, Segment, Segments, Translate, UserAddr, MAX_CHAIN_SEGMENTS,
};

pub use driver::{indirect, Buf, Driver};
pub use format::{DriverSide, Format, Packed, SetUp, Split};
pub use memory::MockMemory;
pub use op::Op;

/// User address of the guest's memory, which begins at guest address 0.
pub const RAM: u64 = 0x7f00_0000_0000;
/// Bytes of guest memory.
pub const RAM_SIZE: usize = 0x4_0000;
/// Where the parts of a ring lie; nothing is mapped around them.
pub const PLACE: RingAddrs = RingAddrs {
    desc: UserAddr(0x10_0000),
    avail: UserAddr(0x20_0000),
    used: UserAddr(0x30_0000),
};

/// A split ring with its driver side and its device side.
pub type Bench = Rig<Split>;

/// A ring with its driver side and its device side.
pub struct Rig<F: Format> {
    /// The memory that both share.
    pub memory: MockMemory,
    /// The guest's side.
    pub driver: F::Driver,
    /// The device's side.
    pub ring: F::Ring,
    /// The guest's memory.
    pub table: MemTable<Vec<Region>>,
    storage: Vec<Segment>,
}

/// The parameters of a [`Rig`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup {
    /// Number of descriptors.
    pub size: u16,
    /// Where a split ring's indexes start, or by how many descriptors a packed ring has advanced.
    pub index: u16,
    /// `VIRTIO_F_EVENT_IDX`.
    pub event_idx: bool,
    /// `VIRTIO_F_NOTIFY_ON_EMPTY`.
    pub notify_on_empty: bool,
}

impl<F: Format> Rig<F> {
    /// A started ring of `size` descriptors, without features, with indexes from 0.
    pub fn new(size: u16) -> Self {
        Self::with(Setup {
            size,
            ..Setup::default()
        })
    }

    /// A started ring.
    pub fn with(setup: Setup) -> Self {
        let memory = MockMemory::default();
        map_ring(&memory, PLACE, extents::<F>(setup.size, setup.event_idx));
        Self::on(memory, setup)
    }

    /// A started ring with room to be moved to `others` and to have its features changed.
    pub fn with_room(setup: Setup, others: &[RingAddrs]) -> Self {
        let memory = MockMemory::default();
        for place in others.iter().chain([&PLACE]) {
            map_ring(&memory, *place, extents::<F>(setup.size, true));
        }
        Self::on(memory, setup)
    }

    fn on(memory: MockMemory, setup: Setup) -> Self {
        memory.map(RAM, RAM_SIZE);
        let mut ring = F::Ring::default();
        assert!(ring.set_size(u32::from(setup.size)));
        ring.set_features(setup.event_idx, setup.notify_on_empty);
        ring.set_addrs(PLACE);
        let driver = F::Driver::new(&memory, PLACE, setup.size, setup.index, setup.event_idx);
        ring.set_base(driver.base());
        ring.start(&memory).unwrap();
        memory.take_log();
        Self {
            memory,
            driver,
            ring,
            table: ram(),
            storage: vec![Segment::default(); MAX_CHAIN_SEGMENTS + 1],
        }
    }

    /// Takes the next chain, with its segments.
    pub fn next(&mut self) -> Result<Option<(Chain, Vec<Segment>)>, Fault> {
        let mut out = Segments::new(&mut self.storage);
        let chain = self.ring.next_chain(&self.memory, &self.table, &mut out)?;
        Ok(chain.map(|chain| (chain, out.as_slice().to_vec())))
    }

    /// Takes the next chain, which has to exist; returns its head.
    pub fn head(&mut self) -> u16 {
        self.next().unwrap().expect("a chain").0.id
    }

    /// Adds a chain and publishes it.
    pub fn offer(&mut self, bufs: &[Buf]) -> u16 {
        let head = self.driver.add(&self.memory, bufs).expect("free entries");
        self.driver.publish(&self.memory);
        head
    }

    /// Completes a chain with nothing written.
    pub fn complete(&mut self, head: u16) {
        self.ring
            .complete(&self.memory, &[F::Ring::used_entry(head, 1, 0)])
            .unwrap();
    }
}

impl Bench {
    /// The access that makes the device see the available index.
    pub fn index_load(&self) -> Op {
        Op::LoadAcquire(PLACE.avail.wrapping_add(2))
    }
}

/// Makes a test for each format of every function that is generic over the format.
#[macro_export]
macro_rules! for_both_formats {
    ($($name:ident),+ $(,)?) => {
        mod split {
            $(#[test]
            fn $name() {
                super::$name::<$crate::mock::Split>();
            })+
        }

        mod packed {
            $(#[test]
            fn $name() {
                super::$name::<$crate::mock::Packed>();
            })+
        }
    };
}

/// A table of memory, for [`Mediated`](vring::Mediated).
pub struct Ram(pub MemTable<Vec<Region>>);

impl GuestRanges for Ram {
    fn guest_ranges<E>(
        &self,
        user: UserAddr,
        len: u64,
        visit: impl FnMut(GuestAddr, u64) -> Result<(), E>,
    ) -> Result<bool, E> {
        self.0.guest_ranges(user, len, visit)
    }
}

impl Translate for Ram {
    fn translate(
        &self,
        hint: &mut Hint,
        addr: GuestAddr,
        len: u32,
        access: Access,
        out: &mut Segments<'_>,
    ) -> Result<(), Fault> {
        self.0.translate(hint, addr, len, access, out)
    }
}

/// Lengths of the parts of a ring, in bytes.
pub fn extents<F: Format>(size: u16, event_idx: bool) -> [usize; 3] {
    let mut ring = F::Ring::default();
    assert!(ring.set_size(u32::from(size)));
    ring.set_features(event_idx, false);
    ring.extents().map(|len| usize::try_from(len).unwrap())
}

fn map_ring(memory: &MockMemory, place: RingAddrs, [desc, avail, used]: [usize; 3]) {
    memory.map(place.desc.0, desc);
    memory.map(place.avail.0, avail);
    memory.map(place.used.0, used);
}

/// The table of the guest's memory.
pub fn ram() -> MemTable<Vec<Region>> {
    table(&[(0, RAM_SIZE as u64, RAM)])
}

/// A table of regions given as guest address, size, user address.
pub fn table(regions: &[(u64, u64, u64)]) -> MemTable<Vec<Region>> {
    MemTable::new(regions.iter().copied().map(region).collect()).unwrap()
}

/// A region from guest address, size, user address.
pub fn region((guest, size, user): (u64, u64, u64)) -> Region {
    Region {
        guest: GuestAddr(guest),
        size,
        user: UserAddr(user),
    }
}

/// A segment from user address and length.
pub fn segment(addr: u64, len: u64) -> Segment {
    Segment {
        addr: UserAddr(addr),
        len,
    }
}

/// Converts entries of an available ring to host byte order; returns the number before the first
/// that is not below `size`.
pub fn good_indexes(indexes: &mut [u16], size: u16) -> usize {
    for index in indexes.iter_mut() {
        *index = u16::from_le(*index);
    }
    indexes.iter().take_while(|index| **index < size).count()
}
