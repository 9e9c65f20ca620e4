// SPDX-License-Identifier: GPL-2.0

//! The ring in which a tap keeps packets for its reader, consumed many at a time.
//!
//! C headers: `include/linux/ptr_ring.h`, `include/linux/if_tun.h`.

use core::ptr::{null_mut, NonNull};

use kernel::bindings;
use kernel::error::{from_err_ptr, to_result};
use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;
use vring::Segment;

use super::compat::ENOTSOCK;
use super::packet::Packet;
use super::{shim, PollFile};

/// The most packets taken from the ring at once.
const BATCH: usize = 64;

/// Number of written packets after which they are freed, which is cheaper for many at once.
const WRITTEN: usize = 16;

/// Number of packets written without the tap after which it writes one again, to show its header.
const TRUSTED: u32 = 63;

/// What only the tap can write.
const ONLY_BY_TAP: u8 = shim::RNET_PACKET_XDP
    | shim::RNET_PACKET_TAGGED
    | shim::RNET_PACKET_TUNNEL
    | shim::RNET_PACKET_LIST;

/// What has numbers in its header, in the byte order of the tap.
const OFFLOADED: u8 = shim::RNET_PACKET_GSO | shim::RNET_PACKET_PARTIAL;

/// What is looked at before the packet is written.
const SPECIAL: u8 = ONLY_BY_TAP | OFFLOADED | shim::RNET_PACKET_FOREIGN;

/// Length of `struct virtio_net_hdr` in bytes, the part of a header that tells of offloads.
const OFFLOADS: usize = 10;

/// Lengths of the header of a tap that is certain to be a virtio-net header, or that there is none.
///
/// A tap may put other information there, too (without `IFF_NO_PI`): then the length is that of
/// both, at least 14 bytes.
const PLAIN_HEADERS: [usize; 3] = [0, 10, 12];

/// The next packet of a ring, which its reader can write as the tap would.
pub(super) struct PlainPacket<'a> {
    ring: &'a mut Ring,
    skb: *mut bindings::sk_buff,
    len: u32,
    kind: u8,
}

impl PlainPacket<'_> {
    /// Whether the packet's checksum has been verified.
    #[inline]
    pub(super) fn is_verified(&self) -> bool {
        self.kind & shim::RNET_PACKET_VALID != 0
    }

    /// Writes `header`, with what is still to be done to the packet, and the packet to user memory.
    ///
    /// # Errors
    ///
    /// `EFAULT` when the memory could not be written, `EINVAL` for a packet that has no such header;
    /// the packet is still the next one then.
    #[inline]
    pub(super) fn write(self, segments: &[Segment], header: &[u8]) -> Result {
        let Self {
            ring,
            skb,
            len,
            kind,
        } = self;
        if segments.is_empty() {
            return Err(EFAULT);
        }
        let write = match kind & OFFLOADED {
            0 => shim::rnet_skb_write,
            _ => shim::rnet_skb_write_offloaded,
        };
        // SAFETY: the packet is an owned `sk_buff` in readable pieces. There is a first segment. C
        // reads the header, and copies to the segments' user addresses, which may be any.
        to_result(unsafe {
            write(
                skb,
                header.as_ptr().cast(),
                header.len(),
                segments.as_ptr(),
                segments.len(),
            )
        })?;
        ring.wrote(skb, len);
        if kind & shim::RNET_PACKET_GSO != 0 {
            ring.segmented = ring.segmented.wrapping_add(1);
        }
        Ok(())
    }
}

