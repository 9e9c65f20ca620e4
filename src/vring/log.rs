// SPDX-License-Identifier: GPL-2.0

//! The place of guest memory in the dirty log (`VHOST_F_LOG_ALL`).
//!
//! The log has a bit for each page of guest memory, from guest address 0 on, low bits first, as
//! `log_write()` of the in-tree vhost sets them. The owner may clear bits at any time, so they have
//! to be set atomically, here one word at a time.

use crate::addr::{GuestAddr, UserAddr};
use crate::memory::Unmapped;

/// Binary logarithm of the bytes of guest memory for each bit (`VHOST_PAGE_SIZE`).
const PAGE_SHIFT: u32 = 12;
/// Binary logarithm of the pages for each byte of the log.
const BYTE_SHIFT: u32 = 3;
/// Length of a word in bytes, less one.
const WORD_MASK: u64 = 3;

/// The first and the last page of `len` bytes from `addr` on; `None` if `len` is zero or the range
/// wraps.
#[inline]
fn pages(addr: GuestAddr, len: u64) -> Option<(u64, u64)> {
    let last = addr.0.checked_add(len.checked_sub(1)?)?;
    Some((addr.0 >> PAGE_SHIFT, last >> PAGE_SHIFT))
}

/// The part of the log for `len` bytes of guest memory from `addr` on: its offset from the start of
/// the log and its length, both in bytes.
///
/// `None` when the range wraps. The length is 0 for a `len` of 0.
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

/// Calls `set` for each word of the log at `log` that has bits of `len` written bytes of guest
/// memory from `addr` on.
///
/// `set` is given the word's address, a multiple of four, and the bits to set there, as they lie in
/// memory (little-endian). The log need not be aligned: its first word may then begin before it,
/// and no bit outside the log is set. Each bit stands for 4 KiB, so the work is proportional to
/// `len`.
///
/// # Errors
///
/// [`Unmapped`] when the range or its place in the log wraps, and those that `set` returns; earlier
/// words have been set.
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
        // The page's bit in the word: each byte before the page's own has eight bits.
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
