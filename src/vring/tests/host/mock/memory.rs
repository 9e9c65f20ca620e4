// SPDX-License-Identifier: GPL-2.0

//! A mock of the owner's memory: bytes at user addresses, with holes, faults, a log of accesses and
//! a hook that may change memory.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use vring::{
    packed_availability, packed_used, LoadMemory, Memory, OwnerAccess, Position, RawDesc, RawUsed,
    Unmapped, UserAddr, DESC_SIZE,
};

use super::good_indexes;
use super::op::Op;

type Hook = Box<dyn FnMut(&MockMemory, &Op)>;

/// Memory for tests.
#[derive(Default)]
pub struct MockMemory {
    areas: RefCell<Vec<(u64, Vec<u8>)>>,
    holes: RefCell<Vec<Range<u128>>>,
    log: RefCell<Vec<Op>>,
    loaded: RefCell<Vec<(UserAddr, u16)>>,
    available: RefCell<Vec<(UserAddr, bool, usize)>>,
    fail_in: Cell<Option<usize>>,
    fail_in_part: Cell<bool>,
    hook: RefCell<Option<Hook>>,
    hold_stores: Cell<bool>,
    held: RefCell<Vec<(u64, Vec<u8>)>>,
}

impl MockMemory {
    /// Maps `len` zero bytes at `start`.
    pub fn map(&self, start: u64, len: usize) {
        self.areas.borrow_mut().push((start, vec![0; len]));
    }

    /// Makes `len` bytes from `start` inaccessible to the ring until [`MockMemory::mend`].
    pub fn punch(&self, start: u64, len: u64) {
        let start = u128::from(start);
        self.holes.borrow_mut().push(start..start + u128::from(len));
    }

    /// Closes all holes.
    pub fn mend(&self) {
        self.holes.borrow_mut().clear();
    }

    /// Makes one access fail: the next one for 0, the one after it for 1, and so on.
    pub fn fail_in(&self, accesses: usize) {
        self.fail_in.set(Some(accesses));
    }

    /// Whether the next access fails; within a hook, the access that the hook is called for.
    pub fn fails_now(&self) -> bool {
        self.fail_in.get() == Some(0)
    }

    /// From now on only accesses to holes fail.
    pub fn fail_no_more(&self) {
        self.fail_in.set(None);
    }

    /// Makes failing stores of many bytes write the first half of them.
    pub fn fail_in_part(&self) {
        self.fail_in_part.set(true);
    }

    /// Calls `hook` before each access of the ring; it may change memory.
    pub fn on_access(&self, hook: impl FnMut(&MockMemory, &Op) + 'static) {
        *self.hook.borrow_mut() = Some(Box::new(hook));
    }

    /// Removes the hook.
    pub fn leave_alone(&self) {
        *self.hook.borrow_mut() = None;
    }

    /// Keeps the ring's stores in a store buffer: others see them, in order, only after a full
    /// barrier or after [`MockMemory::drain`].
    pub fn hold_stores(&self) {
        self.hold_stores.set(true);
    }

    /// Makes all stores visible.
    pub fn drain(&self) {
        for (addr, bytes) in self.held.take() {
            self.poke(addr, &bytes);
        }
    }

    /// The ring's accesses since the last call.
    pub fn take_log(&self) -> Vec<Op> {
        self.log.take()
    }

    /// The last 16-bit value that the ring loaded from `addr`, since [`MockMemory::take_loaded`].
    pub fn loaded_from(&self, addr: UserAddr) -> Option<u16> {
        let loaded = self.loaded.borrow();
        let last = loaded.iter().rfind(|(from, _)| *from == addr);
        last.map(|(_, value)| *value)
    }

    /// Addresses and values, in host byte order, of 16-bit loads by the ring since the last call.
    pub fn take_loaded(&self) -> Vec<(UserAddr, u16)> {
        self.loaded.take()
    }

    /// Address, lap and number of the available descriptors that the ring found since the last
    /// call.
    pub fn take_available(&self) -> Vec<(UserAddr, bool, usize)> {
        self.available.take()
    }

    /// Reads as the guest or the owner does.
    ///
    /// # Panics
    ///
    /// Where nothing is mapped.
    pub fn peek(&self, addr: u64, len: usize) -> Vec<u8> {
        self.try_peek(addr, len)
            .unwrap_or_else(|| panic!("test reads {len} unmapped bytes at {addr:#x}"))
    }