/// The consumer's end of a tap's ring.
///
/// # Invariants
///
/// `ring` belongs to `file`. `packets[next..len]` came from it, in order, and are owned; `lens` and
/// `kinds` have what is known of them. `next` and `len` are at most `BATCH`. `sock` belongs to
/// `file`. `dev` is null or a device that this holds a reference to, and which counts in `tstats`;
/// `kinds` tells which packets are not of that device. `written[..written_len]` are owned
/// `sk_buff`s.
pub(super) struct Ring {
    file: PollFile,
    ring: NonNull<shim::CPtrRing>,
    packets: [*mut c_void; BATCH],
    /// Lengths of the packets in bytes, VLAN tags included.
    lens: [u32; BATCH],
    /// Flags `RNET_PACKET_*`.
    kinds: [u8; BATCH],
    next: usize,
    len: usize,
    sock: NonNull<bindings::socket>,
    /// The index of the interface, if it counts the packets that leave the ring; 0 if it is
    /// unknown.
    counts: Option<c_int>,
    /// The interface, as long as it is known to exist.
    dev: *mut bindings::net_device,
    /// The interface that the packets have been compared with, which may be gone.
    compared: *mut bindings::net_device,
    /// Length in bytes of the header that the tap has put before a packet.
    header: usize,
    /// Number of packets that may get such a header without asking the tap again.
    trusted: u32,
    /// Likewise of packets whose header has numbers, since the tap has written them little-endian.
    trusted_offloads: u32,
    /// Packets that were written to their reader.
    written: [*mut bindings::sk_buff; WRITTEN],
    written_len: usize,
    /// Number of packets that were written to be segmented, since the last round.
    segmented: usize,
    /// Packets to be counted, and their bytes.
    count: u32,
    bytes: u32,
}

impl Ring {
    /// The ring of a tun or tap file, whose socket is `sock`.
    ///
    /// `counts` is the index of the interface, in the socket's namespace, if it has to count the
    /// packets that leave the ring; 0 if it is not known.
    ///
    /// # Errors
    ///
    /// `ENOTSOCK` for any other file.
    pub(super) fn of_tap(
        file: PollFile,
        sock: NonNull<bindings::socket>,
        counts: Option<c_int>,
    ) -> Result<impl Init<Self>> {
        // SAFETY: both functions check the kind of the file first; the file is open.
        let ring = from_err_ptr(unsafe { shim::tun_get_tx_ring(file.as_ptr()) })
            // SAFETY: as above.
            .or_else(|_| from_err_ptr(unsafe { shim::tap_get_ptr_ring(file.as_ptr()) }))
            .map_err(|_| ENOTSOCK)?;
        let ring = NonNull::new(ring).ok_or(ENOTSOCK)?;
        // INVARIANT: `ring` is the file's own; there are no packets yet.
        Ok(init!(Self {
            file,
            ring,
            packets: [null_mut(); BATCH],
            lens: [0; BATCH],
            kinds: [0; BATCH],
            next: 0,
            len: 0,
            sock,
            counts,
            dev: null_mut(),
            compared: null_mut(),
            header: 0,
            trusted: 0,
            trusted_offloads: 0,
            written: [null_mut(); WRITTEN],
            written_len: 0,
            segmented: 0,
            count: 0,
            bytes: 0,
        }))
    }

    /// The index of a tun file's interface, 0 if it is unknown; `None` for any other tap.
    pub(super) fn tun_index(&self) -> Option<c_int> {
        self.counts
    }

    /// Number of packets taken from the ring and not handed out, after taking a new batch if there
    /// are none.
    #[inline]
    pub(super) fn backlog(&mut self) -> usize {
        self.fill();
        self.len.saturating_sub(self.next)
    }

    /// Whether there are packets taken from the ring and not handed out.
    #[inline]
    pub(super) fn has_left(&self) -> bool {
        self.next < self.len
    }

    /// Takes a batch of packets from the ring if none of the last batch are left; returns whether
    /// there are any then.
    #[inline]
    fn fill(&mut self) -> bool {
        self.next < self.len || self.consume()
    }

    /// Takes a batch of packets from the ring; returns whether there are any.
    fn consume(&mut self) -> bool {
        self.settle();
        self.next = 0;
        if let (Some(index), true) = (self.counts, self.dev.is_null()) {
            // SAFETY: the file keeps its socket alive.
            // INVARIANT: the device is held.
            self.dev = unsafe { shim::rnet_netdev_hold(self.sock.as_ptr(), index) };
        }
        self.compared = self.dev;
        // SAFETY: the file keeps its ring alive; up to `BATCH` pointers, lengths and kinds are
        // written.
        // INVARIANT: the packets are owned now, and compared with the device.
        self.len = unsafe {
            shim::rnet_ring_consume(
                self.ring.as_ptr(),
                self.file.as_ptr(),
                self.packets.as_mut_ptr(),
                self.lens.as_mut_ptr(),
                self.kinds.as_mut_ptr(),
                BATCH,
                self.dev,
            )
        };
        self.len != 0
    }

