// SPDX-License-Identifier: GPL-2.0

//! Receive: from the backend to the guest's buffers.
//!
//! The length of the next packet determines how many buffers it needs. Header and packet are then
//! written straight to guest memory. The queue writes packets of a tap itself, which costs less than
//! half. What only the backend can write, such as a VLAN tag or the header of a tunnel, the backend
//! writes, and the number of buffers is stored in its header. Used buffers are published in batches.

use kernel::prelude::*;
use vring::{
    Fault, Memory, Ring, Segment, Segments, Translate, Unmapped, UserAddr, MAX_CHAIN_DESCS,
    MAX_CHAIN_SEGMENTS,
};

use super::buffers::Taken;
use super::direction::{RX, TX};
use super::header::{has_num_buffers, plain_header, Header, DATA_VALID, MRG_RXBUF};
use super::{Net, Packets, MAX_ROUND_BYTES, MAX_ROUND_DESCS, MAX_ROUND_PACKETS};
use crate::kapi::{self, BusyTime, EventFd, OwnerMemory, Polled};
use crate::vhost::access::GuestMemory;
use crate::vhost::backend::Backend;
use crate::vhost::features::Features;
use crate::vhost::round::{self, Next, Running, Scratch};
use crate::vhost::stats::{Dropped, End, Sizes, Stats};
use crate::vhost::used::{UsedBatch, BATCH};
use crate::vhost::virtqueue::Virtqueue;
use crate::vhost::worker::Pending;

/// Offset of the number of buffers in the header, in bytes (`struct virtio_net_hdr_mrg_rxbuf`).
const NUM_BUFFERS_OFFSET: u64 = 10;

/// Number of waiting packets from which a round leaves the backend's wait queue, to spare senders a
/// wake-up for each packet.
///
/// With fewer packets, leaving the wait queue and joining it again would cost more.
const BUSY: usize = 8;

/// Number of descriptors after which no more chains are taken for a packet.
///
/// It is four times the number of segments that a packet may have. Empty descriptors count, since
/// they cost time, too.
const MAX_PACKET_DESCS: u32 = 4096;

/// Moves packets until there are none, the guest is out of buffers, or the round is full.
///
/// `pending` is set when the queue is woken during the round. The round may clear it and handle the
/// event itself.
///
/// # Errors
///
/// A [`Fault`] of the guest; the packets before it have been published.
#[inline(never)]
pub(crate) fn run(
    vq: &mut Virtqueue<Net>,
    memory: OwnerMemory<'_>,
    stats: &Stats,
    pending: &Pending,
) -> Result<Next, Fault> {
    vq.run(memory, Receive { stats, pending })
}

/// A round of the receive queue, before the ring format and the way to guest memory are known.
struct Receive<'a> {
    stats: &'a Stats,
    pending: &'a Pending,
}

impl round::Round<Net> for Receive<'_> {
    #[inline(always)]
    fn run<R: Ring, M: GuestMemory, T: Translate>(
        self,
        queue: Running<'_, Net, R>,
        memory: M,
        table: &T,
    ) -> Result<Next, Fault> {
        let Running {
            ring,
            features,
            state: Packets { header, .. },
            backend,
            call,
            busy,
            woken,
            scratch: Scratch { segments, used },
            lost_to,
        } = queue;
        let mut round = Round {
            memory,
            table,
            ring,
            header: *header,
            features,
            backend,
            call,
            stats: self.stats,
            pending: self.pending,
            woken,
            busy,
            lost_to,
            used,
            packets: 0,
            bytes: 0,
            descs: 0,
            lost: 0,
            sizes: Sizes::new(),
        };
        let next = loop {
            match round.run(segments) {
                Ok(Ended::Empty) => match round.more_comes() {
                    Ok(Polled::Work) => continue,
                    Ok(Polled::Cut) => {
                        self.stats.ended(End::Budget);
                        break Ok(Next::Again);
                    }
                    Ok(Polled::Nothing) => match round.backend.arm() {
                        Ok(()) => {
                            self.stats.ended(End::Drained);
                            break Ok(Next::Wait);
                        }
                        // A backend that has lost its device signals no events, even after it has a
                        // device again.
                        Err(_) => {
                            self.stats.ended(End::Retry);
                            break Ok(Next::Retry);
                        }
                    },
                    Err(fault) => break Err(fault),
                },
                Ok(Ended::Unbuffered) => break Ok(Next::Wait),
                Ok(Ended::Full) => break Ok(Next::Again),
                Err(fault) => break Err(fault),
            }
        };
        // Publish after a fault, too: the packets before it are complete.
        round.publish().and(next)
    }
}

