// SPDX-License-Identifier: GPL-2.0

//! The driver makes chains available while the device goes to sleep.

use std::sync::Arc;

use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::{AcqRel, Relaxed};
use loom::thread;

use crate::device::{Backend, Device, Next, Worker};
use crate::driver::Driver;
use crate::{explore, Broken, Shared, CHAINS, PREEMPTIONS};

/// A backend that never makes the worker wait.
struct Ready;

impl Backend for Ready {
    fn is_ready(&self) -> bool {
        true
    }

    fn arm(&self) {}

    fn disarm(&self) {}
}

/// What one kick is worth: a round, and more as long as there may be more to do.
fn rounds(device: &mut Device, worker: Worker) {
    while device.round(worker, u16::MAX, &Ready) == Next::Again {}
}

/// No chain is left when both sides have come to rest.
fn no_kick_is_lost(worker: Worker, event_idx: bool, broken: Broken) {
    explore(PREEMPTIONS, move || {
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
