// SPDX-License-Identifier: GPL-2.0

//! Frames in pages of the module, sent to a tap.
//!
//! Frames whose buffer fits a page are sent many at a time, without an `iov_iter`, and the network
//! stack gets that buffer. Longer frames are sent one by one: the tap copies their headers, and the
//! network stack gets the rest as page fragments. When the stack has to change a shared header, it
//! then copies only the header, and needs no more than one contiguous page for that.
//!
//! C header: `include/linux/if_tun.h` (`struct tun_msg_ctl` with `TUN_MSG_PTR` and `TUN_MSG_UBUF`).

use core::mem::MaybeUninit;
use core::ops::RangeInclusive;
use core::ptr::NonNull;

use kernel::bindings::SMP_CACHE_BYTES;
use kernel::error::to_result;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::Arc;
use vring::{Segment, Unmapped, UserAddr};

use super::compat::EOPNOTSUPP;
use super::pages::{Buffer, Pool};
use super::shim;
use super::socket::Socket;
use super::Counter;

/// The most frames that are sent at once.
pub(crate) const FRAMES: usize = shim::RNET_FRAMES;

/// The most buffers of a [`PagedFrame`].
///
/// All but the first begin at the start of a page, and all but the last end at the end of one. The
/// longest frame, with its header, fills less than 17 pages.
const BUFFERS: usize = shim::RNET_BUFFERS;

/// A list of frames to be sent, at most [`FRAMES`].
///
/// # Invariants
///
/// `raw` is valid, and only accessed through this. It has `count` frames, which are owned, at most
/// [`FRAMES`].
pub(crate) struct Frames {
    raw: NonNull<shim::CFrames>,
    count: usize,
    /// Bytes that the network stack needs before a frame, for headers.
    room: u32,
    /// Bytes that the network stack needs behind a frame.
    tail: u32,
    pool: Pool,
    /// The buffers of a [`PagedFrame`] while there is one, with room for [`BUFFERS`].
    buffers: KVec<Buffer>,
}

// SAFETY: owns everything that it points to.
unsafe impl Send for Frames {}
// SAFETY: a shared reference gives access to the count only.
unsafe impl Sync for Frames {}

/// A frame that has been filled and is dropped unless it is kept.
pub(crate) struct Frame<'a> {
    frames: &'a mut Frames,
    buffer: Buffer,
    size: u32,
    pad: u32,
    header: u32,
    len: u32,
}

/// A frame in buffers of its own, which is dropped unless it is sent.
pub(crate) struct PagedFrame<'a> {
    buffers: &'a mut KVec<Buffer>,
    len: usize,
}

/// Rounds `len` up to a multiple of a cache line, in which the network stack measures frames
/// (`SKB_DATA_ALIGN()`).
#[inline(always)]
const fn data_align(len: u32) -> u32 {
    const MASK: u32 = SMP_CACHE_BYTES.wrapping_sub(1);
    len.wrapping_add(MASK) & !MASK
}