    /// Writes as the guest or the owner does.
    ///
    /// # Panics
    ///
    /// Where nothing is mapped.
    pub fn poke(&self, addr: u64, bytes: &[u8]) {
        let mut areas = self.areas.borrow_mut();
        let (area, at) = areas
            .iter_mut()
            .find_map(|(start, area)| {
                let at = usize::try_from(addr.checked_sub(*start)?).ok()?;
                (at.checked_add(bytes.len())? <= area.len()).then_some((area, at))
            })
            .unwrap_or_else(|| panic!("test writes unmapped bytes at {addr:#x}"));
        area[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Reads a little-endian 16-bit value.
    pub fn peek16(&self, addr: u64) -> u16 {
        u16::from_le_bytes(self.peek(addr, 2).try_into().unwrap())
    }

    /// Writes a little-endian 16-bit value.
    pub fn poke16(&self, addr: u64, value: u16) {
        self.poke(addr, &value.to_le_bytes());
    }

    fn is_mapped(&self, addr: u64, len: usize) -> bool {
        self.areas.borrow().iter().any(|(start, area)| {
            let at = addr.checked_sub(*start);
            let end = at.and_then(|at| usize::try_from(at).ok()?.checked_add(len));
            end.is_some_and(|end| end <= area.len())
        })
    }

    fn try_peek(&self, addr: u64, len: usize) -> Option<Vec<u8>> {
        self.areas.borrow().iter().find_map(|(start, area)| {
            let at = usize::try_from(addr.checked_sub(*start)?).ok()?;
            Some(area.get(at..at.checked_add(len)?)?.to_vec())
        })
    }

    /// Logs an access, runs the hook, and fails if it has to.
    fn begin(&self, op: Op) -> Result<(), Unmapped> {
        self.log.borrow_mut().push(op.clone());
        let hook = self.hook.borrow_mut().take();
        if let Some(mut hook) = hook {
            hook(self, &op);
            self.hook.borrow_mut().get_or_insert(hook);
        }
        let ranges = op.ranges();
        let fault = |range: &Range<u128>| Unmapped(UserAddr(range.start as u64));
        if let Some(left) = self.fail_in.take() {
            match left.checked_sub(1) {
                Some(left) => self.fail_in.set(Some(left)),
                None => return Err(fault(ranges.first().unwrap_or(&(0..0)))),
            }
        }
        for range in &ranges {
            let len = (range.end - range.start) as usize;
            let hole = |hole: &Range<u128>| hole.start < range.end && range.start < hole.end;
            if self.holes.borrow().iter().any(hole)
                || range.end > u128::from(u64::MAX)
                || !self.is_mapped(range.start as u64, len)
            {
                return Err(fault(range));
            }
        }
        // Loads see the same processor's buffered stores.
        let seen = |&(addr, ref bytes): &(u64, Vec<u8>)| {
            let held = u128::from(addr)..u128::from(addr) + bytes.len() as u128;
            ranges
                .iter()
                .any(|range| held.start < range.end && range.start < held.end)
        };
        if self.held.borrow().iter().any(seen) && !op.is_store() {
            self.drain();
        }
        Ok(())
    }

    /// Writes bytes, or perhaps some of them when the access fails.
    fn store_many(&self, op: Op, addr: UserAddr, mut bytes: Vec<u8>) -> Result<(), Unmapped> {
        let begun = self.begin(op);
        if begun.is_err() {
            let half = if self.fail_in_part.get() {
                bytes.len() / 2
            } else {
                0
            };
            bytes.truncate(half);
        }
        if !bytes.is_empty() {
            self.write(addr, bytes);
        }
        begun
    }

    fn write(&self, addr: UserAddr, bytes: Vec<u8>) {
        if self.hold_stores.get() {
            self.held.borrow_mut().push((addr.0, bytes));
        } else {
            self.poke(addr.0, &bytes);
        }
    }
}

impl MockMemory {
    fn load16(&self, addr: UserAddr) -> u16 {
        let value = self.peek16(addr.0);
        self.loaded.borrow_mut().push((addr, value));
        value.to_le()
    }

    /// Loads consecutive entries of an available ring.
    pub fn load_slice(&self, addr: UserAddr, out: &mut [u16]) -> Result<(), Unmapped> {
        self.begin(Op::LoadSlice(addr, out.len()))?;
        let bytes = self.peek(addr.0, 2 * out.len());
        for (value, bytes) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            *value = u16::from_ne_bytes(bytes.try_into().unwrap());
        }
        Ok(())
    }
}

impl LoadMemory for MockMemory {
    fn load(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        self.begin(Op::Load(addr))?;
        Ok(self.load16(addr))
    }

    fn load_acquire(&self, addr: UserAddr) -> Result<u16, Unmapped> {
        self.begin(Op::LoadAcquire(addr))?;
        Ok(self.load16(addr))
    }

    fn load_available(
        &self,
        addr: UserAddr,
        wrap: bool,
        out: &mut [RawDesc],
    ) -> Result<usize, Unmapped> {
        let count = out.len();
        self.begin(Op::LoadAvailable { addr, wrap, count })?;
        let (mask, bits) = packed_availability(wrap);
        let word = |at: u64| u64::from_ne_bytes(self.peek(at, 8).try_into().unwrap());
        let mut found = 0;
        for (at, raw) in (addr.0..).step_by(16).zip(out) {
            let rest = word(at + 8);
            if rest & mask != bits {
                break;
            }
            *raw = [word(at), rest];
            found += 1;
        }
        self.available.borrow_mut().push((addr, wrap, found));
        Ok(found)
    }

