// SPDX-License-Identifier: GPL-2.0

//! Guest memory that both implementations see.

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vring::{
    Chain, Desc, GetWork, LoadMemory, Memory, Position, RawDesc, RawUsed, RingAddrs, Segment,
    Segments, SplitRing, Unmapped, UserAddr, MAX_CHAIN_SEGMENTS,
};

use crate::mock::{good_indexes, table};

/// A chain as guest address, length and direction of its pieces.
pub type Found = Vec<(u64, u64, bool)>;

/// User address of guest address 0.
pub const HOST: u64 = 0x7f00_0000_0000;
/// The descriptor table.
pub const DESC: u64 = 0;
/// The available ring.
pub const AVAIL: u64 = 0x1000;
/// The used ring.
pub const USED: u64 = 0x2000;
/// Guest memory, as start and length: two regions that touch, a hole, one more.
pub const RANGES: [(u64, usize); 3] = [(0, 0x4000), (0x4000, 0x1_0000), (0x2_0000, 0x4000)];
/// The two stretches without a hole, as start and end.
pub const STRETCHES: [(u64, u64); 2] = [(0, 0x1_4000), (0x2_0000, 0x2_4000)];

/// The same memory for the ring.
pub struct Guest {
    /// The memory that both see.
    pub memory: GuestMemoryMmap,
    ranges: Vec<(u64, usize)>,
    /// Number of descriptors.
    pub size: u16,
}

impl Guest {
    /// Memory of `ranges` and a ring at its start.
    pub fn new(size: u16, ranges: &[(u64, usize)]) -> Self {
        let list: Vec<_> = ranges
            .iter()
            .map(|&(start, len)| (GuestAddress(start), len))
            .collect();
        Self {
            memory: GuestMemoryMmap::from_ranges(&list).unwrap(),
            ranges: ranges.to_vec(),
            size,
        }
    }

    /// Writes as the driver does.
    pub fn write(&self, addr: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(addr)).unwrap();
    }

    fn read(&self, addr: UserAddr, out: &mut [u8]) -> Result<(), Unmapped> {
        let guest = addr.0.checked_sub(HOST).ok_or(Unmapped(addr))?;
        self.memory
            .read_slice(out, GuestAddress(guest))
            .map_err(|_| Unmapped(addr))
    }

    fn put(&self, addr: UserAddr, bytes: &[u8]) -> Result<(), Unmapped> {
        let guest = addr.0.checked_sub(HOST).ok_or(Unmapped(addr))?;
        self.memory
            .write_slice(bytes, GuestAddress(guest))
            .map_err(|_| Unmapped(addr))
    }

    /// The descriptor at a guest address.
    pub fn desc_at(&self, addr: u64) -> Option<Desc> {
        let mut bytes = [0; 16];
        self.memory
            .read_slice(&mut bytes, GuestAddress(addr))
            .ok()?;
        let field = |at: usize, len: usize| {
            let mut wide = [0; 8];
            wide[..len].copy_from_slice(&bytes[at..at + len]);
            u64::from_le_bytes(wide)
        };
        Some(Desc {
            addr: field(0, 8),
            len: field(8, 4) as u32,
            flags: field(12, 2) as u16,
            next: field(14, 2) as u16,
        })
    }

    /// The pieces of a buffer, region by region; `None` when it is not wholly in memory.
    pub fn pieces(&self, desc: &Desc) -> Option<Vec<(u64, u64)>> {
        let mut pieces = Vec::new();
        let (mut at, mut left) = (u128::from(desc.addr), u128::from(desc.len));
        while left > 0 {
            let end = self.ranges.iter().find_map(|&(start, len)| {
                let end = u128::from(start) + len as u128;
                (u128::from(start) <= at && at < end).then_some(end)
            })?;
            let here = (end - at).min(left);
            pieces.push((at as u64, here as u64));
            at += here;
            left -= here;
        }
        Some(pieces)
    }

    /// The ring on this memory.
    pub fn ring(&self) -> SplitRing {
        let mut ring = SplitRing::default();
        assert!(ring.set_size(u32::from(self.size)));
        ring.set_addrs(RingAddrs {
            desc: UserAddr(HOST + DESC),
            avail: UserAddr(HOST + AVAIL),
            used: UserAddr(HOST + USED),
        });
        ring
    }

    /// `virtio-queue`'s queue on this memory.
    pub fn queue(&self) -> Queue {
        let mut queue = Queue::new(32768).unwrap();
        queue.set_size(self.size);
        queue.set_desc_table_address(Some(DESC as u32), Some(0));
        queue.set_avail_ring_address(Some(AVAIL as u32), Some(0));
        queue.set_used_ring_address(Some(USED as u32), Some(0));
        queue.set_ready(true);
        queue
    }

    /// The chain as the ring finds it, and whether it counts as taken.
    pub fn ours(&self) -> (Option<(Chain, Found)>, bool) {
        let mut ring = self.ring();
        let host = |&(start, len): &(u64, usize)| (start, len as u64, HOST + start);
        let table = table(&self.ranges.iter().map(host).collect::<Vec<_>>());
        let mut storage = vec![Segment::default(); MAX_CHAIN_SEGMENTS];
        let mut out = Segments::new(&mut storage);
        let chain = ring.next_chain(self, &table, &mut out).ok().flatten();
        let found = chain.map(|chain| {
            let all = out.as_slice().iter().enumerate();
            let found = all.map(|(position, segment)| {
                let write = position >= chain.readable;
                (segment.addr.0 - HOST, segment.len, write)
            });
            assert_eq!(out.len(), chain.readable + chain.writable);
            (chain, found.collect())
        });
        (found, ring.base() == 1)
    }

    /// The chain as `virtio-queue` finds it, and whether it counts as taken.
    pub fn theirs(&self) -> (Option<(u16, Vec<Desc>)>, bool) {
        let mut queue = self.queue();
        let chain = queue
            .iter(&self.memory)
            .ok()
            .and_then(|mut iter| iter.next());
        let found = chain.map(|chain| {
            let descs = chain.clone().map(|desc| Desc {
                addr: desc.addr().0,
                len: desc.len(),
                flags: desc.flags(),
                next: desc.next(),
            });
            (chain.head_index(), descs.collect())
        });
        (found, queue.next_avail() == 1)
    }
}

