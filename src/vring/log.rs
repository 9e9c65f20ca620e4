// SPDX-License-Identifier: GPL-2.0

//! Where the dirty log has the bits of guest memory (`VHOST_F_LOG_ALL`).
//!
//! The log has a bit for each page of guest memory, from guest address 0 on, low bits first, as
//! `log_write()` of the in-tree vhost sets them. Its owner clears bits meanwhile: they have to be set
//! atomically, here a word of them at a time.

use crate::addr::{GuestAddr, UserAddr};
use crate::memory::Unmapped;

/// Bytes of guest memory for each bit: two to this (`VHOST_PAGE_SIZE`).
const PAGE_SHIFT: u32 = 12;
/// Pages for each byte of the log: two to this.
const BYTE_SHIFT: u32 = 3;
/// Bytes of a word, less one.
const WORD_MASK: u64 = 3;

/// The first and the last page that have one of `len` bytes from `addr` on; at least one.
#[inline]
fn pages(addr: GuestAddr, len: u64) -> Option<(u64, u64)> {
    let last = addr.0.checked_add(len.checked_sub(1)?)?;
    Some((addr.0 >> PAGE_SHIFT, last >> PAGE_SHIFT))
}

/// The part of the log that `len` bytes of guest memory from `addr` on have: its offset from the
/// start of the log and its length, both in bytes.
///
/// `None` when the range wraps. Nothing has no bytes in the log.
#[must_use]
pub fn log_extent(addr: GuestAddr, len: u64) -> Option<(u64, u64)> {
    if len == 0 {
        return Some((addr.0 >> PAGE_SHIFT >> BYTE_SHIFT, 0));
    }
    let (first, last) = pages(addr, len)?;
    let (first, last) = (first >> BYTE_SHIFT, last >> BYTE_SHIFT);
    // No wrap: offsets are far below 2^64.
    Some((first, last.wrapping_sub(first).wrapping_add(1)))
}

/// Calls `set` for each word of the log at `log` that has bits of the `len` bytes of guest memory
/// from `addr` on, which were written.
///
/// `set` is given the word's address, a multiple of four, and the bits to set there, as they lie in
/// memory (little-endian). A log at an odd address is right as well; its words then begin before it,
/// and none of their bits there is set. A log has one bit for 4 KiB, so the work is in proportion to
/// what was written.
///
/// # Errors
///
/// [`Unmapped`] when the range or its place in the log wraps, and what `set` answers; words before
/// that have been set.
#[inline]
pub fn for_each_log_word(
    log: UserAddr,
    addr: GuestAddr,
    len: u64,
    mut set: impl FnMut(UserAddr, u32) -> Result<(), Unmapped>,
) -> Result<(), Unmapped> {
    if len == 0 {
        return Ok(());
    }
    let (mut page, last) = pages(addr, len).ok_or(Unmapped(log))?;
    loop {
        let byte = log.0.checked_add(page >> BYTE_SHIFT).ok_or(Unmapped(log))?;
        // The page's bit in the word: the bytes before its own have eight each.
        let bit = (byte & WORD_MASK) << BYTE_SHIFT | page & 7;
        // No wrap: bit < 32, page <= last. CAST: at most 32.
        let count = 32u64
            .wrapping_sub(bit)
            .min(last.wrapping_sub(page).wrapping_add(1)) as u32;
        let ones = u32::MAX.wrapping_shr(32u32.wrapping_sub(count));
        // CAST: below 32. Nothing is shifted out: bit + count <= 32.
        let mask = ones.wrapping_shl(bit as u32);
        set(UserAddr(byte & !WORD_MASK), mask.to_le())?;
        page = page.wrapping_add(u64::from(count));
        if page > last {
            return Ok(());
        }
    }
}
