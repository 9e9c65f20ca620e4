// SPDX-License-Identifier: GPL-2.0

//! The device side: rounds of a worker, as in `rx.rs` and `tx.rs`.

use std::sync::Arc;

use loom::sync::atomic::Ordering::Relaxed;
use vring::{
    Fault, GetWork, GuestAddr, KickControl, MemTable, RawUsed, Region, Ring, Rings, Segment,
    Segments, UserAddr,
};

use crate::driver::buffer;
use crate::memory::{PLACE, SIZE};
use crate::{with_ring, Kind, Shared};

/// How the worker looks for chains.
#[derive(Clone, Copy)]
pub enum Worker {
    /// Kicks are off while it looks, as for the receive queue.
    Off,
    /// Kicks are off from the second chain on, as for the transmit queue.
    OffWhenBusy,
}

/// The result of a round.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A kick or the backend will wake the queue.
    Wait,
    /// There may be more to do.
    Again,
}

/// The source or the sink of packets.
pub trait Backend {
    /// Whether there is a packet, or room for one.
    fn is_ready(&self) -> bool;

    /// Wakes the queue when the backend becomes ready, or at once if it is ready now.
    fn arm(&self);

    /// Stops waking the queue.
    fn disarm(&self);
}

/// A ring that has been started.
pub fn started(shared: &Shared, kind: Kind) -> Rings {
    let mut ring = Rings::default();
    ring.set_features(kind.packed, kind.event_idx, false);
    assert!(ring.set_size(u32::from(SIZE)));
    ring.set_addrs(PLACE);
    ring.start(shared).unwrap();
    ring
}

/// Gives back the chains with these ids, with length 0.
///
/// # Errors
///
/// Those of the ring.
pub fn give_back<R: Ring>(
    ring: &mut R,
    shared: &Shared,
    ids: impl Iterator<Item = u16>,
) -> Result<(), Fault> {
    let entry = |id: u16| {
        shared.data[usize::from(id)].store(1 + id, Relaxed);
        R::used_entry(id, 1, 0)
    };
    let used: Vec<RawUsed> = ids.map(entry).collect();
    if used.is_empty() {
        return Ok(());
    }
    ring.complete(shared, &used)
}

/// A device that takes chains.
pub struct Device {
    /// The device side of the ring.
    pub ring: Rings,
    shared: Arc<Shared>,
    /// Chains taken.
    pub taken: u16,
    /// Chains given back.
    completed: u16,
}

impl Device {
    /// A device that has been started.
    pub fn new(shared: Arc<Shared>, kind: Kind) -> Self {
        let ring = started(&shared, kind);
        Self {
            ring,
            shared,
            taken: 0,
            completed: 0,
        }
    }

    /// One round of the worker, of at most `most` chains.
    pub fn round(&mut self, worker: Worker, most: u16, backend: &impl Backend) -> Next {
        let next = match worker {
            Worker::Off => self.receive(most, backend),
            Worker::OffWhenBusy => self.transmit(most, backend),
        };
        self.complete();
        next
    }

    fn receive(&mut self, most: u16, backend: &impl Backend) -> Next {
        let shared = self.shared.clone();
        with_ring!(self.ring, |ring| ring.disable_kick(&*shared)).unwrap();
        let mut packets = 0;
        while packets < most {
            if !backend.is_ready() {
                backend.arm();
                return Next::Wait;
            }
            if self.take() {
                packets += 1;
                continue;
            }
            self.complete();
            let more = with_ring!(self.ring, |ring| ring.enable_kick(&*shared)).unwrap();
            backend.disarm();
            return if more { Next::Again } else { Next::Wait };
        }
        Next::Again
    }

    fn transmit(&mut self, most: u16, backend: &impl Backend) -> Next {
        let shared = self.shared.clone();
        backend.disarm();
        let fresh = with_ring!(self.ring, |ring| ring.is_drained());
        let mut packets = 0;
        while packets < most {
            if !self.take() {
                self.complete();
                if with_ring!(self.ring, |ring| ring.kicks_are_on())
                    || !with_ring!(self.ring, |ring| ring.enable_kick(&*shared)).unwrap()
                {
                    return Next::Wait;
                }
                with_ring!(self.ring, |ring| ring.disable_kick(&*shared)).unwrap();
                packets += 1;
                continue;
            }
            if !backend.is_ready() {
                backend.arm();
                with_ring!(self.ring, |ring| ring.rewind(1, 1));
                self.taken -= 1;
                return Next::Wait;
            }
            packets += 1;
            match packets {
                1 if fresh
                    && with_ring!(self.ring, |ring| ring.is_drained())
                    && with_ring!(self.ring, |ring| ring.kicks_are_on()) =>
                {
                    return Next::Wait;
                }
                2 => with_ring!(self.ring, |ring| ring.disable_kick(&*shared)).unwrap(),
                _ => {}
            }
        }
        Next::Again
    }

    /// Takes the next chain; returns whether there is one.
    fn take(&mut self) -> bool {
        let region = Region {
            guest: GuestAddr(0),
            size: 0x1000,
            user: UserAddr(0),
        };
        let table = MemTable::new([region]).unwrap();
        let mut storage = [Segment::default(); 1];
        let mut out = Segments::new(&mut storage);
        let chain = with_ring!(self.ring, |ring| ring.next_chain(
            &*self.shared,
            &table,
            &mut out
        ));
        let Some(chain) = chain.expect("the driver keeps the rules") else {
            return false;
        };
        let expect = buffer(self.taken);
        let got = out.as_slice().first().map(|part| (part.addr.0, part.len));
        assert_eq!(
            (chain.id, got),
            (self.taken, Some((expect.addr, u64::from(expect.len)))),
            "a chain that the driver did not write"
        );
        self.taken += 1;
        true
    }

    /// Gives back the taken chains.
    fn complete(&mut self) {
        let ids = self.completed..self.taken;
        with_ring!(self.ring, |ring| give_back(ring, &self.shared, ids)).unwrap();
        self.completed = self.taken;
    }
}
