// SPDX-License-Identifier: GPL-2.0

//! Guest memory: mappings at chosen guest-physical addresses, holes between them included.

use crate::driver::uapi::MemoryRegion;
use crate::sys::mapping::{Mapping, PAGE};
use anyhow::{Context, Result, bail};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Pages of a scattered region that no guest address stands for at first.
const SPARE: usize = 16;

/// What a page that no guest address stands for holds.
const SPOILED: u8 = 0xee;

/// What margins hold.
const MARGIN: u8 = 0xc7;

/// One run of guest memory.
#[derive(Debug)]
struct Region {
    guest: u64,
    len: usize,
    map: Mapping,
    /// The device's mapping of the same memory, if it has one of its own.
    view: Option<Mapping>,
    /// Bytes at either end of the mapping that the table leaves out.
    margin: usize,
    next: AtomicU64,
    /// For each page of the region, the page of the mapping behind it, then the spare pages; empty
    /// if pages are in order.
    pages: Vec<AtomicUsize>,
}

impl Region {
    fn new(guest: u64, len: usize, scattered: bool, margin: usize) -> Result<Self> {
        let len = len.next_multiple_of(PAGE);
        let margin = margin.next_multiple_of(PAGE);
        let spare = if scattered { SPARE * PAGE } else { 0 };
        let map = Mapping::new(margin + len + spare + margin).context("guest memory")?;
        for end in [0, margin + len + spare] {
            map.fill(end, margin, MARGIN);
        }
        let mut region = Self {
            guest,
            len,
            map,
            view: None,
            margin,
            next: AtomicU64::new(0),
            pages: Vec::new(),
        };
        if scattered {
            let pages = (len + spare) / PAGE;
            region.pages.extend((0..pages).map(AtomicUsize::new));
            region.pages.shuffle(&mut SmallRng::seed_from_u64(guest));
            for spare in region.spares() {
                let page = spare.load(Ordering::Relaxed);
                region.map.fill(region.page(page), PAGE, SPOILED);
            }
        }
        Ok(region)
    }

    /// The mapping that the device reaches it by.
    fn view(&self) -> &Mapping {
        self.view.as_ref().unwrap_or(&self.map)
    }

    /// Where in the mapping a page is.
    fn page(&self, number: usize) -> usize {
        self.margin + number * PAGE
    }

    /// The pages that no guest address stands for.
    fn spares(&self) -> &[AtomicUsize] {
        self.pages.get(self.len / PAGE..).unwrap_or_default()
    }

    /// The bytes that the table tells of.
    fn told(&self) -> usize {
        self.map.len() - 2 * self.margin
    }

    fn expect(&self, offset: usize, len: usize, byte: u8) -> Result<()> {
        let mut content = vec![0; len];
        self.map.read(offset, &mut content);
        match content.iter().position(|now| *now != byte) {
            None => Ok(()),
            Some(at) => bail!(
                "byte {:#x} of the mapping behind guest address {:#x} was written",
                offset + at,
                self.guest
            ),
        }
    }

    /// Where in the mapping an offset into the region is, and how far the two go on together.
    fn place(&self, offset: usize) -> (usize, usize) {
        match self.pages.get(offset / PAGE) {
            Some(page) => {
                let within = offset % PAGE;
                let page = page.load(Ordering::Relaxed);
                (self.page(page) + within, PAGE - within)
            }
            None => (self.margin + offset, self.len - offset),
        }
    }
}

/// Guest memory as the driver sees it, with a bump allocator per region.
#[derive(Debug)]
pub struct GuestMemory {
    regions: Vec<Region>,
}

impl GuestMemory {
    /// Maps regions given as guest address and length.
    ///
    /// # Errors
    ///
    /// When the host has no memory.
    pub fn new(layout: &[(u64, usize)]) -> Result<Self> {
        Self::with(layout, false, 0)
    }

    /// Maps regions, each with `margin` bytes before and behind it that the table does not tell of.
    ///
    /// If `scattered`, each region's pages are in no order: for a device behind an IOMMU, to which
    /// guest addresses are IO addresses, and the table is physical memory.
    ///
    /// # Errors
    ///
    /// When the host has no memory.
    pub fn with(layout: &[(u64, usize)], scattered: bool, margin: usize) -> Result<Self> {
        let regions = layout
            .iter()
            .map(|&(guest, len)| Region::new(guest, len, scattered, margin))
            .collect::<Result<_>>()?;
        Ok(Self { regions })
    }

