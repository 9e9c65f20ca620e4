// SPDX-License-Identifier: GPL-2.0

//! Memory that a driver and a device share, with the access orders that the memory model allows.

use std::sync::atomic::AtomicBool as Unmodelled;

use loom::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::{fence, AtomicBool, AtomicU16, AtomicU32, AtomicU64};
use vring::{
    packed_availability, packed_used, LoadMemory, Memory, Position, RawDesc, RawUsed, RingAddrs,
    Unmapped, UserAddr,
};

use crate::{Kind, CHAINS};

/// Number of descriptors.
pub const SIZE: u16 = CHAINS.next_power_of_two();

/// Addresses of the parts of the ring, as the device sees them.
pub const PLACE: RingAddrs = RingAddrs {
    desc: UserAddr(0x1000),
    avail: UserAddr(0x2000),
    used: UserAddr(0x3000),
};

/// The rule of [`Memory`] that is broken on purpose, to check that the model detects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// No rule is broken.
    Nothing,
    /// [`Memory::full_barrier`] orders nothing.
    FullBarrier,
    /// [`Memory::load_acquire`] is a plain load.
    Acquire,
    /// [`Memory::store_release`] is a plain store.
    Release,
}

/// The ring itself, in either format.
///
/// For a split ring it holds flags, index, entries and event of the available ring, then those of
/// the used ring. For a packed ring it holds the driver's event and the device's; the descriptors
/// take the place of the table.
pub struct Shared {
    pub desc: Vec<[AtomicU64; 2]>,
    pub avail_flags: AtomicU16,
    pub avail_index: AtomicU16,
    pub avail: Vec<AtomicU16>,
    pub used_event: AtomicU16,
    pub used_flags: AtomicU16,
    pub used_index: AtomicU16,
    pub used: Vec<AtomicU64>,
    pub avail_event: AtomicU16,
    pub driver_event: AtomicU32,
    pub device_event: AtomicU32,
    /// The data that the device writes to the buffers of the chains, by id.
    pub data: Vec<AtomicU16>,
    /// Whether the device may access the memory.
    ///
    /// It orders nothing: an access that nothing else orders before a change may see the change.
    pub mapped: AtomicBool,
    /// Whether the memory is unmapped; `None` if it never is.
    ///
    /// It is swapped, not loaded, so that a later look sees it mapped again.
    away: Option<AtomicBool>,
    /// Whether [`Memory::full_barrier`] orders something.
    barriers: Unmodelled,
    broken: Broken,
}

impl Shared {
    /// A ring of zeroes.
    pub fn new(broken: Broken) -> Self {
        let half = || AtomicU16::new(0);
        let word = || AtomicU64::new(0);
        Self {
            desc: (0..SIZE).map(|_| [word(), word()]).collect(),
            avail_flags: half(),
            avail_index: half(),
            avail: (0..SIZE).map(|_| half()).collect(),
            used_event: half(),
            used_flags: half(),
            used_index: half(),
            used: (0..SIZE).map(|_| word()).collect(),
            avail_event: half(),
            driver_event: AtomicU32::new(0),
            device_event: AtomicU32::new(0),
            data: (0..SIZE).map(|_| half()).collect(),
            mapped: AtomicBool::new(true),
            away: None,
            barriers: Unmodelled::new(broken != Broken::FullBarrier),
            broken,
        }
    }

    /// As [`Shared::new`], with memory that may be unmapped.
    pub fn sometimes_away(broken: Broken) -> Self {
        Self {
            away: Some(AtomicBool::new(false)),
            ..Self::new(broken)
        }
    }

    /// Unmaps the memory for the device, or maps it again.
    pub fn set_away(&self, away: bool) {
        if let Some(flag) = &self.away {
            flag.swap(away, AcqRel);
        }
    }

    /// Sets flags and event to ask for no kick, as a previous backend may have left them.
    pub fn ask_for_no_kick(&self) {
        self.used_flags.store(1u16.to_le(), Relaxed);
        self.avail_event.store(u16::MAX, Relaxed);
        self.device_event.store((1u32 << 16).to_le(), Relaxed);
    }

    /// Sets whether [`Memory::full_barrier`] orders something; no other thread may use the ring
    /// meanwhile.
    pub fn set_barriers(&self, barriers: bool) {
        self.barriers.store(barriers, Relaxed);
    }

    /// Checks an access of the device to `addr`.
    ///
    /// # Errors
    ///
    /// [`Unmapped`] when the memory is unmapped.
    ///
    /// # Panics
    ///
    /// When the device must not access the memory.
    fn check(&self, addr: UserAddr) -> Result<(), Unmapped> {
        assert!(
            self.mapped.load(Relaxed),
            "a ring that is stopped was accessed"
        );
        match &self.away {
            Some(away) if away.fetch_or(false, AcqRel) => Err(Unmapped(addr)),
            _ => Ok(()),
        }
    }

    /// Number of chains that have been given back, when both sides wait.
    pub fn used(&self, kind: Kind) -> u16 {
        if !kind.packed {
            return u16::from_le(self.used_index.load(Relaxed));
        }
        let used = |desc: &&[AtomicU64; 2]| is_used(desc[1].load(Relaxed));
        self.desc.iter().take_while(used).count() as u16
    }

