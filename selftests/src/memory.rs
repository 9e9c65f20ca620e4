// SPDX-License-Identifier: GPL-2.0

//! Guest memory: mappings at chosen guest-physical addresses, holes between them included.

use crate::sys::mapping::Mapping;
use crate::uapi::MemoryRegion;
use anyhow::{Context, Result, bail};
use std::sync::atomic::{AtomicU64, Ordering};

/// One run of guest memory.
#[derive(Debug)]
struct Region {
    guest: u64,
    map: Mapping,
    next: AtomicU64,
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
        let regions = layout
            .iter()
            .map(|&(guest, len)| {
                let map = Mapping::new(len).context("guest memory")?;
                Ok(Region {
                    guest,
                    map,
                    next: AtomicU64::new(0),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { regions })
    }

    /// The table for the device.
    #[must_use]
    pub fn table(&self) -> Vec<MemoryRegion> {
        self.regions
            .iter()
            .map(|region| MemoryRegion {
                guest: region.guest,
                size: region.map.len() as u64,
                user: region.map.addr() as u64,
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
        if end > region.map.len() as u64 {
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

    fn locate(&self, guest: u64) -> (&Mapping, usize) {
        let found = self.regions.iter().find_map(|region| {
            let offset = usize::try_from(guest.checked_sub(region.guest)?).ok()?;
            (offset < region.map.len()).then_some((&region.map, offset))
        });
        found.unwrap_or_else(|| panic!("guest address {guest:#x} is not memory"))
    }

    /// The mapping and offset of a guest address.
    ///
    /// # Panics
    ///
    /// When the address is in a hole.
    #[must_use]
    pub fn mapping(&self, guest: u64) -> (&Mapping, usize) {
        self.locate(guest)
    }

    /// The address of the process behind a guest address.
    ///
    /// # Panics
    ///
    /// When the address is in a hole.
    #[must_use]
    pub fn user(&self, guest: u64) -> u64 {
        let (map, offset) = self.locate(guest);
        (map.addr() + offset) as u64
    }

    /// Copies out of guest memory, across adjacent regions.
    ///
    /// # Panics
    ///
    /// When the range has a hole.
    pub fn read(&self, mut guest: u64, mut to: &mut [u8]) {
        while !to.is_empty() {
            let (map, offset) = self.locate(guest);
            let here = to.len().min(map.len() - offset);
            let (part, rest) = to.split_at_mut(here);
            map.read(offset, part);
            guest += here as u64;
            to = rest;
        }
    }

    /// Copies into guest memory, across adjacent regions.
    ///
    /// # Panics
    ///
    /// When the range has a hole.
    pub fn write(&self, mut guest: u64, mut from: &[u8]) {
        while !from.is_empty() {
            let (map, offset) = self.locate(guest);
            let (part, rest) = from.split_at(from.len().min(map.len() - offset));
            map.write(offset, part);
            guest += part.len() as u64;
            from = rest;
        }
    }

    /// Fills guest memory within one region.
    ///
    /// # Panics
    ///
    /// When the range leaves the region.
    pub fn fill(&self, guest: u64, len: usize, byte: u8) {
        let (map, offset) = self.locate(guest);
        map.fill(offset, len, byte);
    }

    /// Reads an index word.
    ///
    /// # Panics
    ///
    /// When the address is in a hole or misaligned.
    #[must_use]
    pub fn load_u16(&self, guest: u64, order: Ordering) -> u16 {
        let (map, offset) = self.locate(guest);
        map.load_u16(offset, order)
    }

    /// Writes an index word.
    ///
    /// # Panics
    ///
    /// When the address is in a hole or misaligned.
    pub fn store_u16(&self, guest: u64, value: u16, order: Ordering) {
        let (map, offset) = self.locate(guest);
        map.store_u16(offset, value, order);
    }
}