    /// Gives the device a mapping of its own, which may change without the driver's.
    ///
    /// # Errors
    ///
    /// When there are no addresses left.
    pub fn split_view(&mut self) -> Result<()> {
        for region in &mut self.regions {
            region.view = Some(region.map.alias().context("the device's view of memory")?);
        }
        Ok(())
    }

    /// The address that the table gives to the byte behind a guest address.
    ///
    /// # Panics
    ///
    /// When the address is in a hole.
    #[must_use]
    pub fn physical(&self, guest: u64) -> u64 {
        let (region, offset) = self.locate(guest);
        region.guest + (region.place(offset).0 - region.margin) as u64
    }

    /// Puts another page behind a guest address, with the same content, and spoils the old one.
    ///
    /// # Panics
    ///
    /// When the address is in a hole, or the region is not scattered.
    pub fn move_page(&self, guest: u64) {
        let (region, offset) = self.locate(guest);
        let here = &region.pages[offset / PAGE];
        let old = here.load(Ordering::Relaxed);
        // The first of the spare pages serves, the old one becomes the last of them.
        let fresh = region
            .spares()
            .iter()
            .rev()
            .fold(old, |before, spare| spare.swap(before, Ordering::Relaxed));
        let mut content = [0; PAGE];
        region.map.read(region.page(old), &mut content);
        region.map.write(region.page(fresh), &content);
        here.store(fresh, Ordering::Relaxed);
        region.map.fill(region.page(old), PAGE, SPOILED);
    }

    /// Fails if a page that no guest address stands for was written, since it was moved away if it
    /// was.
    ///
    /// # Errors
    ///
    /// When one was.
    pub fn spoiled_untouched(&self) -> Result<()> {
        for region in &self.regions {
            for spare in region.spares() {
                let page = spare.load(Ordering::Relaxed);
                region.expect(region.page(page), PAGE, SPOILED)?;
            }
        }
        Ok(())
    }

    /// Fails if anything was written that the table does not tell of.
    ///
    /// # Errors
    ///
    /// When it was.
    pub fn margins_untouched(&self) -> Result<()> {
        for region in &self.regions {
            region.expect(0, region.margin, MARGIN)?;
            let behind = region.margin + region.told();
            region.expect(behind, region.margin, MARGIN)?;
        }
        Ok(())
    }

    /// The table for the device.
    #[must_use]
    pub fn table(&self) -> Vec<MemoryRegion> {
        self.regions
            .iter()
            .map(|region| MemoryRegion {
                guest: region.guest,
                size: region.told() as u64,
                user: (region.view().addr() + region.margin) as u64,
                padding: 0,
            })
            .collect()
    }

    /// Sets memory aside in region `index` and answers its guest address.
    ///
    /// # Errors
    ///
    /// When the region is full.
    pub fn alloc_in(&self, index: usize, len: usize, align: u64) -> Result<u64> {
        let region = self.regions.get(index).context("no such region")?;
        let start = region.next.load(Ordering::Relaxed).next_multiple_of(align);
        let end = start + len as u64;
        if end > region.len as u64 {
            bail!("guest region {index} has no room for {len} bytes");
        }
        region.next.store(end, Ordering::Relaxed);
        Ok(region.guest + start)
    }

    /// Sets memory aside in the first region.
    ///
    /// # Errors
    ///
    /// When the region is full.
    pub fn alloc(&self, len: usize, align: u64) -> Result<u64> {
        self.alloc_in(0, len, align)
    }

    fn locate(&self, guest: u64) -> (&Region, usize) {
        let found = self.regions.iter().find_map(|region| {
            let offset = usize::try_from(guest.checked_sub(region.guest)?).ok()?;
            (offset < region.len).then_some((region, offset))
        });
        found.unwrap_or_else(|| panic!("guest address {guest:#x} is not memory"))
    }

    /// Whether there is memory at a guest address.
    #[must_use]
    pub fn contains(&self, guest: u64) -> bool {
        let inside = |region: &Region| {
            guest
                .checked_sub(region.guest)
                .is_some_and(|offset| offset < region.len as u64)
        };
        self.regions.iter().any(inside)
    }

    /// The mapping and offset of a guest address, and how many bytes follow there.
    fn run(&self, guest: u64) -> (&Mapping, usize, usize) {
        let (region, offset) = self.locate(guest);
        let (place, left) = region.place(offset);
        (&region.map, place, left)
    }

    /// The mapping by which the device reaches a guest address, and the offset in it.
    ///
    /// # Panics
    ///
    /// When the address is in a hole.
    #[must_use]
    pub fn mapping(&self, guest: u64) -> (&Mapping, usize) {
        let (region, offset) = self.locate(guest);
        (region.view(), region.place(offset).0)
    }

