// SPDX-License-Identifier: GPL-2.0

//! Slow reference implementations of the IOTLB and the dirty log.

use std::collections::{BTreeMap, BTreeSet};

use vring::{
    for_each_log_word, log_extent, Access, Fault, GuestAddr, Hint, Iotlb, IotlbEntry, Mapping,
    MemTable, Miss, Region, Segment, Segments, Translate, Unmapped, Untranslated, UserAddr,
};

/// Both ways to access memory.
pub const ACCESSES: [Access; 2] = [Access::Read, Access::Write];

/// The longest range that [`Pair`] translates, in bytes.
pub const MAX_RANGE: u64 = 256;

/// One call to an IOTLB.
#[derive(Clone, Copy, Debug)]
pub enum Deed {
    /// [`Iotlb::update`].
    Update(Mapping),
    /// [`Iotlb::invalidate`], by first and last address.
    Invalidate(u64, u64),
    /// [`Iotlb::translate_range`], by first address and length up to [`MAX_RANGE`].
    Translate(u64, u64),
    /// [`Iotlb::clear`].
    Clear,
}

/// An IOTLB, and a list with the same behaviour.
pub struct Pair {
    iotlb: Iotlb<Vec<IotlbEntry>>,
    naive: Naive,
    hint: Hint,
}

impl Pair {
    /// Both without mappings, for up to `capacity`.
    pub fn new(capacity: usize) -> Self {
        Self {
            iotlb: Iotlb::new(vec![IotlbEntry::default(); capacity]),
            naive: Naive {
                mappings: Vec::new(),
                capacity,
            },
            hint: Hint::default(),
        }
    }

    /// Makes one call to both.
    ///
    /// # Panics
    ///
    /// When they differ.
    pub fn check(&mut self, deed: Deed) {
        let Self { iotlb, naive, hint } = self;
        match deed {
            Deed::Update(mapping) => {
                iotlb.update(mapping).unwrap();
                naive.update(mapping);
            }
            Deed::Invalidate(iova, last) => {
                let size = last - iova + 1;
                iotlb.invalidate(GuestAddr(iova), size).unwrap();
                naive.invalidate(iova, last);
            }
            Deed::Translate(iova, len) => {
                for access in ACCESSES {
                    let expect = naive.translate(iova, len, access);
                    for hint in [&mut *hint, &mut Hint::default()] {
                        let got = translate(iotlb, hint, iova, len, access);
                        assert_eq!(got, expect, "{access:?} {len} bytes at {iova:#x}");
                    }
                }
            }
            Deed::Clear => {
                iotlb.clear();
                naive.mappings.clear();
            }
        }
        assert!(iotlb.mappings().eq(&naive.sorted()), "after {deed:?}");
        assert_eq!(iotlb.len(), naive.mappings.len());
        assert_eq!(iotlb.is_empty(), naive.mappings.is_empty());
    }
}

/// Translates into a list that already holds an unrelated segment.
///
/// # Panics
///
/// When that segment changes.
pub fn translate(
    iotlb: &Iotlb<Vec<IotlbEntry>>,
    hint: &mut Hint,
    iova: u64,
    len: u64,
    access: Access,
) -> Result<Vec<Segment>, Untranslated> {
    let mut storage = [Segment::default(); MAX_RANGE as usize + 1];
    let mut out = Segments::new(&mut storage);
    // The first piece may follow it in user space.
    let kept = Segment {
        addr: UserAddr(0),
        len: 0x1000,
    };
    out.push(kept).unwrap();
    let result = iotlb.translate_range(hint, GuestAddr(iova), len, access, &mut out);
    assert_eq!(out.as_slice()[0], kept);
    result.map(|()| out.from(1).to_vec())
}

/// Mappings, the oldest first, searched from end to end.
struct Naive {
    mappings: Vec<Mapping>,
    capacity: usize,
}

/// Why a byte cannot be accessed.
enum Gap {
    Missing,
    Denied,
}

impl Naive {
    /// The parts of `old` that `new` does not cover: none, all of it, or a part on one or both
    /// sides.
    fn without(old: &Mapping, new: &Mapping) -> Vec<Mapping> {
        if old.last < new.iova || new.last < old.iova {
            return vec![*old];
        }
        let mut left = Vec::new();
        if old.iova < new.iova {
            let last = GuestAddr(new.iova.0 - 1);
            left.push(Mapping { last, ..*old });
        }
        if old.last > new.last {
            let iova = GuestAddr(new.last.0 + 1);
            let user = UserAddr(old.user.0 + (iova.0 - old.iova.0));
            left.push(Mapping { iova, user, ..*old });
        }
        left
    }

    fn update(&mut self, new: Mapping) {
        loop {
            let mut next: Vec<_> = self
                .mappings
                .iter()
                .flat_map(|old| Self::without(old, &new))
                .collect();
            next.push(new);
            if next.len() <= self.capacity {
                self.mappings = next;
                return;
            }
            if self.mappings.is_empty() {
                return;
            }
            self.mappings.remove(0);
        }
    }

    fn invalidate(&mut self, iova: u64, last: u64) {
        self.mappings
            .retain(|old| old.last.0 < iova || last < old.iova.0);
    }

    /// All mappings in ascending order.
    fn sorted(&self) -> Vec<Mapping> {
        let mut all = self.mappings.clone();
        all.sort_by_key(|mapping| mapping.iova);
        all
    }

    /// User address of a byte, or why there is none.
    fn byte(&self, iova: u64, access: Access) -> Result<u64, Gap> {
        let hit = |m: &&Mapping| m.iova.0 <= iova && iova <= m.last.0;
        let mapping = self.mappings.iter().find(hit).ok_or(Gap::Missing)?;
        match mapping.permission.allows(access) {
            true => Ok(mapping.user.0 + (iova - mapping.iova.0)),
            false => Err(Gap::Denied),
        }
    }