    /// The 16-bit value at `addr`.
    fn half(&self, addr: UserAddr) -> Result<&AtomicU16, Unmapped> {
        self.check(addr)?;
        let entries = u64::from(SIZE);
        let avail = addr.0.wrapping_sub(PLACE.avail.0);
        let used = addr.0.wrapping_sub(PLACE.used.0);
        Ok(match (avail, used) {
            (0, _) => &self.avail_flags,
            (2, _) => &self.avail_index,
            (at, _) if at == 4 + 2 * entries => &self.used_event,
            (_, 0) => &self.used_flags,
            (_, 2) => &self.used_index,
            (_, at) if at == 4 + 8 * entries => &self.avail_event,
            _ => panic!("the ring has nothing at {addr:?}"),
        })
    }
}

/// Whether a packed descriptor with this second word was used on the first lap.
pub fn is_used(rest: u64) -> bool {
    let used = packed_used([0, 0], true).0;
    rest & used == used
}

/// The index of the entry of `size` bytes at `addr` in a list at `start`.
fn position(addr: UserAddr, start: u64, size: u64) -> usize {
    let offset = addr.0 - start;
    assert_eq!(offset % size, 0);
    (offset / size) as usize
}

impl LoadMemory for Shared {
    fn load(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        Ok(self.half(addr)?.load(Relaxed))
    }

    fn load_acquire(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        let order = if self.broken == Broken::Acquire {
            Relaxed
        } else {
            Acquire
        };
        Ok(self.half(addr)?.load(order))
    }

    fn load_available(
        &self,
        addr: UserAddr,
        wrap: bool,
        out: &mut [RawDesc],
    ) -> Result<usize, Unmapped> {
        self.check(addr)?;
        let order = match self.broken {
            Broken::Acquire => Relaxed,
            _ => Acquire,
        };
        let (mask, bits) = packed_availability(wrap);
        let descs = &self.desc[position(addr, PLACE.desc.0, 16)..];
        let mut count = 0;
        for (raw, [addr, rest]) in out.iter_mut().zip(descs) {
            let rest = rest.load(order);
            if rest & mask != bits {
                break;
            }
            *raw = [addr.load(Relaxed), rest];
            count += 1;
        }
        Ok(count)
    }

    fn load_event(&self, addr: UserAddr) -> Result<u32, Unmapped> {
        self.check(addr)?;
        assert_eq!(addr, PLACE.avail);
        Ok(self.driver_event.load(Relaxed))
    }
}

impl Memory for Shared {
    fn store(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped> {
        self.half(addr)?.store(value, Relaxed);
        Ok(())
    }

    fn store_release(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped> {
        let order = if self.broken == Broken::Release {
            Relaxed
        } else {
            Release
        };
        self.half(addr)?.store(value, order);
        Ok(())
    }

    fn load_entries(
        &self,
        ring: UserAddr,
        table: UserAddr,
        size: u16,
        indexes: &mut [u16],
        descs: &mut [RawDesc],
    ) -> Result<usize, Unmapped> {
        self.check(ring)?;
        let first = position(ring, PLACE.avail.0 + 4, 2);
        for (index, entry) in indexes.iter_mut().zip(&self.avail[first..]) {
            *index = u16::from_le(entry.load(Relaxed));
        }
        let good = indexes.iter().take_while(|index| **index < size).count();
        self.gather_descs(table, &indexes[..good], descs)?;
        Ok(good)
    }

    fn gather_descs(
        &self,
        _table: UserAddr,
        indexes: &[u16],
        out: &mut [RawDesc],
    ) -> Result<(), Unmapped> {
        for (raw, index) in out.iter_mut().zip(indexes) {
            let [addr, rest] = &self.desc[usize::from(*index)];
            *raw = [addr.load(Relaxed), rest.load(Relaxed)];
        }
        Ok(())
    }

    fn load_descs(&self, addr: UserAddr, _out: &mut [RawDesc]) -> Result<(), Unmapped> {
        panic!("no indirect table, but at {addr:?}");
    }

    fn load_bytes(&self, addr: UserAddr, _out: &mut [u8]) -> Result<(), Unmapped> {
        panic!("no indirect table, but at {addr:?}");
    }

    fn store_used(&self, addr: UserAddr, used: &[RawUsed]) -> Result<(), Unmapped> {
        self.check(addr)?;
        let first = position(addr, PLACE.used.0 + 4, 8);
        for (slot, [id, len]) in self.used[first..].iter().zip(used) {
            slot.store(u64::from(*id) << 32 | u64::from(*len), Relaxed);
        }
        Ok(())
    }

    fn publish_packed(
        &self,
        ring: UserAddr,
        size: u16,
        at: Position,
        used: &[RawUsed],
    ) -> Result<Position, Unmapped> {
        self.check(ring)?;
        let store = |at: Position, used: RawUsed, order| {
            let [_, rest] = &self.desc[usize::from(at.offset())];
            let (word, slots) = packed_used(used, at.wrap());
            rest.store(word, order);
            at.advance(size, slots)
        };
        let order = match self.broken {
            Broken::Release => Relaxed,
            _ => Release,
        };
        let mut next = at.advance(size, 1);
        for one in &used[1..] {
            next = store(next, *one, Relaxed);
        }
        store(at, used[0], order);
        Ok(next)
    }

    fn touch(&self, addr: UserAddr) -> Result<(), Unmapped> {
        panic!("the ring is within a page, but not at {addr:?}");
    }

    fn store_event(&self, addr: UserAddr, value: u32) -> Result<(), Unmapped> {
        self.check(addr)?;
        assert_eq!(addr, PLACE.used);
        self.device_event.store(value, Relaxed);
        Ok(())
    }

    fn full_barrier(&self) {
        if self.barriers.load(Relaxed) {
            fence(SeqCst);
        }
    }
}
