// SPDX-License-Identifier: GPL-2.0

//! Frames in page fragments, sent to a tap many at a time without an `iov_iter`.
//!
//! C header: `include/linux/if_tun.h` (`struct tun_msg_ctl` with `TUN_MSG_PTR`).

use core::ptr::NonNull;

use kernel::error::to_result;
use kernel::prelude::*;
use vring::{Segment, Unmapped, UserAddr};

use super::pages::{Buffer, Pool};
use super::shim;
use super::socket::Socket;

/// The most frames that are sent at once; `RNET_FRAMES` in `src/shim/helpers.h`.
pub(crate) const FRAMES: usize = 64;

/// Frames of up to 32 KiB with overhead, several to a page.
type Small = Pool<3, 32>;
/// Frames of up to 128 KiB with overhead, one to a page.
type Large = Pool<5, 16>;

/// Frames to be sent, at most [`FRAMES`].
///
/// # Invariants
///
/// `raw` is valid, and only reached through this. `count` frames are in it and owned.
pub(crate) struct Frames {
    raw: NonNull<shim::CFrames>,
    count: usize,
    small: Small,
    large: Large,
}

// SAFETY: owns all that it points to.
unsafe impl Send for Frames {}
// SAFETY: a shared reference gives access to the count only.
unsafe impl Sync for Frames {}

/// A frame that has been filled, to be kept or not; dropping it does not keep it.
pub(crate) struct Frame<'a> {
    frames: &'a mut Frames,
    /// `Some` until it is kept.
    buffer: Option<Buffer>,
    size: u32,
    pad: u32,
    header: u32,
    len: u32,
}

impl Frames {
    /// The largest buffer of a frame, overhead included, in bytes.
    pub(crate) const MAX_SIZE: usize = Large::MAX;

    /// An empty list.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: no requirements.
        let raw = NonNull::new(unsafe { shim::rnet_frames_new() }).ok_or(ENOMEM)?;
        // INVARIANT: fresh and empty.
        Ok(Self {
            raw,
            count: 0,
            small: Pool::new(),
            large: Pool::new(),
        })
    }

    /// Number of frames.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Makes a frame of the segments, of `len` bytes together, without their first `skip` bytes.
    ///
    /// The first `header` bytes of what remains are a virtio-net header; `headroom` is left before
    /// it for XDP. `Ok(None)` if the buffer, overhead included, would be larger than `max` bytes, or
    /// there is no memory, or the list is full.
    ///
    /// # Errors
    ///
    /// [`Unmapped`] when not all could be read.
    #[inline(always)]
    pub(crate) fn fill(
        &mut self,
        segments: &[Segment],
        len: usize,
        skip: usize,
        header: usize,
        headroom: u32,
        max: usize,
    ) -> Result<Option<Frame<'_>>, Unmapped> {
        let Some(total) = len.checked_sub(skip).filter(|total| *total <= max) else {
            return Ok(None);
        };
        let (Some(payload), true) = (total.checked_sub(header), self.count < FRAMES) else {
            return Ok(None);
        };
        // CAST: both are at most `max`, which is bounded below; the sums fit as well.
        let (header, payload) = (header as u32, payload as u32);
        if max > Self::MAX_SIZE {
            return Ok(None);
        }
        // SAFETY: only computes.
        let pad = unsafe { shim::rnet_frame_pad(headroom.wrapping_add(header)) };
        // SAFETY: only computes.
        let size = unsafe { shim::rnet_frame_size(pad.wrapping_add(payload)) };
        // CAST: `u32` fits `usize`.
        let bytes = size as usize;
        if bytes > max {
            return Ok(None);
        }
        let buffer = if bytes <= Small::MAX {
            self.small.take(bytes)
        } else {
            self.large.take(bytes)
        };
        let Some(buffer) = buffer else {
            return Ok(None);
        };
        let mut frame = Frame {
            frames: self,
            buffer: Some(buffer),
            size,
            pad,
            header,
            len: payload,
        };
        frame.copy(segments, skip)?;
        Ok(Some(frame))
    }

    /// Sends all frames; the list is empty afterwards.
    ///
    /// A frame that the tap refuses by itself (too short, bad header) is dropped there.
    ///
    /// # Errors
    ///
    /// Those of the tap for all of them, which are then freed: `EBADFD` when its device is gone;
    /// `EOPNOTSUPP` for a socket that is no tap's.
    #[inline]
    pub(crate) fn send(&mut self, socket: &Socket) -> Result {
        if self.count == 0 {
            return Ok(());
        }
        let sent = match socket.is_tap() {
            // SAFETY: `raw` is valid with `count` frames, and the socket knows the message.
            true => to_result(
                unsafe { shim::rnet_frames_send(self.raw.as_ptr(), self.count, socket.as_ptr()) }
                    .min(0),
            ),
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

    /// Gives back memory kept for frames to come.
    pub(crate) fn release(&mut self) {
        self.small.clear();
        self.large.clear();
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
    /// The header and the payload begin here.
    fn content(buffer: &Buffer, pad: u32, header: u32) -> NonNull<u8> {
        // SAFETY: the header lies within the padding, which lies within the buffer.
        unsafe { buffer.start.add(pad.wrapping_sub(header) as usize) }
    }

    #[inline]
    fn copy(&mut self, segments: &[Segment], skip: usize) -> Result<(), Unmapped> {
        let Some(buffer) = &self.buffer else {
            return Ok(());
        };
        let room = self.header.wrapping_add(self.len) as usize;
        // SAFETY: the buffer has `room` bytes from there on, and C is told so. Any user address may
        // be given.
        let ret = unsafe {
            shim::rnet_copy_from_segments(
                Self::content(buffer, self.pad, self.header).as_ptr().cast(),
                room,
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

    /// The frame's bytes, header first.
    #[inline]
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        let Some(buffer) = &self.buffer else {
            return &mut [];
        };
        let len = self.header.wrapping_add(self.len) as usize;
        let start = Self::content(buffer, self.pad, self.header);
        // SAFETY: all of them have been written by `copy`, without which there is no frame, and
        // nobody else has the buffer.
        unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), len) }
    }

    /// Adds the frame to the list.
    #[inline]
    pub(crate) fn keep(mut self) {
        let Some(buffer) = self.buffer.take() else {
            return;
        };
        // SAFETY: `fill` saw that there is room; the list takes over the buffer's reference.
        unsafe {
            shim::rnet_frames_put(
                self.frames.raw.as_ptr(),
                self.frames.count,
                buffer.start.as_ptr().cast(),
                self.size,
                self.pad,
                self.header,
                self.len,
            )
        };
        self.frames.count = self.frames.count.wrapping_add(1);
    }
}

impl Drop for Frame<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            if self.size as usize <= Small::MAX {
                self.frames.small.untake(buffer);
            } else {
                self.frames.large.untake(buffer);
            }
        }
    }
}
