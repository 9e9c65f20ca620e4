// SPDX-License-Identifier: GPL-2.0

//! Buffers cut from pages, which are used again once all their buffers have been freed.
//!
//! Who gets a buffer frees it like any page fragment. Allocating pages costs, and more so where the
//! kernel zeroes them first: a page that came back is worth remembering. Only data of the same
//! device can be found in it.
//!
//! Pages are charged to the memory cgroup of the task that allocates them. Large pages are taken
//! where they lie ready; a machine whose memory is in small pieces serves single pages instead.

use core::mem::{offset_of, ManuallyDrop, MaybeUninit};
use core::ptr::NonNull;

use kernel::ffi::c_void;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

use super::shim;

/// Order of the pages that are tried first: that of the network stack's own fragments.
const ORDER: u32 = 3;
/// The most pages that are kept, so that a queue keeps at most 2 MiB: what a burst of 32 of the
/// longest frames takes. With more in flight, pages come from the allocator and go back to it.
const SLOTS: usize = 64;
/// References taken at once, so that handing out a buffer needs no atomic operation.
const REFS: i32 = 1 << 12;
/// Buffers are as long as a multiple of this, in bytes, so that what is left of a page has room for
/// the header of a packet.
const GRAIN: usize = 64;
/// Pages that are begun before the next try of a large one, after there was none.
///
/// A try in vain searches all free lists and wakes the kernel's compaction: once for 1 MiB of frames
/// is rare enough, and soon enough to have large pages back.
const LARGE_PAUSE: u32 = 256;
/// Tries of a page that fail at once, after there was none.
///
/// A real try reclaims memory first; in a memory cgroup at its limit, each would do so. Frames then
/// go from guest memory, for which the backend allocates on its own account.
const PAUSE: u32 = 64;

/// Up to [`SLOTS`] pages that buffers are cut from.
pub(super) struct Pool {
    /// Its capacity is [`SLOTS`]; the page of [`Pool::current`] is there if any is.
    pages: KVec<Pages>,
    /// The page that buffers are cut from.
    current: usize,
    /// What is left of [`LARGE_PAUSE`].
    large_pause: u32,
    /// What is left of [`PAUSE`].
    pause: u32,
}

/// A compound page.
///
/// # Invariants
///
/// `start` is the address of a compound page of `size` bytes, of which `refs` references are owned,
/// at least one. Bytes from `used` on are in no buffer that still exists. `used` is a multiple of
/// [`GRAIN`].
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
/// `start` points to `len` bytes of a page, of which a reference is owned. Nobody else has them.
///
/// C knows it as `struct rnet_buffer`, as asserted below.
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

// SAFETY: pages belong to nobody in particular.
unsafe impl Send for Pages {}
// SAFETY: a shared reference only looks at how many references there are.
unsafe impl Sync for Pages {}
// SAFETY: as for `Pages`.
unsafe impl Send for Buffer {}
// SAFETY: a shared reference gives access to the length only.
unsafe impl Sync for Buffer {}

impl Pool {
    /// An empty pool.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            pages: KVec::with_capacity(SLOTS, GFP_KERNEL)?,
            current: 0,
            large_pause: 0,
            pause: 0,
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

    /// Cuts off a buffer of `len` bytes, or of at least [`GRAIN`] if the page ends before.
    ///
    /// A buffer that is too short ends where its page does, so the next one begins a page.
    /// `None` if there is no memory.
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

    /// Goes on to a page without buffers: one that came back, or a new one.
    #[cold]
    fn turn(&mut self) -> Option<&mut Pages> {
        // The pages are used in turn, so the next is out longest.
        let mut next = match self.current.wrapping_add(1) {
            next if next < SLOTS => next.min(self.pages.len()),
            _ => 0,
        };
        // Early on, a few pages are enough: go back to the first while it is back.
        if next == self.pages.len() && self.pages.first().is_some_and(Pages::is_back) {
            next = 0;
        }
        let large_again = self.large_pause == 0;
        self.large_pause = self.large_pause.saturating_sub(1);
        let slot = self.pages.get_mut(next);
        let back = slot.is_some_and(Pages::reuse);
        // A single page gives way to a large one once there may be some again.
        if !back || (large_again && self.is_single(next)) {
            match (self.allocate(large_again, back), self.pages.get_mut(next)) {
                (Some(new), Some(pages)) => *pages = new,
                // There is room: `next` is less than `SLOTS`.
                (Some(new), None) => self.pages.push_within_capacity(new).ok()?,
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

    /// A new page: a large one if `large` and there is one, else a single one unless `only_large`.
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

    /// Gives all pages back; those with buffers are freed with the last of these.
    pub(super) fn clear(&mut self) {
        self.pages.clear();
        self.current = 0;
    }
}

impl Pages {
    /// Allocates a page of order `order`; `reclaim` says whether memory may be reclaimed for it.
    fn new(order: u32, reclaim: bool) -> Option<Self> {
        // SAFETY: no requirements.
        let start = NonNull::new(unsafe { shim::rnet_pages_alloc(order, reclaim, REFS) })?;
        // INVARIANT: allocated with this many references; no buffers yet.
        Some(Self {
            start,
            size: PAGE_SIZE << order,
            used: 0,
            refs: REFS,
        })
    }

    /// Cuts off a buffer of `len` bytes, a multiple of [`GRAIN`].
    #[inline(always)]
    fn take(&mut self, len: usize) -> Option<Buffer> {
        // One reference stays with the page.
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
        // INVARIANT: fewer bytes than it has.
        buffer.len = buffer.len.min(len);
        Some(buffer)
    }

    /// Whether all buffers have been freed. Stores to the page may follow: they depend on it.
    fn is_back(&self) -> bool {
        // SAFETY: at least one reference is owned.
        unsafe { shim::rnet_pages_refs(self.start.as_ptr()) == self.refs }
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

impl Buffer {
    /// Its bytes.
    #[inline]
    pub(super) fn content(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: they are nobody else's, and need not be initialized.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.len) }
    }

    /// Its first byte, and its reference to be freed as a page fragment's.
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