/// A round of the receive queue.
struct Round<'a, R, M, T> {
    memory: M,
    table: &'a T,
    ring: &'a mut R,
    header: Header,
    features: Features,
    backend: &'a mut Backend<Net>,
    call: Option<&'a EventFd>,
    stats: &'a Stats,
    pending: &'a Pending,
    /// The round began since the worker was woken.
    woken: bool,
    busy: BusyTime,
    /// Why packets were lost; reported to the owner.
    lost_to: &'a mut Option<Fault>,
    used: &'a mut UsedBatch,
    /// Packets handled, including lost ones.
    packets: usize,
    bytes: usize,
    /// Descriptors read so far.
    descs: u32,
    /// Packets that were lost.
    lost: usize,
    sizes: Sizes,
}

/// Why a round has stopped moving packets.
enum Ended {
    /// There are no packets.
    Empty,
    /// There are no buffers.
    Unbuffered,
    /// The round has reached a limit; it is the other queue's turn.
    Full,
}

/// The buffers that the guest has made available for a packet.
enum Buffers {
    /// There are enough: the last `chains` chains of the used batch, with `slots` ring descriptors.
    Enough { chains: u16, slots: u16 },
    /// The chains that the packet may use are too short for it, even together.
    TooShort,
    /// The guest has not made enough chains available yet.
    Missing,
}

