// SPDX-License-Identifier: GPL-2.0

//! Guest memory that goes away for a while.

use crate::device::NetDevice;
use crate::memory::GuestMemory;
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

/// The pages of a queue's buffers that nothing else is in.
#[must_use]
pub fn whole_pages(device: &mut NetDevice, index: u32) -> (u64, usize) {
    let (addr, len) = device.queue(index).buffers();
    let start = addr.next_multiple_of(4096);
    let end = (addr + len as u64) & !4095;
    // CAST: within one mapping.
    (start, (end - start) as usize)
}
