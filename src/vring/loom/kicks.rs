// SPDX-License-Identifier: GPL-2.0

//! The driver makes chains available while the device goes to sleep.

use std::sync::Arc;

use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::{AcqRel, Relaxed};
use loom::thread;

use crate::device::{Backend, Device, Next, Worker};
use crate::driver::Driver;
use crate::{explore, Broken, Kind, Shared, CHAINS, PACKED, PREEMPTIONS, SPLIT};

/// A backend that never makes the worker wait.
struct Ready;

impl Backend for Ready {
    fn is_ready(&self) -> bool {
        true
    }

    fn arm(&self) {}

    fn disarm(&self) {}
}

/// The rounds for one kick: one, and further ones while there may be more to do.
fn rounds(device: &mut Device, worker: Worker) {
    while device.round(worker, u16::MAX, &Ready) == Next::Again {}
}

/// Checks that no chain is left when both sides wait.
fn no_kick_is_lost(worker: Worker, kind: Kind, broken: Broken) {
    explore(PREEMPTIONS, move || {
        let shared = Arc::new(Shared::new(broken));
        // Models an eventfd, which loses no signal: both sides access it atomically.
        let kick = Arc::new(AtomicBool::new(false));
        let mut device = Device::new(shared.clone(), kind);
        let driver = thread::spawn({
            let kick = kick.clone();
            move || {
                let mut driver = Driver::new(&shared, kind);
                for _ in 0..CHAINS {
                    if driver.add() {
                        kick.swap(true, AcqRel);
                    }
                }
            }
        });
        // Setting the backend starts the first round, kicks start later ones.
        loop {
            rounds(&mut device, worker);
            if !kick.swap(false, AcqRel) {
                break;
            }
        }
        driver.join().unwrap();
        if kick.load(Relaxed) {
            rounds(&mut device, worker);
        }
        assert_eq!(device.taken, CHAINS, "a kick was lost");
    });
}

/// Runs the model with all rules kept.
fn no_kick_is_lost_with_any(kinds: [Kind; 2]) {
    for kind in kinds {
        for worker in [Worker::Off, Worker::OffWhenBusy] {
            no_kick_is_lost(worker, kind, Broken::Nothing);
        }
    }
}

#[test]
fn no_kick_of_a_split_ring_is_lost() {
    no_kick_is_lost_with_any(SPLIT);
}

#[test]
fn no_kick_of_a_packed_ring_is_lost() {
    no_kick_is_lost_with_any(PACKED);
}

/// Makes a test in which one rule is broken.
macro_rules! broken {
    ($($name:ident: $worker:ident, $kind:expr, $broken:ident, $words:literal;)+) => {
        $(#[test]
        #[should_panic(expected = $words)]
        fn $name() {
            no_kick_is_lost(Worker::$worker, $kind, Broken::$broken);
        })+
    };
}

broken! {
    flags_need_the_full_barrier:
        Off, SPLIT[0], FullBarrier, "a kick was lost";
    flags_need_the_full_barrier_when_busy:
        OffWhenBusy, SPLIT[0], FullBarrier, "a kick was lost";
    event_indexes_need_the_full_barrier:
        Off, SPLIT[1], FullBarrier, "a kick was lost";
    flags_of_a_packed_ring_need_the_full_barrier:
        Off, PACKED[0], FullBarrier, "a kick was lost";
    flags_of_a_packed_ring_need_the_full_barrier_when_busy:
        OffWhenBusy, PACKED[0], FullBarrier, "a kick was lost";
    events_of_a_packed_ring_need_the_full_barrier:
        Off, PACKED[1], FullBarrier, "a kick was lost";
    the_available_index_needs_acquire:
        Off, SPLIT[0], Acquire, "a chain that the driver did not write";
    available_descriptors_need_acquire:
        Off, PACKED[0], Acquire, "a chain that the driver did not write";
}
