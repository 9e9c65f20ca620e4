// SPDX-License-Identifier: GPL-2.0

//! Transmit: from the guest's buffers to the backend.
//!
//! Chains are taken one by one, each copied straight from guest memory into a frame, header
//! included. Up to [`BATCH`] frames go to the tap in one call, or one by one if they are longer than
//! a page; then all their chains are published at once, with at most one call to the guest. What does
//! not fit a frame, or a backend that takes none, gets packets one at a time from guest memory.

use kernel::prelude::*;
use vring::{Chain, Fault, Ring, Segment, Segments, Translate, Unmapped, UserAddr};

use super::direction::RX;
use super::header::Header;
use super::{Net, Packets, MAX_ROUND_BYTES, MAX_ROUND_DESCS, MAX_ROUND_PACKETS};
use crate::kapi::{BusyTime, EventFd, Frames, OwnerMemory, Polled, FRAMES};
use crate::vhost::access::GuestMemory;
use crate::vhost::backend::Backend;
use crate::vhost::round::{self, Next, Running, Scratch};
use crate::vhost::stats::Stats;
use crate::vhost::used::{UsedBatch, BATCH};
use crate::vhost::virtqueue::Virtqueue;
use crate::vhost::worker::Pending;

/// Room for XDP to grow a packet, in bytes (`XDP_PACKET_HEADROOM`).
const XDP_HEADROOM: u32 = 256;
/// The longest packet that is worth another try when the backend has no memory for it, in bytes.
const MAX_RETRY: usize = 68 << 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const HDR_F_NEEDS_CSUM: u8 = 1;

/// A batch of used buffers is one of frames.
const _: () = assert!(BATCH == FRAMES);

/// Moves packets until there are none, or the round is full.
///
/// # Errors
///
/// A [`Fault`] of the guest; the chains before the faulty one have been sent and published.
#[inline(never)]
pub(crate) fn run(
    vq: &mut Virtqueue<Net>,
    memory: OwnerMemory<'_>,
    stats: &Stats,
    pending: &Pending,
) -> Result<Next, Fault> {
    vq.run(memory, Transmit { stats, pending })
}

/// A round of the transmit queue, before it is known how it reaches guest memory.
struct Transmit<'a> {
    stats: &'a Stats,
    pending: &'a Pending,
}

impl round::Round<Net> for Transmit<'_> {
    #[inline(always)]
    fn run<R: Ring, M: GuestMemory, T: Translate>(
        self,
        queue: Running<'_, Net, R>,
        memory: M,
        table: &T,
    ) -> Result<Next, Fault> {
        let Running {
            ring,
            state: Packets { header, frames },
            backend,
            call,
            busy,
            scratch: Scratch { segments, used },
            ..
        } = queue;
        backend.disarm();
        let state = backend.target.socket.send_state();
        let mut round = Round {
            memory,
            table,
            ring,
            header: *header,
            headroom: if state.has_xdp { XDP_HEADROOM } else { 0 },
            takes_frames: state.takes_frames,
            backend,
            call,
            stats: self.stats,
            pending: self.pending,
            busy,
            // What an earlier round could not publish has been counted, and comes first.
            counted: used.len(),
            uncalled: used.chains(),
            used,
            frames,
            packets: 0,
            bytes: 0,
            descs: 0,
        };
        let next = round.run(segments);
        // Also after a fault: what was taken before it is good.
        let flushed = round.flush();
        round.call();
        flushed.and(next)
    }
}

/// A round of the transmit queue.
struct Round<'a, R, M, T> {
    memory: M,
    table: &'a T,
    ring: &'a mut R,
    header: Header,
    backend: &'a mut Backend<Net>,
    call: Option<&'a EventFd>,
    stats: &'a Stats,
    pending: &'a Pending,
    busy: BusyTime,
    used: &'a mut UsedBatch,
    /// Entries of `used` whose packets are in the statistics.
    counted: usize,
    frames: &'a mut Frames,
    headroom: u32,
    /// Whether frames go to the backend many at a time.
    takes_frames: bool,
    packets: usize,
    bytes: usize,
    /// Descriptors looked at.
    descs: u32,
    /// Chains given back since the guest was last called.
    uncalled: usize,
}

/// What became of a packet.
enum Sent {
    /// Handed to the backend, or dropped for good: the chain can go back.
    Done,
    /// The backend has no room: the chain stays available until it has.
    Full,
    /// There is no memory, and nobody tells when there is: the chain stays available.
    NoMemory,
}

