// SPDX-License-Identifier: GPL-2.0

//! Frames in page fragments, sent to a tap many at a time without an `iov_iter`.
//!
//! C header: `include/linux/if_tun.h` (`struct tun_msg_ctl` with `TUN_MSG_PTR`).

use core::ptr::NonNull;

use kernel::error::to_result;
use kernel::prelude::*;
use vring::{Segment, Unmapped, UserAddr};

use super::shim;
use super::socket::Socket;

/// The most frames that are sent at once; `RNET_FRAMES` in `src/shim/helpers.h`.
pub(crate) const FRAMES: usize = 64;

/// Frames to be sent, at most [`FRAMES`].
///
/// # Invariants
///
/// `raw` is valid, and only reached through this. `count` frames are committed and owned.
pub(crate) struct Frames {
    raw: NonNull<shim::CFrames>,
    count: usize,
}

// SAFETY: owns all that it points to.
unsafe impl Send for Frames {}
// SAFETY: a shared reference gives access to the count only.
unsafe impl Sync for Frames {}

/// Room for one more frame; dropping it gives the memory back.
pub(crate) struct Frame<'a> {
    frames: &'a mut Frames,
    bytes: NonNull<u8>,
    len: usize,
}

impl Frames {
    /// An empty list.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: no requirements.
        let raw = NonNull::new(unsafe { shim::rnet_frames_new() }).ok_or(ENOMEM)?;
        // INVARIANT: fresh and empty.
        Ok(Self { raw, count: 0 })
    }

    /// Number of frames.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Reserves a buffer for a frame of `len` bytes, the first `header` of which are a virtio-net
    /// header, with `headroom` bytes before it for XDP.
    ///
    /// `None` if the buffer, overhead included, would be larger than `max` bytes, or there is no
    /// memory, or the list is full.
    #[inline]
    pub(crate) fn reserve(
        &mut self,
        len: usize,
        header: usize,
        headroom: usize,
        max: usize,
    ) -> Option<Frame<'_>> {
        // The sum of lengths and overhead has to fit C's `unsigned int` many times over.
        if self.count >= FRAMES || len > max || header > len || max > 1 << 20 || headroom > 1 << 10
        {
            return None;
        }
        // SAFETY: `raw` is valid, and the lengths are within what C computes with.
        let bytes =
            unsafe { shim::rnet_frames_reserve(self.raw.as_ptr(), len, header, headroom, max) };
        let bytes = NonNull::new(bytes.cast())?;
        Some(Frame {
            frames: self,
            bytes,
            len,
        })
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
        self.count = 0;
        if !socket.is_tap() {
            // SAFETY: `raw` is valid.
            unsafe { shim::rnet_frames_clear(self.raw.as_ptr()) };
            return Err(EOPNOTSUPP);
        }
        // SAFETY: `raw` is valid, and the socket knows the message.
        to_result(unsafe { shim::rnet_frames_send(self.raw.as_ptr(), socket.as_ptr()) }.min(0))
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // SAFETY: `raw` is valid and not used after this.
        unsafe { shim::rnet_frames_free(self.raw.as_ptr()) };
    }
}

impl Frame<'_> {
    /// Copies the segments, without their first `skip` bytes, into the frame and gives its bytes,
    /// header first.
    ///
    /// # Errors
    ///
    /// [`Unmapped`] when not all could be read, or what there is to copy is not exactly as long as
    /// the frame.
    #[inline]
    pub(crate) fn fill(
        &mut self,
        segments: &[Segment],
        skip: usize,
    ) -> Result<&mut [u8], Unmapped> {
        // SAFETY: C reserved `len` bytes for this frame and is told so. Any user address may be
        // given.
        let ret = unsafe {
            shim::rnet_copy_from_segments(
                self.bytes.as_ptr().cast(),
                self.len,
                segments.as_ptr(),
                segments.len(),
                skip,
            )
        };
        if ret != 0 {
            return Err(Unmapped(
                segments.first().map_or(UserAddr(0), |first| first.addr),
            ));
        }
        // SAFETY: all `len` bytes have just been written, and nobody else has the pointer.
        Ok(unsafe { core::slice::from_raw_parts_mut(self.bytes.as_ptr(), self.len) })
    }

    /// Adds the frame to the list.
    #[inline]
    pub(crate) fn commit(self) {
        // SAFETY: the frame was reserved last, and `reserve` saw that there is room.
        unsafe { shim::rnet_frames_commit(self.frames.raw.as_ptr()) };
        self.frames.count = self.frames.count.wrapping_add(1);
        core::mem::forget(self);
    }
}

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        // SAFETY: the frame was reserved last and has not been committed.
        unsafe { shim::rnet_frames_cancel(self.frames.raw.as_ptr()) };
    }
}