impl Guest {
    /// Loads consecutive entries of an available ring.
    fn load_slice(&self, addr: UserAddr, out: &mut [u16]) -> Result<(), Unmapped> {
        for (at, value) in out.iter_mut().enumerate() {
            *value = self.load(addr.wrapping_add(2 * at as u64))?;
        }
        Ok(())
    }
}

impl LoadMemory for Guest {
    fn load(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        let mut bytes = [0; 2];
        self.read(addr, &mut bytes)?;
        Ok(u16::from_ne_bytes(bytes))
    }

    fn load_acquire(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        self.load(addr)
    }

    fn load_available(
        &self,
        _addr: UserAddr,
        _wrap: bool,
        _out: &mut [RawDesc],
    ) -> Result<usize, Unmapped> {
        unreachable!("a split ring has none")
    }

    fn load_event(&self, _addr: UserAddr) -> Result<u32, Unmapped> {
        unreachable!("a split ring has none")
    }
}

impl Memory for Guest {
    fn store(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped> {
        self.put(addr, &value.to_ne_bytes())
    }

    fn store_release(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped> {
        self.store(addr, value)
    }

    fn load_entries(
        &self,
        ring: UserAddr,
        table: UserAddr,
        size: u16,
        indexes: &mut [u16],
        descs: &mut [RawDesc],
    ) -> Result<usize, Unmapped> {
        self.load_slice(ring, indexes)?;
        let good = good_indexes(indexes, size);
        if good > 0 {
            self.gather_descs(table, &indexes[..good], &mut descs[..good])?;
        }
        Ok(good)
    }

    fn gather_descs(
        &self,
        table: UserAddr,
        indexes: &[u16],
        out: &mut [RawDesc],
    ) -> Result<(), Unmapped> {
        for (raw, &index) in out.iter_mut().zip(indexes) {
            let addr = table.wrapping_add(16 * u64::from(index));
            let guest = addr.0.checked_sub(HOST).ok_or(Unmapped(addr))?;
            *raw = self.desc_at(guest).ok_or(Unmapped(addr))?.to_raw();
        }
        Ok(())
    }

    fn load_descs(&self, addr: UserAddr, out: &mut [RawDesc]) -> Result<(), Unmapped> {
        for (index, raw) in (0..).zip(out.iter_mut()) {
            self.gather_descs(addr, &[index], std::slice::from_mut(raw))?;
        }
        Ok(())
    }

    fn load_bytes(&self, addr: UserAddr, out: &mut [u8]) -> Result<(), Unmapped> {
        self.read(addr, out)
    }

    fn store_used(&self, addr: UserAddr, used: &[RawUsed]) -> Result<(), Unmapped> {
        let bytes = used.iter().flatten().flat_map(|word| word.to_ne_bytes());
        self.put(addr, &bytes.collect::<Vec<_>>())
    }

    fn publish_packed(
        &self,
        _ring: UserAddr,
        _size: u16,
        _at: Position,
        _used: &[RawUsed],
    ) -> Result<Position, Unmapped> {
        unreachable!("a split ring has none")
    }

    fn touch(&self, _addr: UserAddr) -> Result<(), Unmapped> {
        unreachable!("a split ring has none")
    }

    fn store_event(&self, _addr: UserAddr, _value: u32) -> Result<(), Unmapped> {
        unreachable!("a split ring has none")
    }

    fn full_barrier(&self) {}
}