impl<R: Ring, M: GuestMemory, T: Translate> Round<'_, R, M, T> {
    fn run(&mut self, storage: &mut [Segment]) -> Result<Next, Fault> {
        self.flush()?;
        // Chains that an earlier round left were found before the wake-up to this one, which may have
        // been for others.
        let fresh = self.ring.is_drained();
        while self.packets < MAX_ROUND_PACKETS
            && self.bytes < MAX_ROUND_BYTES
            && self.descs < MAX_ROUND_DESCS
        {
            if self.used.len() >= BATCH {
                self.flush()?;
            }
            let mut segments = Segments::new(storage);
            let Some(chain) = self
                .ring
                .next_chain(&self.memory, self.table, &mut segments)?
            else {
                self.flush()?;
                if self.busy.is_wanted() {
                    match self.busy_poll()? {
                        Polled::Work => continue,
                        Polled::Cut => return Ok(Next::Again),
                        Polled::Nothing => {}
                    }
                }
                if self.ring.kicks_are_on() {
                    return Ok(Next::Wait);
                }
                if self.ring.enable_kick(&self.memory)? {
                    self.ring.disable_kick(&self.memory)?;
                    // Counts as a packet: a guest that keeps its index moving gets no endless round
                    // for it.
                    self.packets = self.packets.wrapping_add(1);
                    continue;
                }
                return Ok(Next::Wait);
            };
            match self.send(&chain, segments.as_slice()) {
                Ok(Sent::Done) => {}
                Ok(Sent::Full) if self.backend.arm().is_ok() => {
                    self.ring.rewind(1, chain.slots);
                    return Ok(Next::Wait);
                }
                // The device is gone, and will not tell of room.
                Ok(Sent::Full) => self.stats.dropped.add(1),
                Ok(Sent::NoMemory) => {
                    self.ring.rewind(1, chain.slots);
                    return Ok(Next::Retry);
                }
                Err(fault) => {
                    self.ring.rewind(1, chain.slots);
                    return Err(fault);
                }
            }
            // Cannot be full: it holds a batch, and is flushed by the batch.
            let _ = self.used.push::<R>(chain.id, chain.slots, 0);
            self.packets = self.packets.wrapping_add(1);
            // CAST: at most 2^10 lengths of 32 bits.
            self.bytes = self.bytes.wrapping_add(chain.len as usize);
            self.descs = self.descs.wrapping_add(chain.descs);
            // A packet by itself is not worth writing to the ring twice; and with kicks on there is
            // nothing to look for again.
            match self.packets {
                1 if fresh
                    && self.ring.is_drained()
                    && self.ring.kicks_are_on()
                    && !self.busy.is_wanted() =>
                {
                    self.flush()?;
                    return Ok(Next::Wait);
                }
                2 => self.ring.disable_kick(&self.memory)?,
                _ => {}
            }
        }
        Ok(Next::Again)
    }

    /// Waits a while for more packets (`vhost_net_busy_poll()`). It ends when the worker is woken for
    /// the other queue, or the time is over.
    #[cold]
    fn busy_poll(&mut self) -> Result<Polled, Fault> {
        self.call();
        self.ring.disable_kick(&self.memory)?;
        let poll = self.busy.poll();
        loop {
            if self.ring.has_work(&self.memory)? {
                return Ok(Polled::Work);
            }
            if self.pending.is_set(RX) || !poll.goes_on() {
                return Ok(poll.ended());
            }
        }
    }

    /// Copies a packet into a frame, or sends it by itself.
    #[inline(always)]
    fn send(&mut self, chain: &Chain, segments: &[Segment]) -> Result<Sent, Fault> {
        if chain.writable != 0 {
            return Err(Fault::Direction);
        }
        // CAST: at most 2^10 lengths of 32 bits.
        let len = chain.len as usize;
        let Header { vhost, sock } = self.header;
        let frame_len = len.saturating_sub(vhost);
        if frame_len == 0 || frame_len < sock {
            return Err(Fault::ShortHeader { len: chain.len });
        }
        if self.takes_frames {
            if let Some(mut frame) = self
                .frames
                .fill(segments, len, vhost, sock, self.headroom)?
            {
                let bytes = frame.bytes();
                let total = bytes.len();
                if sock == 0 || fix_header(&self.memory, bytes, total) {
                    frame.keep();
                } else {
                    self.stats.dropped.add(1);
                }
                return Ok(Sent::Done);
            }
            // An XDP program sees frames of up to a page.
            if self.headroom == 0 && !self.backend.target.refuses_pages {
                return self.send_pages(segments, len);
            }
        }
        self.send_single(segments, len)
    }

    /// Sends a packet longer than a page, after those before it.
    fn send_pages(&mut self, segments: &[Segment], len: usize) -> Result<Sent, Fault> {
        self.send_frames();
        let Header { vhost, sock } = self.header;
        let Some(mut frame) = self.frames.fill_pages(segments, len, vhost, sock)? else {
            return self.send_single(segments, len);
        };
        let total = frame.len();
        if sock != 0 && !fix_header(&self.memory, frame.first_bytes(), total) {
            self.stats.dropped.add(1);
            return Ok(Sent::Done);
        }
        match frame.send(&self.backend.target.socket) {
            Err(e) if e == EMSGSIZE => {
                self.backend.target.refuses_pages = true;
                self.send_single(segments, len)
            }
            // The frame has been read: it is not the guest's memory that cannot be.
            Err(e) if e == EFAULT => {
                self.stats.dropped.add(1);
                Ok(Sent::Done)
            }
            sent => self.outcome(sent, segments, len),
        }
    }

    /// Sends a packet that no frame can take, after those before it.
    fn send_single(&mut self, segments: &[Segment], len: usize) -> Result<Sent, Fault> {
        self.flush()?;
        let sent = self
            .backend
            .target
            .socket
            .send(segments, len, self.header.vhost);
        self.outcome(sent, segments, len)
    }

    /// What becomes of a packet for which the backend answered `sent`.
    fn outcome(&self, sent: Result, segments: &[Segment], len: usize) -> Result<Sent, Fault> {
        match sent {
            Ok(()) => Ok(Sent::Done),
            Err(e) if e == EFAULT => {
                let first = segments.first().map_or(UserAddr(0), |segment| segment.addr);
                Err(Fault::Unmapped(Unmapped(first)))
            }
            Err(e) if e == EAGAIN => Ok(Sent::Full),
            // Only a tap answers so for want of memory: a packet socket hands the packet to its device
            // first, and passes on that this, or a filter before it, has dropped it. A packet longer
            // than any will never find memory: waiting would be for ever.
            Err(e)
                if (e == ENOMEM || e == ENOBUFS)
                    && self.backend.target.socket.is_tap()
                    && len <= MAX_RETRY =>
            {
                Ok(Sent::NoMemory)
            }
            Err(_) => {
                self.stats.dropped.add(1);
                Ok(Sent::Done)
            }
        }
    }

    /// Sends the frames. Their chains go back with the next [`Round::flush`].
    #[inline]
    fn send_frames(&mut self) {
        let frames = self.frames.len();
        if self.frames.send(&self.backend.target.socket).is_err() {
            // The device is gone. The guest's buffers come back all the same.
            self.stats.dropped.add(frames);
        }
    }

    /// Sends the frames and gives their chains back, if there are any.
    #[inline(always)]
    fn flush(&mut self) -> Result<(), Fault> {
        match self.used.len() {
            0 => Ok(()),
            _ => self.flush_batch(),
        }
    }

    #[inline(never)]
    fn flush_batch(&mut self) -> Result<(), Fault> {
        self.send_frames();
        let packets = self.used.len().wrapping_sub(self.counted);
        self.stats.packets.add(packets);
        self.uncalled = self.uncalled.wrapping_add(packets);
        self.used.merge::<R>(packets);
        // If they cannot be published now, they are before the next packet is sent.
        self.counted = self.used.len();
        self.used.publish(&self.memory, self.ring)?;
        self.counted = 0;
        self.stats.batches.add(1);
        if self.uncalled >= BATCH {
            self.call();
        }
        Ok(())
    }

    /// Calls the guest if chains have been given back.
    ///
    /// Once for all that comes in a row: to a guest that sends faster than it is told, a call for
    /// every few packets is a burden.
    #[inline(always)]
    fn call(&mut self) {
        if self.uncalled != 0 {
            self.uncalled = 0;
            round::call(&self.memory, self.ring, self.call, self.stats);
        }
    }
}