impl Frames {
    /// Makes an empty list, which counts in `kept` the pages that it keeps for later frames.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(kept: Arc<Counter>) -> Result<Self> {
        let pool = Pool::new(kept)?;
        let buffers = KVec::with_capacity(BUFFERS, GFP_KERNEL)?;
        // SAFETY: no requirements.
        let raw = NonNull::new(unsafe { shim::rnet_frames_new() }).ok_or(ENOMEM)?;
        // INVARIANT: `raw` is new and has no frames.
        Ok(Self {
            raw,
            count: 0,
            // SAFETY: no requirements.
            room: unsafe { shim::rnet_frame_room() },
            // SAFETY: no requirements.
            tail: unsafe { shim::rnet_frame_tail() },
            pool,
            buffers,
        })
    }

    /// Number of frames.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Copies the segments, of `len` bytes together, into a frame, without their first `skip`
    /// bytes.
    ///
    /// The first `header` bytes of the frame are a virtio-net header; `headroom` bytes are left
    /// before it for XDP. Returns `Ok(None)` if the buffer would be larger than a page, including
    /// its overhead, if there is no memory, or if the list is full.
    ///
    /// # Errors
    ///
    /// [`Unmapped`] when not all bytes could be read.
    #[inline(always)]
    pub(crate) fn fill(
        &mut self,
        segments: &[Segment],
        len: usize,
        skip: usize,
        header: usize,
        headroom: u32,
    ) -> Result<Option<Frame<'_>>, Unmapped> {
        let Some(total) = len.checked_sub(skip).filter(|total| *total <= PAGE_SIZE) else {
            return Ok(None);
        };
        let (Some(payload), true) = (total.checked_sub(header), self.count < FRAMES) else {
            return Ok(None);
        };
        // CAST: both are at most a page; the sums fit as well.
        let (header, payload) = (header as u32, payload as u32);
        let pad = data_align(self.room.wrapping_add(headroom).wrapping_add(header));
        let size = data_align(pad.wrapping_add(payload)).wrapping_add(self.tail);
        // CAST: `u32` fits `usize`.
        if size as usize > PAGE_SIZE {
            return Ok(None);
        }
        // CAST: as above.
        let Some(buffer) = self.pool.take(size as usize) else {
            return Ok(None);
        };
        let mut frame = Frame {
            frames: self,
            buffer,
            size,
            pad,
            header,
            len: payload,
        };
        copy(frame.content(), segments, skip)?;
        Ok(Some(frame))
    }

    /// Makes a frame that is too long for [`Frames::fill`], from the same arguments.
    ///
    /// Returns `Ok(None)` if the frame is shorter than a page or longer than a packet may be, or if
    /// there is no memory.
    ///
    /// # Errors
    ///
    /// [`Unmapped`] when not all bytes could be read.
    pub(crate) fn fill_pages(
        &mut self,
        segments: &[Segment],
        len: usize,
        skip: usize,
        header: usize,
    ) -> Result<Option<PagedFrame<'_>>, Unmapped> {
        let Some(len) = len.checked_sub(skip) else {
            return Ok(None);
        };
        let payload = len.checked_sub(header);
        if !payload.is_some_and(|payload| PagedFrame::LENGTHS.contains(&payload)) {
            return Ok(None);
        }
        let frame = PagedFrame {
            buffers: &mut self.buffers,
            len,
        };
        let mut done = 0usize;
        while done < len {
            let Some(mut buffer) = self.pool.take_some(len.wrapping_sub(done)) else {
                return Ok(None);
            };
            let content = buffer.content();
            let more = content.len();
            copy(content, segments, skip.wrapping_add(done))?;
            done = done.wrapping_add(more);
            if frame.buffers.push_within_capacity(buffer).is_err() {
                return Ok(None);
            }
        }
        Ok(Some(frame))
    }

    /// Sends all frames, after which the list is empty.
    ///
    /// The tap drops single frames that it refuses (too short, bad header).
    ///
    /// # Errors
    ///
    /// Errors of the tap that concern all frames, which are then freed: `EBADFD` when its device is
    /// gone. `EOPNOTSUPP` for a socket that is not a tap's.
    #[inline]
    pub(crate) fn send(&mut self, socket: &Socket) -> Result {
        if self.count == 0 {
            return Ok(());
        }
        let sent = match socket.is_tap() {
            true => {
                // SAFETY: `raw` is valid with `count` frames, and the socket understands the
                // message.
                let sent = unsafe {
                    shim::rnet_frames_send(self.raw.as_ptr(), self.count, socket.as_ptr())
                };
                to_result(sent.min(0))
            }
            false => Err(EOPNOTSUPP),
        };
        if sent.is_err() {
            // The socket has taken none of them.
            self.clear();
        }
        self.count = 0;
        sent
    }

    /// Frees all frames.
    fn clear(&mut self) {
        // SAFETY: `raw` is valid with `count` frames.
        unsafe { shim::rnet_frames_clear(self.raw.as_ptr(), self.count) };
        self.count = 0;
    }

    /// Whether there is memory to give back with [`Frames::release`].
    #[inline]
    pub(crate) fn keeps_memory(&self) -> bool {
        self.pool.keeps_memory()
    }

    /// Frees the memory kept for later frames.
    ///
    /// Memory of frames that the network stack still has is freed with those frames.
    pub(crate) fn release(&mut self) {
        self.pool.clear();
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.clear();
        // SAFETY: `raw` is valid and not used after this.
        unsafe { shim::rnet_frames_free(self.raw.as_ptr()) };
    }
}

