// SPDX-License-Identifier: GPL-2.0

//! The device's side: rounds of a worker, as in `rx.rs` and `tx.rs`.

use std::sync::Arc;

use vring::{
    CompleteWork, GetWork, GuestAddr, KickControl, MemTable, RawUsed, Region, Segment, Segments,
    SplitRing, UserAddr,
};

use crate::driver::buffer;
use crate::memory::{PLACE, SIZE};
use crate::Shared;

/// How the worker looks for chains.
#[derive(Clone, Copy)]
pub enum Worker {
    /// Kicks are off while it looks, as for the receive queue.
    Off,
    /// Kicks are off from the second chain on, as for the transmit queue.
    OffWhenBusy,
}

/// What a round ends with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A kick or the backend will wake the queue.
    Wait,
    /// There may be more to do.
    Again,
}

/// Where packets come from, or go to.
pub trait Backend {
    /// Whether there is a packet, or room for one.
    fn is_ready(&self) -> bool;

    /// Wakes the queue when it is ready, at once if it is now.
    fn arm(&self);

    /// No longer wakes the queue.
    fn disarm(&self);
}

/// A device that takes chains.
pub struct Device {
    /// The device side of the ring.
    pub ring: SplitRing,
    shared: Arc<Shared>,
    /// Chains taken.
    pub taken: u16,
    /// Those of them that have been given back.
    completed: u16,
}

impl Device {
    /// A device that has been started.
    pub fn new(shared: Arc<Shared>, event_idx: bool) -> Self {
        let mut ring = SplitRing::default();
        assert!(ring.set_size(u32::from(SIZE)));
        ring.set_features(event_idx, false);
        ring.set_addrs(PLACE);
        ring.start(&*shared).unwrap();
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
        self.ring.disable_kick(&*shared).unwrap();
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
            let more = self.ring.enable_kick(&*shared).unwrap();
            backend.disarm();
            return if more { Next::Again } else { Next::Wait };
        }
        Next::Again
    }

    fn transmit(&mut self, most: u16, backend: &impl Backend) -> Next {
        let shared = self.shared.clone();
        backend.disarm();
        let fresh = self.ring.is_drained();
        let mut packets = 0;
        while packets < most {
            if !self.take() {
                self.complete();
                if self.ring.kicks_are_on() || !self.ring.enable_kick(&*shared).unwrap() {
                    return Next::Wait;
                }
                self.ring.disable_kick(&*shared).unwrap();
                packets += 1;
                continue;
            }
            if !backend.is_ready() {
                backend.arm();
                self.ring.rewind(1, 0);
                self.taken -= 1;
                return Next::Wait;
            }
            packets += 1;
            match packets {
                1 if fresh && self.ring.is_drained() && self.ring.kicks_are_on() => {
                    return Next::Wait;
                }
                2 => self.ring.disable_kick(&*shared).unwrap(),
                _ => {}
            }
        }
        Next::Again
    }

    /// Takes the next chain; whether there is one.
    fn take(&mut self) -> bool {
        let region = Region {
            guest: GuestAddr(0),
            size: 0x1000,
            user: UserAddr(0),
        };
        let table = MemTable::new([region]).unwrap();
        let mut storage = [Segment::default(); 1];
        let mut out = Segments::new(&mut storage);
        let chain = self.ring.next_chain(&*self.shared, &table, &mut out);
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

    /// Gives back what has been taken.
    fn complete(&mut self) {
        let heads = self.completed..self.taken;
        let used: Vec<RawUsed> = heads
            .map(|head| SplitRing::used_entry(head, 1, 0))
            .collect();
        if !used.is_empty() {
            self.ring.complete(&*self.shared, &used).unwrap();
        }
        self.completed = self.taken;
    }
}