    fn load_event(&self, addr: UserAddr) -> Result<u32, Unmapped> {
        self.begin(Op::LoadEvent(addr))?;
        Ok(u32::from_ne_bytes(self.peek(addr.0, 4).try_into().unwrap()))
    }
}

impl Memory for MockMemory {
    fn store(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped> {
        self.begin(Op::Store(addr, u16::from_le(value)))?;
        self.write(addr, value.to_ne_bytes().to_vec());
        Ok(())
    }

    fn store_release(&self, addr: UserAddr, value: u16) -> Result<(), Unmapped> {
        self.begin(Op::StoreRelease(addr, u16::from_le(value)))?;
        self.write(addr, value.to_ne_bytes().to_vec());
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
        let count = indexes.len().min(out.len());
        self.begin(Op::Gather(table, indexes[..count].to_vec()))?;
        for (desc, &index) in out.iter_mut().zip(indexes) {
            let bytes = self.peek(table.0 + u64::from(index) * DESC_SIZE, 16);
            let word = |from: usize| u64::from_ne_bytes(bytes[from..from + 8].try_into().unwrap());
            *desc = [word(0), word(8)];
        }
        Ok(())
    }

    fn load_descs(&self, addr: UserAddr, out: &mut [RawDesc]) -> Result<(), Unmapped> {
        self.begin(Op::LoadBytes(addr, 16 * out.len()))?;
        let bytes = self.peek(addr.0, 16 * out.len());
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
        for (raw, bytes) in out.iter_mut().zip(bytes.chunks(16)) {
            *raw = [word(&bytes[..8]), word(&bytes[8..])];
        }
        Ok(())
    }

    fn load_bytes(&self, addr: UserAddr, out: &mut [u8]) -> Result<(), Unmapped> {
        self.begin(Op::LoadBytes(addr, out.len()))?;
        out.copy_from_slice(&self.peek(addr.0, out.len()));
        Ok(())
    }

    fn store_used(&self, addr: UserAddr, used: &[RawUsed]) -> Result<(), Unmapped> {
        let host = |raw: &RawUsed| raw.map(u32::from_le);
        let op = Op::StoreUsed(addr, used.iter().map(host).collect());
        let bytes = used.iter().flatten().flat_map(|word| word.to_ne_bytes());
        self.store_many(op, addr, bytes.collect())
    }

    fn publish_packed(
        &self,
        ring: UserAddr,
        size: u16,
        at: Position,
        used: &[RawUsed],
    ) -> Result<Position, Unmapped> {
        let fresh = Cell::new(true);
        let store = |at: Position, used: &RawUsed, release: bool| {
            assert!(at.offset() < size, "{at:?} is not in a ring of {size}");
            let (word, _) = packed_used(*used, at.wrap());
            let at = ring.wrapping_add(16 * u64::from(at.offset()));
            let op = Op::StoreDesc {
                at,
                word: u64::from_le(word),
                release,
            };
            // The whole batch is one access that may fail; only a hole makes it fail in part.
            let spared = if fresh.replace(false) {
                None
            } else {
                self.fail_in.take()
            };
            let begun = self.begin(op);
            if spared.is_some() {
                self.fail_in.set(spared);
            }
            begun?;
            self.write(at.wrapping_add(8), word.to_ne_bytes().to_vec());
            Ok(())
        };
        let Some((first, later)) = used.split_first() else {
            return Ok(at);
        };
        let slots = |used: &RawUsed| packed_used(*used, true).1;
        let mut next = at.advance(size, slots(first));
        for one in later {
            store(next, one, false)?;
            next = next.advance(size, slots(one));
        }
        store(at, first, true)?;
        Ok(next)
    }

    fn touch(&self, addr: UserAddr) -> Result<(), Unmapped> {
        self.begin(Op::Touch(addr))
    }

    fn store_event(&self, addr: UserAddr, value: u32) -> Result<(), Unmapped> {
        self.begin(Op::StoreEvent(addr, u32::from_le(value)))?;
        self.write(addr, value.to_ne_bytes().to_vec());
        Ok(())
    }

    fn full_barrier(&self) {
        self.drain();
        // A barrier cannot fail: it accesses nothing.
        let fail_in = self.fail_in.take();
        let _ = self.begin(Op::Barrier);
        self.fail_in.set(fail_in);
    }
}

impl OwnerAccess for MockMemory {
    fn store_bytes(&self, addr: UserAddr, from: &[u8]) -> Result<(), Unmapped> {
        let op = Op::StoreBytes(addr, from.len());
        self.store_many(op, addr, from.to_vec())
    }

    fn set_bits(&self, addr: UserAddr, bits: u32) -> Result<(), Unmapped> {
        self.begin(Op::SetBits(addr, u32::from_le(bits)))?;
        let old = self.peek(addr.0, 4);
        let new: Vec<_> = old
            .iter()
            .zip(bits.to_ne_bytes())
            .map(|(old, new)| old | new)
            .collect();
        self.poke(addr.0, &new);
        Ok(())
    }
}