    /// Length in bytes of the next packet, including a VLAN tag.
    #[inline]
    pub(super) fn next_len(&mut self) -> Option<usize> {
        if !self.fill() {
            return None;
        }
        // SAFETY: `next` is less than `len`, which is at most `BATCH`.
        // CAST: `u32` fits `usize`.
        Some(unsafe { *self.lens.get_unchecked(self.next) } as usize)
    }

    /// Takes the next packet, if [`Ring::next_len`] has found one.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Packet> {
        if self.next >= self.len {
            return None;
        }
        // SAFETY: `next` is less than `len`, which is at most `BATCH`.
        let packet = unsafe { *self.packets.get_unchecked(self.next) };
        // INVARIANT: the packet is moved out of the range, which shrinks by it.
        self.next = self.next.wrapping_add(1);
        // SAFETY: the packet was owned by this ring.
        Some(unsafe { Packet::from_raw(packet) })
    }

    /// What the header of the next packet tells of offloads, if it has numbers and the tap's are
    /// little-endian.
    #[inline]
    pub(super) fn next_offloads(&self) -> Option<[u8; OFFLOADS]> {
        let kind = self.kinds.get(self.next)?;
        if self.next >= self.len || kind & OFFLOADED == 0 || kind & ONLY_BY_TAP != 0 {
            return None;
        }
        let mut offloads = [0; OFFLOADS];
        // SAFETY: the packet is an owned `sk_buff`, of kind and index as above. C writes as many
        // bytes as there are.
        let made = to_result(unsafe {
            shim::rnet_skb_header(
                self.packets.get(self.next)?.cast(),
                offloads.as_mut_ptr().cast(),
            )
        });
        made.ok().map(|()| offloads)
    }

    /// Length in bytes of the next packet, if it is an `sk_buff`.
    #[inline]
    pub(super) fn next_skb_len(&self) -> Option<usize> {
        let kind = self.kinds.get(self.next)?;
        if self.next >= self.len || kind & shim::RNET_PACKET_XDP != 0 {
            return None;
        }
        // CAST: `u32` fits `usize`.
        self.lens.get(self.next).map(|len| *len as usize)
    }

    /// Whether the next packet is to be segmented.
    #[inline]
    pub(super) fn next_is_gso(&self) -> bool {
        let kind = self.kinds.get(self.next).copied().unwrap_or(0);
        self.has_left() && kind & shim::RNET_PACKET_GSO != 0
    }

    /// Notes that the tap has put a header of `len` bytes before an `sk_buff`, or refused it.
    #[inline]
    pub(super) fn note_header(&mut self, len: Option<usize>) {
        match len {
            Some(len) if PLAIN_HEADERS.contains(&len) => {
                self.header = len;
                self.trusted = TRUSTED;
            }
            _ => self.trusted = 0,
        }
    }

    /// Notes whether the tap has written numbers of a header as [`Ring::next_offloads`] has foretold,
    /// to the segments behind their first `skip` bytes.
    ///
    /// Their owner can change them, and then gets headers that it has asked for.
    #[cold]
    pub(super) fn note_offloads(
        &mut self,
        foretold: &[u8; OFFLOADS],
        segments: &[Segment],
        skip: usize,
    ) {
        let mut found = [0; OFFLOADS];
        // SAFETY: C writes as many bytes as `found` has. Any user addresses may be given.
        let read = unsafe {
            shim::rnet_copy_from_segments(
                found.as_mut_ptr().cast(),
                OFFLOADS,
                segments.as_ptr(),
                segments.len(),
                skip,
            )
        };
        self.trusted_offloads = match read == 0 && found == *foretold {
            true => TRUSTED,
            false => 0,
        };
    }

    /// The next packet, if it can be written behind a header of `header` bytes as the tap would
    /// write it.
    ///
    /// A tap's configuration may change at any time, and only the tap knows it. It shows when the
    /// tap itself writes a packet, which it has to do for one in `TRUSTED`, and likewise for one in
    /// `TRUSTED` that has numbers in its header. If it changes in between, the packets have a header
    /// that the reader expects; from the tap they would have one that the reader cannot use.
    #[inline]
    pub(super) fn next_plain(&mut self, header: usize) -> Option<PlainPacket<'_>> {
        if self.trusted == 0 || self.header != header || self.next >= self.len {
            return None;
        }
        let next = self.next;
        // SAFETY: `next` is less than `len`, which is at most `BATCH`.
        let kind = unsafe { *self.kinds.get_unchecked(next) };
        if (kind & SPECIAL != 0 || self.dev.is_null()) && !self.can_write(kind, header) {
            return None;
        }
        // SAFETY: as above.
        let (packet, len) = unsafe {
            (
                *self.packets.get_unchecked(next),
                *self.lens.get_unchecked(next),
            )
        };
        Some(PlainPacket {
            ring: self,
            skb: packet.cast(),
            len,
            kind,
        })
    }

    /// Whether a packet of this kind can be written behind a header of `header` bytes, and be
    /// counted.
    #[inline(never)]
    fn can_write(&mut self, kind: u8, header: usize) -> bool {
        if kind & ONLY_BY_TAP != 0 {
            return false;
        }
        let is_counted = match self.counts {
            None => true,
            Some(_) if kind & shim::RNET_PACKET_FOREIGN != 0 => false,
            Some(index) => !self.dev.is_null() || self.hold_again(index),
        };
        if !is_counted || kind & OFFLOADED == 0 {
            return is_counted;
        }
        let is_known = self.trusted_offloads != 0 && header >= OFFLOADS;
        self.trusted_offloads = self.trusted_offloads.saturating_sub(1);
        is_known
    }

    /// Holds the device again that the rest of the packets have been compared with, after an earlier
    /// round has left it; returns whether it still exists.
    #[cold]
    fn hold_again(&mut self, index: c_int) -> bool {
        // SAFETY: the file keeps its socket alive.
        let dev = unsafe { shim::rnet_netdev_hold(self.sock.as_ptr(), index) };
        if dev == self.compared {
            // INVARIANT: the device is held, and the packets have been compared with it.
            self.dev = dev;
        } else if !dev.is_null() {
            // SAFETY: the device is held; the reference is dropped here.
            unsafe { shim::rnet_netdev_put(dev) };
        }
        !self.dev.is_null()
    }

    /// Takes the next packet, which has been written.
    #[inline]
    fn wrote(&mut self, skb: *mut bindings::sk_buff, len: u32) {
        if self.written_len >= WRITTEN {
            self.free_written();
        }
        // INVARIANT: the packet is moved from one range to the other.
        if let Some(slot) = self.written.get_mut(self.written_len) {
            *slot = skb;
            self.written_len = self.written_len.wrapping_add(1);
        }
        self.next = self.next.wrapping_add(1);
        self.trusted = self.trusted.saturating_sub(1);
        self.count = self.count.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(len);
    }

    /// Frees the packets that were written.
    fn free_written(&mut self) {
        // SAFETY: they are owned, by the type invariant.
        unsafe { shim::rnet_skbs_free(self.written.as_mut_ptr(), self.written_len) };
        // INVARIANT: none are owned any more.
        self.written_len = 0;
    }

    /// Frees the packets that were written, and has their device count them.
    #[inline]
    pub(super) fn settle(&mut self) {
        // The last one written has not been freed yet.
        if self.written_len != 0 {
            self.settle_written();
        }
    }

    /// Frees and counts packets, of which there are some.
    fn settle_written(&mut self) {
        self.free_written();
        if !self.dev.is_null() {
            // SAFETY: the device is held, and counts in `tstats`.
            unsafe { shim::rnet_netdev_sent(self.dev, self.count, self.bytes) };
        }
        self.count = 0;
        self.bytes = 0;
    }

    /// Number of packets that [`PlainPacket::write`] has written, since the last call, to be
    /// segmented.
    pub(super) fn take_segmented(&mut self) -> usize {
        core::mem::take(&mut self.segmented)
    }

    /// Ends a round, after which the device may go away.
    pub(super) fn leave(&mut self) {
        self.settle();
        if !self.dev.is_null() {
            // SAFETY: the device is held; the reference is dropped here.
            unsafe { shim::rnet_netdev_put(self.dev) };
            self.dev = null_mut();
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.leave();
        if let Some(rest) = self.packets.get_mut(self.next..self.len) {
            // SAFETY: the file keeps its ring alive, and the packets came from it. Those that no
            // longer fit are freed.
            unsafe { shim::rnet_ring_unconsume(self.ring.as_ptr(), rest.as_mut_ptr(), rest.len()) };
        }
    }
}