impl<R, M, T> Drop for Round<'_, R, M, T> {
    fn drop(&mut self) {
        self.stats.rounds.add(1);
        self.stats.bytes.add(self.bytes);
    }
}

/// Makes `hdr_len` cover the checksum field, which the network stack requires to lie in it.
///
/// `packet` is the beginning of a packet of `total` bytes. `false` if that ends before it.
/// (virtio 1.3, section 5.1.6; `vhost_net_build_xdp()`)
#[inline]
fn fix_header(memory: &impl GuestMemory, packet: &mut [u8], total: usize) -> bool {
    let field = |lo, hi| memory.field(u16::from_ne_bytes([lo, hi]));
    // struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
    let Some([flags, _, len_lo, len_hi, _, _, start_lo, start_hi, offset_lo, offset_hi]) =
        packet.first_chunk_mut::<10>()
    else {
        return false;
    };
    if *flags & HDR_F_NEEDS_CSUM == 0 {
        return true;
    }
    let start = field(*start_lo, *start_hi);
    let offset = field(*offset_lo, *offset_hi);
    // No wrap: in 32 bits.
    let need = u32::from(start)
        .wrapping_add(u32::from(offset))
        .wrapping_add(2);
    if need > u32::from(field(*len_lo, *len_hi)) {
        let Ok(need) = u16::try_from(need) else {
            return false;
        };
        if usize::from(need) > total {
            return false;
        }
        [*len_lo, *len_hi] = memory.field(need).to_ne_bytes();
    }
    true
}
