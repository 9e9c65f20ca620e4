// SPDX-License-Identifier: GPL-2.0

//! Transmit: from the guest's buffers to the backend.
//!
//! Each chain is copied from guest memory straight into a frame, header included. Up to [`BATCH`]
//! frames go to the tap in one call; frames longer than a page go one by one. Then all their chains
//! are published at once, and the guest is called at most once. A packet that does not fit a frame,
//! or whose backend takes no frames, is sent by itself from guest memory.

use kernel::prelude::*;
use vring::{Chain, Fault, Ring, Segment, Segments, Translate, Unmapped, UserAddr};

use super::direction::RX;
use super::header::{self, fix_header, Header, Kind};
use super::{Net, Packets, MAX_ROUND_BYTES, MAX_ROUND_DESCS, MAX_ROUND_PACKETS};
use crate::kapi::{BusyTime, EventFd, Frames, OwnerMemory, Polled, ENOBUFS, FRAMES};
use crate::vhost::access::GuestMemory;
use crate::vhost::backend::Backend;
use crate::vhost::round::{self, Next, Running, Scratch};
use crate::vhost::stats::{Dropped, End, Sizes, Stats};
use crate::vhost::used::{UsedBatch, BATCH};
use crate::vhost::virtqueue::Virtqueue;
use crate::vhost::worker::Pending;

/// Room for XDP to grow a packet, in bytes (`XDP_PACKET_HEADROOM`).
const XDP_HEADROOM: u32 = 256;
/// The longest packet that is tried again when the backend has no memory for it, in bytes.
const MAX_RETRY: usize = 68 << 10;

/// A batch of used buffers has room for exactly one batch of frames.
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

/// A round of the transmit queue, before the ring format and the way to guest memory are known.
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
            woken,
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
            woken,
            busy,
            // Entries that an earlier round could not publish come first, and have been counted.
            counted: used.len(),
            uncalled: used.chains(),
            used,
            frames,
            packets: 0,
            bytes: 0,
            descs: 0,
            sizes: Sizes::new(),
        };
        let next = round.run(segments);
        // Flush after a fault, too: the chains before it are valid.
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
    /// The round began since the worker was woken.
    woken: bool,
    busy: BusyTime,
    used: &'a mut UsedBatch,
    /// Number of entries of `used` that the statistics include already.
    counted: usize,
    frames: &'a mut Frames,
    headroom: u32,
    /// Whether the backend takes many frames at a time.
    takes_frames: bool,
    packets: usize,
    bytes: usize,
    /// Descriptors read so far.
    descs: u32,
    sizes: Sizes,
    /// Chains published since the last call to the guest.
    uncalled: usize,
}

/// The outcome of sending a packet.
enum Sent {
    /// The packet was handed to the backend, or dropped: its chain can be published.
    Done,
    /// The backend has no room: the chain stays available until the backend signals room.
    Full,
    /// There is no memory, and nothing will signal that there is some: the chain stays available.
    NoMemory,
}

