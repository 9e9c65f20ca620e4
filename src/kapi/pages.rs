// SPDX-License-Identifier: GPL-2.0

//! Buffers cut from pages, which are reused once all their buffers have been freed.
//!
//! The receiver of a buffer frees it like any page fragment. Reusing pages saves the cost of
//! allocating them, and of zeroing them where the kernel is configured to. A reused page may only
//! contain data of the same device.
//!
//! Pages are charged to the memory cgroup of the worker's owner. Large pages are used if
//! they are available without reclaim; if memory is fragmented, single pages are used.

use core::mem::{offset_of, ManuallyDrop, MaybeUninit};
use core::ptr::NonNull;

use kernel::ffi::c_void;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::Arc;

use super::{shim, Counter};

/// Order of the pages that are tried first, which is that of the network stack's own fragments.
const ORDER: u32 = 3;
/// The most pages that are kept.
///
/// A queue thus keeps at most 2 MiB, which a burst of 32 of the longest frames takes. With more in
/// flight, pages come from the allocator and go back to it.
const SLOTS: usize = 64;
/// References taken at once, so that cutting off a buffer needs no atomic operation.
const REFS: i32 = 1 << 12;
/// Buffers are multiples of this in length, in bytes, so that the rest of a page has room for the
/// header of a packet.
const GRAIN: usize = 64;
/// Number of pages to use before a large page is tried again, after there was none.
///
/// A failed try searches all free lists and wakes the kernel's compaction. One for each 1 MiB of
/// frames is rare enough, and finds large pages again soon enough.
const LARGE_PAUSE: u32 = 256;
/// Number of tries of a page that fail at once, after there was none.
///
/// A real try reclaims memory first, each time if the memory cgroup is at its limit. Meanwhile,
/// frames are sent from guest memory, for which the backend allocates memory itself.
const PAUSE: u32 = 64;

/// Up to [`SLOTS`] pages that buffers are cut from.
pub(super) struct Pool {
    /// The pages, with a capacity of [`SLOTS`]; the page of [`Pool::current`] exists if any does.
    pages: KVec<Pages>,
    /// Index of the page that buffers are cut from.
    current: usize,
    /// Rest of the current [`LARGE_PAUSE`].
    large_pause: u32,
    /// Rest of the current [`PAUSE`].
    pause: u32,
    /// Number of [`PAGE_SIZE`] pages that are kept, for anybody to read.
    kept: Arc<Counter>,
}

/// A compound page.
///
/// # Invariants
///
/// `start` is the address of a compound page of `size` bytes. `refs` of its references are owned,
/// at least one. No existing buffer has bytes from `used` on. `used` is a multiple of [`GRAIN`].
struct Pages {
    start: NonNull<c_void>,
    size: usize,
    used: usize,
    refs: i32,
}

/// A buffer.
///
/// # Invariants
///
/// `start` points to `len` bytes of a page, to which a reference is owned. Nothing else accesses
/// these bytes.
///
/// Its C type is `struct rnet_buffer`, as asserted below.
#[repr(C)]
pub(super) struct Buffer {
    start: NonNull<u8>,
    len: usize,
}

const _: () = {
    assert!(size_of::<Buffer>() == size_of::<shim::CBuffer>());
    assert!(offset_of!(Buffer, start) == offset_of!(shim::CBuffer, start));
    assert!(offset_of!(Buffer, len) == offset_of!(shim::CBuffer, len));
};

// SAFETY: pages do not belong to a particular thread.
unsafe impl Send for Pages {}
// SAFETY: a shared reference only reads the number of references.
unsafe impl Sync for Pages {}
// SAFETY: as for `Pages`.
unsafe impl Send for Buffer {}
// SAFETY: a shared reference gives access to the length only.
unsafe impl Sync for Buffer {}

