// SPDX-License-Identifier: GPL-2.0

//! Guest memory that goes away for a while.

use crate::driver::device::NetDevice;
use crate::driver::memory::GuestMemory;
use crate::driver::queue::Queue;
use crate::sys::mapping::{Mapping, PAGE};
use anyhow::Result;

/// How memory is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// No access.
    Closed,
    /// Nothing there.
    Unmapped,
    /// No writes.
    ReadOnly,
}

/// Takes memory away from the device, runs `meanwhile`, and puts it back with its content.
///
/// # Errors
///
/// Those of `meanwhile`, or when memory cannot be taken away.
pub fn without(
    memory: &GuestMemory,
    (addr, len): (u64, usize),
    away: Away,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (map, offset) = memory.mapping(addr);
    without_pages(map, (offset, len), away, meanwhile)
}

/// Takes pages of a mapping away, as [`without`].
///
/// # Errors
///
/// As [`without`].
pub fn without_pages(
    map: &Mapping,
    (offset, len): (usize, usize),
    away: Away,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<()> {
    match away {
        Away::Unmapped => {
            let unmapped = map.unmap(offset, len)?;
            let result = meanwhile();
            unmapped.put_back()?;
            result
        }
        Away::Closed | Away::ReadOnly => {
            if away == Away::Closed {
                map.protect(offset, len, false)?;
            } else {
                map.protect_writes(offset, len)?;
            }
            let result = meanwhile();
            map.protect(offset, len, true)?;
            result
        }
    }
}

/// A part of a queue that may be away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The descriptor table.
    Descriptors,
    /// The available ring, or the driver's event suppression structure.
    Available,
    /// The used ring, or the device's event suppression structure.
    Used,
    /// The indirect tables.
    Tables,
    /// All buffers.
    Buffers,
}

impl Part {
    /// Its pages, in removable memory.
    #[must_use]
    pub fn pages(self, queue: &Queue) -> (u64, usize) {
        let [descriptors, available, used] = queue.layout.areas().map(|area| (area.addr, area.len));
        let (addr, len) = match self {
            Self::Descriptors => descriptors,
            Self::Available => available,
            Self::Used => used,
            Self::Tables => queue.tables(),
            Self::Buffers => queue.buffers(),
        };
        (addr, len.next_multiple_of(PAGE))
    }
}

/// The pages of a queue's buffers that nothing else is in.
#[must_use]
pub fn whole_pages(device: &mut NetDevice, index: u32) -> (u64, usize) {
    let (addr, len) = device.queue(index).buffers();
    let start = addr.next_multiple_of(4096);
    let end = (addr + len as u64) & !4095;
    // CAST: within one mapping.
    (start, (end - start) as usize)
}
