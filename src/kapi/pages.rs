// SPDX-License-Identifier: GPL-2.0

//! Buffers cut from large pages, which are used again once all their buffers have been freed.
//!
//! Who gets a buffer frees it like any page fragment. Allocating pages costs, and more so where the
//! kernel zeroes them first: a page that came back is worth remembering. Only data of the same
//! device can be found in it.

use core::ptr::NonNull;

use kernel::ffi::c_void;
use kernel::page::PAGE_SIZE;

use super::shim;

/// References taken at once, so that handing out a buffer needs no atomic operation.
const REFS: i32 = 1 << 12;

/// Up to `SLOTS` compound pages of order `ORDER`.
pub(super) struct Pool<const ORDER: u32, const SLOTS: usize> {
    pages: [Option<Pages>; SLOTS],
    /// The slot that buffers are cut from.
    current: usize,
}

/// A compound page.
///
/// # Invariants
///
/// `start` is the address of a compound page of the pool's order, of which `refs` references are
/// owned, at least one. Bytes from `used` on are in no buffer that still exists.
struct Pages {
    start: NonNull<c_void>,
    refs: i32,
    used: usize,
}

/// A buffer, with the reference to its page.
pub(super) struct Buffer {
    pub(super) start: NonNull<u8>,
    size: usize,
}

// SAFETY: pages belong to nobody in particular.
unsafe impl<const ORDER: u32, const SLOTS: usize> Send for Pool<ORDER, SLOTS> {}
// SAFETY: everything takes `&mut self`.
unsafe impl<const ORDER: u32, const SLOTS: usize> Sync for Pool<ORDER, SLOTS> {}

impl<const ORDER: u32, const SLOTS: usize> Pool<ORDER, SLOTS> {
    /// The largest buffer, in bytes.
    pub(super) const MAX: usize = PAGE_SIZE << ORDER;

    pub(super) const fn new() -> Self {
        Self {
            pages: [const { None }; SLOTS],
            current: 0,
        }
    }

    /// Cuts off a buffer of `size` bytes, a multiple of the alignment that it shall have.
    ///
    /// `None` if there is no memory, or `size` is larger than a page.
    #[inline]
    pub(super) fn take(&mut self, size: usize) -> Option<Buffer> {
        if let Some(pages) = self.pages.get_mut(self.current)?.as_mut() {
            if let Some(buffer) = pages.take(size, Self::MAX) {
                return Some(buffer);
            }
        }
        self.take_next(size)
    }

    /// As [`Pool::take`], from another page: one that came back, or a new one.
    #[cold]
    fn take_next(&mut self, size: usize) -> Option<Buffer> {
        // The slots are used in turn, so the next has the pages that are out longest.
        let next = match self.current.wrapping_add(1) {
            next if next < SLOTS => next,
            _ => 0,
        };
        // Early on, a few slots are enough: go back to the first while its pages are back.
        let next = match self.pages.get(next) {
            Some(None) if self.pages.first().is_some_and(Pages::is_back_in) => 0,
            _ => next,
        };
        let slot = self.pages.get_mut(next)?;
        if !slot.as_mut().is_some_and(Pages::reuse) {
            *slot = Some(Pages::new(ORDER)?);
        }
        self.current = next;
        slot.as_mut()?.take(size, Self::MAX)
    }

    /// Takes the last buffer back.
    #[inline]
    pub(super) fn untake(&mut self, buffer: Buffer) {
        // It was cut from the current page, which is still there.
        if let Some(Some(pages)) = self.pages.get_mut(self.current) {
            pages.untake(buffer);
        }
    }

    /// Gives all pages back.
    pub(super) fn clear(&mut self) {
        self.pages = [const { None }; SLOTS];
    }
}

impl Pages {
    fn new(order: u32) -> Option<Self> {
        // SAFETY: no requirements.
        let start = NonNull::new(unsafe { shim::rnet_pages_alloc(order, REFS) })?;
        // INVARIANT: allocated with this many references; no buffers yet.
        Some(Self {
            start,
            refs: REFS,
            used: 0,
        })
    }

    #[inline]
    fn take(&mut self, size: usize, max: usize) -> Option<Buffer> {
        // One reference stays with the page.
        if self.refs <= 1 || size > max.checked_sub(self.used)? {
            return None;
        }
        // SAFETY: `used + size` is at most the size of the page.
        let start = unsafe { self.start.cast::<u8>().add(self.used) };
        self.used = self.used.wrapping_add(size);
        self.refs = self.refs.wrapping_sub(1);
        Some(Buffer { start, size })
    }

    #[inline]
    fn untake(&mut self, buffer: Buffer) {
        // INVARIANT: the reference and the bytes are those that `take` counted last.
        self.used = self.used.wrapping_sub(buffer.size);
        self.refs = self.refs.wrapping_add(1);
    }

    /// Whether all buffers have been freed. Stores to the page may follow: they depend on it.
    fn is_back(&self) -> bool {
        // SAFETY: at least one reference is owned.
        unsafe { shim::rnet_pages_refs(self.start.as_ptr()) == self.refs }
    }

    fn is_back_in(slot: &Option<Self>) -> bool {
        slot.as_ref().is_some_and(Self::is_back)
    }

    /// Starts again from the first byte; `false` if there are buffers.
    fn reuse(&mut self) -> bool {
        if !self.is_back() {
            return false;
        }
        let more = REFS.wrapping_sub(self.refs);
        // SAFETY: at least one reference is owned.
        unsafe { shim::rnet_pages_get(self.start.as_ptr(), more) };
        // INVARIANT: nobody else has a reference, so there are no buffers.
        self.refs = REFS;
        self.used = 0;
        true
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: gives back all references that are owned.
        unsafe { shim::rnet_pages_put(self.start.as_ptr(), self.refs) };
    }
}