impl<R: Ring, M: GuestMemory, T: Translate> Round<'_, R, M, T> {
    fn run(&mut self, storage: &mut [Segment]) -> Result<Next, Fault> {
        self.flush()?;
        // If an earlier round left chains, the wake-up to this round may have been for others.
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
                        Polled::Cut => return Ok(self.ended(End::Budget, Next::Again)),
                        Polled::Nothing => {}
                    }
                }
                if self.ring.kicks_are_on() {
                    return Ok(self.ended(End::Drained, Next::Wait));
                }
                if self.ring.enable_kick(&self.memory)? {
                    self.ring.disable_kick(&self.memory)?;
                    // Count this as a packet, so that a guest that keeps its index moving cannot
                    // make the round endless.
                    self.packets = self.packets.wrapping_add(1);
                    continue;
                }
                return Ok(self.ended(End::Drained, Next::Wait));
            };
            match self.send(&chain, segments.as_slice()) {
                Ok(Sent::Done) => {}
                Ok(Sent::Full) if self.backend.arm().is_ok() => {
                    self.ring.rewind(1, chain.slots);
                    return Ok(self.ended(End::NoRoom, Next::Wait));
                }
                // The device is gone and will never signal room.
                Ok(Sent::Full) => self.stats.dropped(Dropped::Refused, 1),
                Ok(Sent::NoMemory) => {
                    self.ring.rewind(1, chain.slots);
                    return Ok(self.ended(End::Retry, Next::Retry));
                }
                Err(fault) => {
                    self.ring.rewind(1, chain.slots);
                    return Err(fault);
                }
            }
            // Never full: the list has room for a batch, and is flushed after each batch.
            let _ = self.used.push::<R>(chain.id, chain.slots, 0);
            self.packets = self.packets.wrapping_add(1);
            // CAST: at most 2^10 lengths of 32 bits.
            let len = chain.len as usize;
            self.sizes
                .add(len.wrapping_sub(self.header.guest()), self.stats);
            self.bytes = self.bytes.wrapping_add(len);
            self.descs = self.descs.wrapping_add(chain.descs);
            // For a single packet it is not worth turning kicks off and on again. While kicks are
            // on, the ring need not be checked again before waiting.
            match self.packets {
                1 if fresh
                    && self.ring.is_drained()
                    && self.ring.kicks_are_on()
                    && !self.busy.is_wanted() =>
                {
                    self.flush()?;
                    return Ok(self.ended(End::Drained, Next::Wait));
                }
                2 => self.ring.disable_kick(&self.memory)?,
                _ => {}
            }
        }
        Ok(self.ended(End::Budget, Next::Again))
    }

    /// Counts the end of the round, and returns `next`.
    #[inline(always)]
    fn ended(&self, end: End, next: Next) -> Next {
        self.stats.ended(end);
        next
    }

    /// Busy-polls for more packets (`vhost_net_busy_poll()`).
    ///
    /// The wait ends when the worker is woken for the other queue, or when the time is over.
    #[cold]
    fn busy_poll(&mut self) -> Result<Polled, Fault> {
        self.call();
        self.ring.disable_kick(&self.memory)?;
        let poll = self.busy.poll();
        loop {
            if self.ring.has_work(&self.memory)? {
                self.stats.busy_hits.add(1);
                return Ok(Polled::Work);
            }
            if self.pending.is_set(RX) || !poll.goes_on() {
                self.stats.busy_misses.add(1);
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
                let kind = match sock {
                    0 => Kind::Plain,
                    _ => fix_header(&self.memory, bytes, total),
                };
                if kind == Kind::Wrong {
                    self.stats.dropped(Dropped::Header, 1);
                    return Ok(Sent::Done);
                }
                frame.keep();
                if kind == Kind::Gso {
                    self.stats.gso.add(1);
                }
                return Ok(Sent::Done);
            }
            // XDP programs can only process frames of up to a page.
            if self.headroom == 0 && !self.backend.target.refuses_pages {
                return self.send_pages(segments, len);
            }
        }
        self.send_single(segments, len)
    }

    /// Sends a packet longer than a page, after all packets before it.
    fn send_pages(&mut self, segments: &[Segment], len: usize) -> Result<Sent, Fault> {
        self.send_frames();
        let Header { vhost, sock } = self.header;
        let Some(mut frame) = self.frames.fill_pages(segments, len, vhost, sock)? else {
            return self.send_single(segments, len);
        };
        let total = frame.len();
        let kind = match sock {
            0 => Kind::Plain,
            _ => fix_header(&self.memory, frame.first_bytes(), total),
        };
        if kind == Kind::Wrong {
            self.stats.dropped(Dropped::Header, 1);
            return Ok(Sent::Done);
        }
        let sent = match frame.send(&self.backend.target.socket) {
            Err(e) if e == EMSGSIZE => {
                self.backend.target.refuses_pages = true;
                return self.send_single(segments, len);
            }
            // The frame has been copied already, so guest memory is not at fault.
            Err(e) if e == EFAULT => {
                self.stats.dropped(Dropped::Refused, 1);
                Ok(Sent::Done)
            }
            sent => self.outcome(sent, segments, len),
        };
        // A packet that stays available is counted when it is sent.
        if let (Ok(Sent::Done), Kind::Gso) = (&sent, kind) {
            self.stats.gso.add(1);
        }
        sent
    }

    /// Sends a packet that does not fit a frame, after all packets before it.
    fn send_single(&mut self, segments: &[Segment], len: usize) -> Result<Sent, Fault> {
        self.flush()?;
        let sent = self
            .backend
            .target
            .socket
            .send(segments, len, self.header.vhost);
        let sent = self.outcome(sent, segments, len)?;
        // Without a header of the backend, the guest's goes no further.
        if let (Sent::Done, true) = (&sent, self.header.sock != 0) {
            let is_gso = header::is_gso(&self.memory, segments);
            self.stats.gso.add(usize::from(is_gso));
        }
        Ok(sent)
    }

    /// Turns `sent`, the backend's answer, into the outcome for the packet.
    fn outcome(&self, sent: Result, segments: &[Segment], len: usize) -> Result<Sent, Fault> {
        match sent {
            Ok(()) => Ok(Sent::Done),
            Err(e) if e == EFAULT => {
                let first = segments.first().map_or(UserAddr(0), |segment| segment.addr);
                Err(Fault::Unmapped(Unmapped(first)))
            }
            Err(e) if e == EAGAIN => Ok(Sent::Full),
            // Only from a tap do these errors mean a lack of memory. A packet socket hands the
            // packet to its device first, and returns them when the device, or a filter before it,
            // has dropped the packet. A packet longer than any valid one would never find memory,
            // and would be tried again for ever.
            Err(e)
                if (e == ENOMEM || e == ENOBUFS)
                    && self.backend.target.socket.is_tap()
                    && len <= MAX_RETRY =>
            {
                Ok(Sent::NoMemory)
            }
            Err(e) => {
                let no_memory = e == ENOMEM || e == ENOBUFS;
                let why = if no_memory && self.backend.target.socket.is_tap() {
                    Dropped::NoMemory
                } else {
                    Dropped::Refused
                };
                self.stats.dropped(why, 1);
                Ok(Sent::Done)
            }
        }
    }

    /// Sends the frames, whose chains are published by the next [`Round::flush`].
    #[inline]
    fn send_frames(&mut self) {
        let frames = self.frames.len();
        if self.frames.send(&self.backend.target.socket).is_err() {
            // The device is gone. The guest's buffers are published nevertheless.
            self.stats.dropped(Dropped::Refused, frames);
        }
    }

    /// Sends the frames and publishes their chains, if there are any.
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
        // None if this only publishes what an earlier round could not.
        if packets != 0 {
            self.stats.packets.add(packets);
            self.stats.progressed();
        }
        self.uncalled = self.uncalled.wrapping_add(packets);
        self.used.merge::<R>(packets);
        // If publishing fails now, the chains are published before the next packet is sent.
        self.counted = self.used.len();
        self.used.publish(&self.memory, self.ring)?;
        self.counted = 0;
        self.stats.batches.add(1);
        if self.uncalled >= BATCH {
            self.call();
        }
        Ok(())
    }

    /// Calls the guest if chains have been published since the last call.
    ///
    /// Small batches in a row share a call. A guest that sends faster than it is called would be
    /// slowed down by a call for every few packets.
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
        self.sizes.flush(self.stats);
        self.stats.wakeups.add(usize::from(self.woken));
        self.stats.bytes.add(self.bytes);
    }
}