impl Pool {
    /// Makes an empty pool, which counts in `kept` the pages that it keeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(kept: Arc<Counter>) -> Result<Self> {
        Ok(Self {
            pages: KVec::with_capacity(SLOTS, GFP_KERNEL)?,
            current: 0,
            large_pause: 0,
            pause: 0,
            kept,
        })
    }

    /// Cuts off a buffer of at least `len` bytes, at most [`PAGE_SIZE`].
    ///
    /// `None` if there is no memory.
    #[inline(always)]
    pub(super) fn take(&mut self, len: usize) -> Option<Buffer> {
        let len = len.checked_next_multiple_of(GRAIN)?;
        match self.current().and_then(|pages| pages.take(len)) {
            None => self.turn()?.take(len),
            some => some,
        }
    }

    /// Cuts off a buffer of `len` bytes, or of at least [`GRAIN`] if the page ends earlier.
    ///
    /// A buffer that is shorter than `len` ends where its page does, so the next one begins at the
    /// start of a page. `None` if there is no memory.
    pub(super) fn take_some(&mut self, len: usize) -> Option<Buffer> {
        match self.current().and_then(|pages| pages.take_some(len)) {
            None => self.turn()?.take_some(len),
            some => some,
        }
    }

    #[inline]
    fn current(&mut self) -> Option<&mut Pages> {
        self.pages.get_mut(self.current)
    }

    /// Moves on to a page without buffers, either a reused one or a new one.
    #[cold]
    fn turn(&mut self) -> Option<&mut Pages> {
        // The pages are used in turn, so the next one has been in use for longest.
        let mut next = match self.current.wrapping_add(1) {
            next if next < SLOTS => next.min(self.pages.len()),
            _ => 0,
        };
        // At first a few pages are enough: return to the first one if it has no buffers.
        if next == self.pages.len() && self.pages.first().is_some_and(Pages::is_back) {
            next = 0;
        }
        let large_again = self.large_pause == 0;
        self.large_pause = self.large_pause.saturating_sub(1);
        let slot = self.pages.get_mut(next);
        let back = slot.is_some_and(Pages::reuse);
        // A single page is replaced by a large one once there may be large ones again.
        if !back || (large_again && self.is_single(next)) {
            match (self.allocate(large_again, back), self.pages.get_mut(next)) {
                (Some(new), Some(pages)) => {
                    self.kept.add(new.count().wrapping_sub(pages.count()));
                    *pages = new;
                }
                (Some(new), None) => {
                    self.kept.add(new.count());
                    // There is room: `next` is less than `SLOTS`.
                    self.pages.push_within_capacity(new).ok()?;
                }
                (None, _) if back => {}
                (None, _) => return None,
            }
        }
        self.current = next;
        self.current()
    }

    fn is_single(&self, slot: usize) -> bool {
        let pages = self.pages.get(slot);
        pages.is_some_and(|pages| pages.size == PAGE_SIZE)
    }

    /// Allocates a large page if `large` and there is one, otherwise a single one unless
    /// `only_large`.
    fn allocate(&mut self, large: bool, only_large: bool) -> Option<Pages> {
        if large {
            if let Some(pages) = Pages::new(ORDER, false) {
                return Some(pages);
            }
            self.large_pause = LARGE_PAUSE;
        }
        if only_large {
            return None;
        }
        if self.pause != 0 {
            self.pause = self.pause.wrapping_sub(1);
            return None;
        }
        let pages = Pages::new(0, true);
        if pages.is_none() {
            self.pause = PAUSE;
        }
        pages
    }

    /// Whether there are pages to give back.
    #[inline]
    pub(super) fn keeps_memory(&self) -> bool {
        !self.pages.is_empty()
    }

    /// Frees all pages; those with buffers are freed with the last of these.
    pub(super) fn clear(&mut self) {
        for pages in &self.pages {
            self.kept.add(0usize.wrapping_sub(pages.count()));
        }
        self.pages.clear();
        self.current = 0;
    }
}

impl Pages {
    /// Allocates a page of order `order`, for which memory may be reclaimed if `reclaim`.
    fn new(order: u32, reclaim: bool) -> Option<Self> {
        // SAFETY: no requirements.
        let start = NonNull::new(unsafe { shim::rnet_pages_alloc(order, reclaim, REFS) })?;
        // INVARIANT: the page is allocated with this many references; it has no buffers yet.
        Some(Self {
            start,
            size: PAGE_SIZE << order,
            used: 0,
            refs: REFS,
        })
    }

    /// Number of [`PAGE_SIZE`] pages in it.
    fn count(&self) -> usize {
        self.size / PAGE_SIZE
    }

    /// Cuts off a buffer of `len` bytes, a multiple of [`GRAIN`].
    #[inline(always)]
    fn take(&mut self, len: usize) -> Option<Buffer> {
        // The page itself keeps one reference.
        if self.refs <= 1 || len > self.size.checked_sub(self.used)? {
            return None;
        }
        // SAFETY: `used + len` is at most the size of the page.
        let start = unsafe { self.start.cast::<u8>().add(self.used) };
        // INVARIANT: the bytes and the reference are the buffer's.
        self.used = self.used.wrapping_add(len);
        self.refs = self.refs.wrapping_sub(1);
        Some(Buffer { start, len })
    }

    fn take_some(&mut self, len: usize) -> Option<Buffer> {
        let left = self.size.checked_sub(self.used).filter(|left| *left != 0)?;
        let mut buffer = self.take(len.checked_next_multiple_of(GRAIN)?.min(left))?;
        // INVARIANT: the buffer has at least these bytes.
        buffer.len = buffer.len.min(len);
        Some(buffer)
    }

    /// Whether all buffers have been freed.
    ///
    /// Stores to the page may follow without a barrier, since they depend on the result.
    fn is_back(&self) -> bool {
        // SAFETY: at least one reference is owned.
        unsafe { shim::rnet_pages_refs(self.start.as_ptr()) == self.refs }
    }

    /// Starts to cut buffers from the first byte again; returns `false` if there are still buffers.
    fn reuse(&mut self) -> bool {
        if !self.is_back() {
            return false;
        }
        let more = REFS.wrapping_sub(self.refs);
        // SAFETY: at least one reference is owned.
        unsafe { shim::rnet_pages_get(self.start.as_ptr(), more) };
        // INVARIANT: there is no other reference, so there are no buffers.
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

impl Buffer {
    /// The bytes of the buffer.
    #[inline]
    pub(super) fn content(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: by the type invariant nothing else accesses the bytes, and they need not be
        // initialized.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.len) }
    }

    /// Returns the address of the first byte, with a reference that has to be freed like a page
    /// fragment's.
    #[inline]
    pub(super) fn into_raw(self) -> NonNull<u8> {
        ManuallyDrop::new(self).start
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: gives back the reference that is owned.
        unsafe { shim::page_frag_free(self.start.as_ptr().cast()) };
    }
}