impl<R: Ring, M: GuestMemory, T: Translate> Round<'_, R, M, T> {
    #[inline(always)]
    fn run(&mut self, storage: &mut [Segment]) -> Result<Ended, Fault> {
        // Publish first what an earlier round could not.
        self.publish()?;
        self.ring.disable_kick(&self.memory)?;
        if self.backend.target.socket.has_left() {
            // The packets left by an earlier round may not be all that this round was woken for.
            // Once disarmed, the round looks at the backend again before it waits.
            self.backend.disarm();
        }
        let mut segments = Segments::new(storage);
        loop {
            let most = match self.backend.target.socket.backlog() {
                Some(0) => return Ok(Ended::Empty),
                Some(backlog) if backlog < BUSY => self.packets.wrapping_add(backlog),
                Some(_) => {
                    self.backend.disarm();
                    MAX_ROUND_PACKETS
                }
                None => MAX_ROUND_PACKETS,
            };
            while self.packets < most
                && self.bytes < MAX_ROUND_BYTES
                && self.descs < MAX_ROUND_DESCS
            {
                let Some(packet_len) = self.backend.target.socket.next_len() else {
                    return Ok(Ended::Empty);
                };
                segments.truncate(0);
                // No wrap: a packet's length has 32 bits.
                let len = packet_len.wrapping_add(self.header.guest());
                // The packet stays where it is until there are buffers for it.
                match self.take_buffers(len, &mut segments)? {
                    Buffers::Enough { chains, slots } => {
                        self.receive(len, chains, slots, segments.as_slice());
                        if self.used.chains() > BATCH {
                            self.publish()?;
                        }
                    }
                    Buffers::TooShort => {
                        // Such a packet may have cost thousands of descriptors, and so may the
                        // next one. A killed owner must not have to wait for them.
                        if kapi::is_dying() {
                            return Ok(Ended::Full);
                        }
                        self.backend.target.socket.discard();
                        self.drop_packet(Dropped::TooLong);
                    }
                    Buffers::Missing => {
                        // Publish first: the guest may need these buffers back before it can post
                        // more.
                        self.publish()?;
                        let more = self.ring.enable_kick(&self.memory)?;
                        // Until there are buffers, new packets need not wake the queue.
                        self.backend.disarm();
                        self.stats.ended(match more {
                            true => End::Budget,
                            false => End::Unbuffered,
                        });
                        // The round ends even if there are more buffers: a guest that keeps its
                        // index moving must not make it endless.
                        return Ok(if more { Ended::Full } else { Ended::Unbuffered });
                    }
                }
                self.packets = self.packets.wrapping_add(1);
                self.bytes = self.bytes.wrapping_add(len);
            }
            if self.packets >= MAX_ROUND_PACKETS
                || self.bytes >= MAX_ROUND_BYTES
                || self.descs >= MAX_ROUND_DESCS
            {
                self.stats.ended(End::Budget);
                return Ok(Ended::Full);
            }
            // If the backlog was short, the queue is still in the backend's wait queue. If the
            // queue has not been woken since, there are no more packets. If it has, the new packets
            // join the batch.
            if !self.pending.take(RX) {
                return Ok(Ended::Empty);
            }
        }
    }

    /// Busy-polls for more packets, if the owner has enabled it (`vhost_net_busy_poll()`).
    ///
    /// The wait ends when the worker is woken for the other queue, or when the time is over.
    fn more_comes(&mut self) -> Result<Polled, Fault> {
        if !self.busy.is_wanted() {
            return Ok(Polled::Nothing);
        }
        self.publish()?;
        self.backend.target.socket.leave();
        let poll = self.busy.poll();
        loop {
            if self.backend.target.socket.has_packet() {
                self.stats.busy_hits.add(1);
                return Ok(Polled::Work);
            }
            if self.pending.is_set(TX) || !poll.goes_on() {
                self.stats.busy_misses.add(1);
                return Ok(poll.ended());
            }
        }
    }

    /// Takes as many chains as a packet of `len` bytes needs, header included.
    ///
    /// Without `VIRTIO_NET_F_MRG_RXBUF` it takes only one. If the chains do not suffice, all of
    /// them are made available again.
    #[inline(always)]
    fn take_buffers(&mut self, len: usize, segments: &mut Segments<'_>) -> Result<Buffers, Fault> {
        let before = self.used.len();
        let mut chains = 0u16;
        let mut slots = 0u16;
        let mut left = len as u64;
        let mut taken = Taken::default();
        let outcome = loop {
            let chain = match self.ring.next_chain(&self.memory, self.table, segments) {
                Ok(Some(chain)) => chain,
                // The ring is full, so the guest cannot add any.
                Ok(None) if taken.fill(self.ring.size()) => break Ok(Buffers::TooShort),
                Ok(None) => break Ok(Buffers::Missing),
                // The packet needs more segments than a packet may have.
                Err(Fault::TooManySegments) if chains != 0 => {
                    // The ring does not tell how many descriptors a refused chain has: assume the
                    // most.
                    self.descs = self.descs.wrapping_add(MAX_CHAIN_DESCS);
                    break Ok(Buffers::TooShort);
                }
                Err(fault) => break Err(fault),
            };
            chains = chains.wrapping_add(1);
            // Wraps only if chains share descriptors, which those of packed rings cannot.
            slots = slots.wrapping_add(chain.slots);
            if chain.readable != 0 || chain.writable == 0 {
                break Err(Fault::Direction);
            }
            let here = chain.len.min(left);
            // CAST: no longer than the packet.
            if !self.used.push::<R>(chain.id, chain.slots, here as u32) {
                break Err(Fault::TooManySegments);
            }
            left = left.wrapping_sub(here);
            self.descs = self.descs.wrapping_add(chain.descs);
            if left == 0 {
                return Ok(Buffers::Enough { chains, slots });
            }
            taken.add(&chain);
            if !self.features.has(MRG_RXBUF)
                || usize::from(chains) >= MAX_CHAIN_SEGMENTS
                || taken.descs >= MAX_PACKET_DESCS
            {
                break Ok(Buffers::TooShort);
            }
        };
        self.used.truncate(before);
        self.ring.rewind(chains, slots);
        outcome
    }

    /// Receives a packet into `segments`.
    ///
    /// If they cannot be written, the packet is lost and its chains are used for the next one. The
    /// backend cannot keep the packet, and nothing signals when the memory is accessible again.
    #[inline(always)]
    fn receive(&mut self, len: usize, chains: u16, slots: u16, segments: &[Segment]) {
        let filled = self.fill(len, chains, segments);
        self.memory.wrote(segments, len);
        match filled {
            Ok(true) => {
                self.used.merge::<R>(usize::from(chains));
                self.sizes
                    .add(len.wrapping_sub(self.header.guest()), self.stats);
            }
            Ok(false) => self.lose(Dropped::Refused, chains, slots),
            Err(Unmapped(at)) => {
                *self.lost_to = Some(Fault::Unmapped(Unmapped(at)));
                self.lose(Dropped::Unmapped, chains, slots);
            }
        }
    }

    /// Writes header and packet to `segments`; returns `false` if there is no packet.
    #[inline(always)]
    fn fill(&mut self, len: usize, chains: u16, segments: &[Segment]) -> Result<bool, Unmapped> {
        let Header { vhost, sock } = self.header;
        // The number of buffers, if the header has room for it, in the guest's byte order.
        let count = has_num_buffers(&self.features).then(|| self.memory.field(chains));
        let plain = |is_verified| {
            let flags = if is_verified && sock != 0 {
                DATA_VALID
            } else {
                0
            };
            (plain_header(flags, count), vhost | sock)
        };
        if self.backend.target.socket.write(segments, sock, plain) {
            return Ok(true);
        }
        let want = len.wrapping_sub(vhost);
        // A header of the guest's alone says that nothing is to be segmented.
        let is_gso = sock != 0 && self.backend.target.socket.next_is_gso();
        match self.backend.target.socket.receive(segments, vhost, want) {
            Ok(received) if received == want => {}
            Err(e) if e == EFAULT => {
                let first = segments.first().map_or(UserAddr(0), |segment| segment.addr);
                return Err(Unmapped(first));
            }
            // The tap refused the packet, or another reader of the tap has taken it.
            _ => return Ok(false),
        }
        self.finish_header(count, segments)?;
        self.stats.gso.add(usize::from(is_gso));
        Ok(true)
    }

    /// Writes the header if the backend has none, or else the number of buffers into the backend's.
    #[inline(always)]
    fn finish_header(&self, count: Option<u16>, segments: &[Segment]) -> Result<(), Unmapped> {
        let owner = self.memory.owner();
        let Header { vhost, .. } = self.header;
        if vhost != 0 {
            let header = plain_header(0, count);
            return owner.scatter(segments, 0, header.get(..vhost).unwrap_or_default());
        }
        let Some(count) = count else {
            return Ok(());
        };
        let end = NUM_BUFFERS_OFFSET.wrapping_add(2);
        match segments.first() {
            Some(first) if first.len >= end => {
                let at = first.addr.wrapping_add(NUM_BUFFERS_OFFSET);
                owner.store(at, count)
            }
            _ => owner.scatter(segments, NUM_BUFFERS_OFFSET, &count.to_ne_bytes()),
        }
    }

    /// Makes the chains of a lost packet available again, which have `slots` ring descriptors.
    fn lose(&mut self, why: Dropped, chains: u16, slots: u16) {
        self.drop_packet(why);
        let left = self.used.len().saturating_sub(usize::from(chains));
        self.used.truncate(left);
        self.ring.rewind(chains, slots);
    }

    /// Counts a lost packet.
    fn drop_packet(&mut self, why: Dropped) {
        self.lost = self.lost.wrapping_add(1);
        self.stats.dropped(why, 1);
    }

    /// Publishes the used buffers, if there are any.
    #[inline(always)]
    fn publish(&mut self) -> Result<(), Fault> {
        match self.used.len() {
            0 => Ok(()),
            _ => self.publish_batch(),
        }
    }

    #[inline(never)]
    fn publish_batch(&mut self) -> Result<(), Fault> {
        self.backend.target.socket.settle();
        self.used.publish(&self.memory, self.ring)?;
        self.stats.batches.add(1);
        round::call(&self.memory, self.ring, self.call, self.stats);
        Ok(())
    }
}

impl<R, M, T> Drop for Round<'_, R, M, T> {
    fn drop(&mut self) {
        self.backend.target.socket.leave();
        self.stats
            .gso
            .add(self.backend.target.socket.take_segmented());
        self.stats.rounds.add(1);
        self.sizes.flush(self.stats);
        self.stats.wakeups.add(usize::from(self.woken));
        let moved = self.packets.wrapping_sub(self.lost);
        if moved != 0 {
            self.stats.packets.add(moved);
            self.stats.progressed();
        }
        self.stats.bytes.add(self.bytes);
    }
}