impl Frame<'_> {
    /// Header and payload.
    #[inline]
    fn content(&mut self) -> &mut [MaybeUninit<u8>] {
        // CAST: `u32` fits `usize`.
        let (start, end) = (
            self.pad.wrapping_sub(self.header) as usize,
            self.pad.wrapping_add(self.len) as usize,
        );
        self.buffer
            .content()
            .get_mut(start..end)
            .unwrap_or_default()
    }

    /// The frame's bytes, header first.
    #[inline]
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `fill` has written all of them, otherwise there is no frame.
        unsafe { written(self.content()) }
    }

    /// Adds the frame to the list.
    #[inline]
    pub(crate) fn keep(self) {
        let Self { frames, buffer, .. } = self;
        // SAFETY: `fill` saw that there is room; the list takes over the buffer's reference.
        unsafe {
            shim::rnet_frames_put(
                frames.raw.as_ptr(),
                frames.count,
                buffer.into_raw().as_ptr().cast(),
                self.size,
                self.pad,
                self.header,
                self.len,
            )
        };
        // INVARIANT: the list has one more frame.
        frames.count = frames.count.wrapping_add(1);
    }
}

impl PagedFrame<'_> {
    /// Allowed lengths of a frame without its virtio-net header, in bytes.
    ///
    /// For a frame in pages, a tap makes a linear part as long as the virtio-net header says the
    /// headers are, or 128 bytes, up to nearly a page. It does so even if the frame is shorter,
    /// which would leave uninitialized memory at the end of that part.
    ///
    /// A tap copies at least the Ethernet header, and takes pages for the rest if there are at most
    /// `MAX_SKB_FRAGS` of them, which is 17 or more. The rest of the longest frame is as long as 16
    /// pages, so it lies in at most 17 wherever it begins.
    const LENGTHS: RangeInclusive<usize> = PAGE_SIZE..=16 * 4096 + 14;

    /// Length of the frame in bytes, including its virtio-net header.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The first bytes of the frame, which include the whole virtio-net header.
    pub(crate) fn first_bytes(&mut self) -> &mut [u8] {
        match self.buffers.first_mut() {
            // SAFETY: `fill_pages` has written all bytes, otherwise there is no frame.
            Some(buffer) => unsafe { written(buffer.content()) },
            None => &mut [],
        }
    }

    /// Sends the frame without waiting.
    ///
    /// # Errors
    ///
    /// Those of the tap. `EAGAIN`, `ENOBUFS` and `ENOMEM` mean to try again when there is room.
    /// `EMSGSIZE` means that the tap cannot take pages (`IFF_NAPI_FRAGS`), but takes the same frame
    /// from user memory. `EOPNOTSUPP` for a socket that is not a tap's.
    pub(crate) fn send(self, socket: &Socket) -> Result {
        if !socket.is_tap() {
            return Err(EOPNOTSUPP);
        }
        // SAFETY: the socket understands the message; the buffers have been written. A receiver
        // that needs them for longer than the call takes its own references.
        let sent = unsafe {
            shim::rnet_buffers_send(
                self.buffers.as_ptr().cast(),
                self.buffers.len(),
                self.len,
                socket.as_ptr(),
            )
        };
        to_result(sent.min(0))
    }
}

impl Drop for PagedFrame<'_> {
    fn drop(&mut self) {
        self.buffers.clear();
    }
}

/// Fills `to` from the segments, without their first `skip` bytes.
#[inline]
fn copy(to: &mut [MaybeUninit<u8>], segments: &[Segment], skip: usize) -> Result<(), Unmapped> {
    // SAFETY: C writes no more than `to` has room for. Any user address may be given.
    let ret = unsafe {
        shim::rnet_copy_from_segments(
            to.as_mut_ptr().cast(),
            to.len(),
            segments.as_ptr(),
            segments.len(),
            skip,
        )
    };
    if ret == 0 {
        return Ok(());
    }
    let first = segments.first().map_or(UserAddr(0), |first| first.addr);
    Err(Unmapped(first))
}

/// Returns the same bytes as initialized ones.
///
/// # Safety
///
/// All of them have been written.
#[inline]
unsafe fn written(bytes: &mut [MaybeUninit<u8>]) -> &mut [u8] {
    // SAFETY: the same bytes, which are initialized as the caller promises.
    unsafe { &mut *(core::ptr::from_mut(bytes) as *mut [u8]) }
}