    /// The translation, byte by byte.
    fn translate(&self, iova: u64, len: u64, access: Access) -> Result<Vec<Segment>, Untranslated> {
        let mut segments: Vec<Segment> = Vec::new();
        for at in 0..len {
            let left = len - at;
            let outside = Fault::outside(iova, len);
            let Some(addr) = iova
                .checked_add(at)
                .filter(|_| iova.checked_add(len - 1).is_some())
            else {
                return Err(Untranslated::Fault(outside));
            };
            let user = self.byte(addr, access).map_err(|gap| match gap {
                Gap::Denied => Untranslated::Fault(Fault::Denied { addr }),
                Gap::Missing => Untranslated::Miss(Miss {
                    addr: GuestAddr(addr),
                    len: left,
                    access,
                }),
            })?;
            match segments.last_mut() {
                Some(last) if last.addr.0 + last.len == user => last.len += 1,
                _ => segments.push(Segment {
                    addr: UserAddr(user),
                    len: 1,
                }),
            }
        }
        Ok(segments)
    }
}

/// Bytes of guest memory for each bit of the log.
pub const PAGE: u64 = 4096;

/// The bytes of a log that are not zero, by address.
type Bytes = BTreeMap<u64, u8>;

/// The bytes of the log that [`for_each_log_word`] sets, and the number of words.
///
/// # Errors
///
/// As [`for_each_log_word`].
///
/// # Panics
///
/// When a word is unaligned, is reported twice or has no bits.
pub fn log(log: u64, addr: u64, len: u64) -> Result<(Bytes, usize), Unmapped> {
    let mut bytes = Bytes::new();
    let mut words = BTreeSet::new();
    for_each_log_word(UserAddr(log), GuestAddr(addr), len, |at, bits| {
        assert_eq!(at.0 % 4, 0);
        assert!(bits != 0, "a word without bits at {at:?}");
        assert!(words.insert(at.0), "{at:?} comes twice");
        for (address, byte) in (at.0..=at.0 + 3).zip(bits.to_ne_bytes()) {
            if byte != 0 {
                assert_eq!(bytes.insert(address, byte), None);
            }
        }
        Ok(())
    })?;
    Ok((bytes, words.len()))
}

/// The same, page by page.
fn log_by_page(log: u64, addr: u64, len: u64) -> Bytes {
    let mut bytes = Bytes::new();
    let pages = (0..len).step_by(PAGE as usize).chain(len.checked_sub(1));
    for page in pages.map(|at| (addr + at) / PAGE) {
        *bytes.entry(log + page / 8).or_default() |= 1 << (page % 8);
    }
    bytes
}

/// Checks the log at `base` for `len` bytes of guest memory from `addr` on; neither range may wrap.
///
/// # Panics
///
/// When a bit is missing or superfluous, or there are more words than needed.
pub fn check_log(base: u64, addr: u64, len: u64) {
    let (bytes, words) = log(base, addr, len).unwrap();
    assert_eq!(bytes, log_by_page(base, addr, len));
    // The extent is exactly the bytes that have bits.
    let (from, extent) = log_extent(GuestAddr(addr), len).unwrap();
    assert_eq!(bytes.len() as u64, extent);
    if let (Some((first, _)), Some((last, _))) = (bytes.first_key_value(), bytes.last_key_value()) {
        assert_eq!((*first, *last), (base + from, base + from + (extent - 1)));
        // There are no more words than contain the bytes.
        assert_eq!(words as u64, last / 4 - first / 4 + 1);
    }
}

/// Number of guest addresses, from 0 on, that [`check_way_back`] checks.
pub const GUEST_BYTES: u64 = 1200;

/// All ranges that [`MemTable::guest_ranges`] reports, as address and length, and its result.
pub fn guest_ranges(table: &MemTable<Vec<Region>>, user: u64, len: u64) -> (Vec<(u64, u64)>, bool) {
    let mut found = Vec::new();
    let all = table.guest_ranges(UserAddr(user), len, |guest, len| {
        found.push((guest.0, len));
        Ok::<_, std::convert::Infallible>(())
    });
    (found, all.unwrap())
}

/// Checks the guest addresses of `len` bytes from user address `user` on, with regions that end
/// before [`GUEST_BYTES`].
///
/// # Panics
///
/// When they are not exactly those that translate to the range.
pub fn check_way_back(table: &MemTable<Vec<Region>>, user: u64, len: u64) {
    let (found, all) = guest_ranges(table, user, len);
    if user.checked_add(len.saturating_sub(1)).is_none() {
        assert_eq!((found, all), (vec![], false));
        return;
    }
    // Translate all guest addresses, byte by byte, and keep those that lead into the range.
    let mut expect = BTreeSet::new();
    let mut shown = BTreeSet::new();
    for guest in 0..GUEST_BYTES {
        let mut storage = [Segment::default(); 1];
        let mut out = Segments::new(&mut storage);
        let hint = &mut Hint::default();
        if table.translate(hint, GuestAddr(guest), 1, Access::Write, &mut out) == Ok(()) {
            let at = out.as_slice()[0].addr.0;
            if at >= user && at - user < len {
                expect.insert(guest);
                shown.insert(at);
            }
        }
    }
    assert!(found.iter().all(|(_, len)| *len > 0));
    let bytes = found.iter().flat_map(|(guest, len)| *guest..guest + len);
    assert_eq!(
        bytes.clone().count(),
        expect.len(),
        "one comes twice or not at all"
    );
    assert_eq!(bytes.collect::<BTreeSet<_>>(), expect);
    assert_eq!(all, shown.len() as u64 == len);
}
