// SPDX-License-Identifier: GPL-2.0

//! The driver makes chains available while the device goes to sleep.

use std::sync::Arc;

use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::{AcqRel, Relaxed};
use loom::thread;
use vring::{GuestAddr, MemTable, Region, Segment, Segments, SplitRing, UserAddr};

use crate::driver::{buffer, Driver};
use crate::memory::{PLACE, SIZE};
use crate::{explore, Broken, Shared, CHAINS};

/// How the worker looks for chains.
#[derive(Clone, Copy)]
enum Worker {
    /// Kicks are off while it looks, as for the receive queue.
    Off,
    /// Kicks are off from the second chain on, as for the transmit queue.
    OffWhenBusy,
}

/// A device that takes chains.
struct Device {
    ring: SplitRing,
    shared: Arc<Shared>,
    taken: u16,
}

impl Device {
    fn new(shared: Arc<Shared>, event_idx: bool) -> Self {
        let mut ring = SplitRing::default();
        assert!(ring.set_size(u32::from(SIZE)));
        ring.set_features(event_idx, false);
        ring.set_addrs(PLACE);
        ring.start(&*shared).unwrap();
        Self {
            ring,
            shared,
            taken: 0,
        }
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
            (chain.head, got),
            (self.taken, Some((expect.addr, u64::from(expect.len)))),
            "a chain that the driver did not write"
        );
        self.taken += 1;
        true
    }

    /// One round of the worker, after which it waits for a kick.
    fn round(&mut self, worker: Worker) {
        let shared = self.shared.clone();
        if let Worker::Off = worker {
            self.ring.disable_kick(&*shared).unwrap();
        }
        let mut packets = 0;
        loop {
            if self.take() {
                packets += 1;
                if let Worker::OffWhenBusy = worker {
                    match packets {
                        1 if self.ring.is_drained() && self.ring.kicks_are_on() => return,
                        2 => self.ring.disable_kick(&*shared).unwrap(),
                        _ => {}
                    }
                }
            } else if self.ring.kicks_are_on() || !self.ring.enable_kick(&*shared).unwrap() {
                return;
            } else {
                self.ring.disable_kick(&*shared).unwrap();
            }
        }
    }
}

/// No chain is left when both sides have come to rest.
fn no_kick_is_lost(worker: Worker, event_idx: bool, broken: Broken) {
    explore(move || {
        let shared = Arc::new(Shared::new(broken));
        // As an eventfd, which loses none: read and written in one go by both sides.
        let kick = Arc::new(AtomicBool::new(false));
        let mut device = Device::new(shared.clone(), event_idx);
        let driver = thread::spawn({
            let kick = kick.clone();
            move || {
                let mut driver = Driver::new(&shared, event_idx);
                for _ in 0..CHAINS {
                    if driver.add() {
                        kick.swap(true, AcqRel);
                    }
                }
            }
        });
        // The first round comes with the backend, later ones with kicks.
        loop {
            device.round(worker);
            if !kick.swap(false, AcqRel) {
                break;
            }
        }
        driver.join().unwrap();
        if kick.load(Relaxed) {
            device.round(worker);
        }
        assert_eq!(device.taken, CHAINS, "a kick was lost");
    });
}

#[test]
fn no_kick_is_lost_with_flags() {
    no_kick_is_lost(Worker::Off, false, Broken::Nothing);
}

#[test]
fn no_kick_is_lost_with_flags_when_busy() {
    no_kick_is_lost(Worker::OffWhenBusy, false, Broken::Nothing);
}

#[test]
fn no_kick_is_lost_with_event_indexes() {
    no_kick_is_lost(Worker::Off, true, Broken::Nothing);
}

#[test]
fn no_kick_is_lost_with_event_indexes_when_busy() {
    no_kick_is_lost(Worker::OffWhenBusy, true, Broken::Nothing);
}

#[test]
#[should_panic(expected = "a kick was lost")]
fn flags_need_the_full_barrier() {
    no_kick_is_lost(Worker::Off, false, Broken::FullBarrier);
}

#[test]
#[should_panic(expected = "a kick was lost")]
fn flags_need_the_full_barrier_when_busy() {
    no_kick_is_lost(Worker::OffWhenBusy, false, Broken::FullBarrier);
}

#[test]
#[should_panic(expected = "a kick was lost")]
fn event_indexes_need_the_full_barrier() {
    no_kick_is_lost(Worker::Off, true, Broken::FullBarrier);
}

#[test]
#[should_panic(expected = "a chain that the driver did not write")]
fn the_available_index_needs_acquire() {
    no_kick_is_lost(Worker::Off, false, Broken::Acquire);
}