    /// The address of the process behind a guest address, for the device.
    ///
    /// # Panics
    ///
    /// When the address is in a hole.
    #[must_use]
    pub fn user(&self, guest: u64) -> u64 {
        let (map, offset) = self.mapping(guest);
        (map.addr() + offset) as u64
    }

    /// Copies out of guest memory, across adjacent regions.
    ///
    /// # Panics
    ///
    /// When the range has a hole.
    pub fn read(&self, mut guest: u64, mut to: &mut [u8]) {
        while !to.is_empty() {
            let (map, offset, left) = self.run(guest);
            let here = to.len().min(left);
            let (part, rest) = to.split_at_mut(here);
            map.read(offset, part);
            guest += here as u64;
            to = rest;
        }
    }

    /// A copy of guest memory, across adjacent regions.
    ///
    /// # Panics
    ///
    /// When the range has a hole.
    #[must_use]
    pub fn content(&self, guest: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read(guest, &mut bytes);
        bytes
    }

    /// Copies into guest memory, across adjacent regions.
    ///
    /// # Panics
    ///
    /// When the range has a hole.
    pub fn write(&self, mut guest: u64, mut from: &[u8]) {
        while !from.is_empty() {
            let (map, offset, left) = self.run(guest);
            let (part, rest) = from.split_at(from.len().min(left));
            map.write(offset, part);
            guest += part.len() as u64;
            from = rest;
        }
    }

    /// Fills guest memory, across adjacent regions.
    ///
    /// # Panics
    ///
    /// When the range has a hole.
    pub fn fill(&self, mut guest: u64, mut len: usize, byte: u8) {
        while len > 0 {
            let (map, offset, left) = self.run(guest);
            let here = len.min(left);
            map.fill(offset, here, byte);
            guest += here as u64;
            len -= here;
        }
    }

    /// Reads two words that belong together, the first in the lower half.
    ///
    /// # Panics
    ///
    /// When the address is in a hole or misaligned.
    #[must_use]
    pub fn load_u32(&self, guest: u64, order: Ordering) -> u32 {
        let (map, offset, _) = self.run(guest);
        map.load_u32(offset, order)
    }

    /// Writes two words that belong together, the first in the lower half.
    ///
    /// # Panics
    ///
    /// When the address is in a hole or misaligned.
    pub fn store_u32(&self, guest: u64, value: u32, order: Ordering) {
        let (map, offset, _) = self.run(guest);
        map.store_u32(offset, value, order);
    }

    /// Reads an index word.
    ///
    /// # Panics
    ///
    /// When the address is in a hole or misaligned.
    #[must_use]
    pub fn load_u16(&self, guest: u64, order: Ordering) -> u16 {
        let (map, offset, _) = self.run(guest);
        map.load_u16(offset, order)
    }

    /// Writes an index word.
    ///
    /// # Panics
    ///
    /// When the address is in a hole or misaligned.
    pub fn store_u16(&self, guest: u64, value: u16, order: Ordering) {
        let (map, offset, _) = self.run(guest);
        map.store_u16(offset, value, order);
    }
}

#[cfg(test)]
mod tests {
    use super::{GuestMemory, PAGE};

    const AT: u64 = 0x10_0000;

    #[test]
    fn what_the_table_leaves_out_is_watched() {
        for scattered in [false, true] {
            let memory = GuestMemory::with(&[(AT, 2 * PAGE)], scattered, PAGE).expect("memory");
            memory.fill(AT, 2 * PAGE, 0);
            memory.margins_untouched().expect("nothing wrong");
            memory.spoiled_untouched().expect("nothing wrong");
            let [region] = memory.table()[..] else {
                panic!("one region");
            };
            let (map, _) = memory.mapping(AT);
            let start = (region.user - map.addr() as u64) as usize;
            for offset in [start - 1, start + region.size as usize] {
                map.write(offset, &[0]);
                memory.margins_untouched().expect_err("a byte outside");
                map.write(offset, &[super::MARGIN]);
            }
            memory.margins_untouched().expect("all as before");
        }
    }

    #[test]
    fn pages_without_an_address_are_watched() {
        let memory = GuestMemory::with(&[(AT, PAGE)], true, PAGE).expect("memory");
        memory.write(AT, &[7]);
        let (map, old) = memory.mapping(AT);
        memory.move_page(AT);
        let mut byte = [0];
        memory.read(AT, &mut byte);
        assert_eq!(byte, [7]);
        memory.spoiled_untouched().expect("nothing wrong");
        map.write(old, &[0]);
        memory.spoiled_untouched().expect_err("the old page");
    }
}
