// SPDX-License-Identifier: GPL-2.0

//! The device completes chains while the driver goes to sleep.

use std::sync::Arc;

use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::{AcqRel, Relaxed};
use loom::thread;
use vring::CompleteWork;

use crate::device::{give_back, started};
use crate::driver::Driver;
use crate::{explore, with_ring, Broken, Kind, Shared, CHAINS, PACKED, PREEMPTIONS, SPLIT};

/// One round of the driver, which ends when it may wait for a call.
fn round(driver: &mut Driver<'_>) {
    loop {
        driver.disable_calls();
        driver.poll();
        if !driver.enable_calls() {
            return;
        }
    }
}

/// Checks that no used buffer is left when both sides wait.
fn no_call_is_lost(kind: Kind, broken: Broken) {
    explore(PREEMPTIONS, move || {
        let shared = Arc::new(Shared::new(broken));
        // Models an eventfd, which loses no signal: both sides access it atomically.
        let called = Arc::new(AtomicBool::new(false));
        let mut ring = started(&shared, kind);
        // With event indexes the first decision is always to call.
        let _ = with_ring!(ring, |ring| ring.needs_call(&*shared));
        let device = thread::spawn({
            let (shared, called) = (shared.clone(), called.clone());
            move || {
                for id in 0..CHAINS {
                    let call = with_ring!(ring, |ring| {
                        give_back(ring, &shared, id..id + 1).unwrap();
                        ring.needs_call(&*shared)
                    });
                    if call {
                        called.swap(true, AcqRel);
                    }
                }
            }
        });
        let mut driver = Driver::new(&shared, kind);
        loop {
            round(&mut driver);
            if !called.swap(false, AcqRel) {
                break;
            }
        }
        device.join().unwrap();
        if called.load(Relaxed) {
            round(&mut driver);
        }
        assert_eq!(driver.last_used, CHAINS, "a call was lost");
    });
}

#[test]
fn no_call_for_a_split_ring_is_lost() {
    for kind in SPLIT {
        no_call_is_lost(kind, Broken::Nothing);
    }
}

#[test]
fn no_call_for_a_packed_ring_is_lost() {
    for kind in PACKED {
        no_call_is_lost(kind, Broken::Nothing);
    }
}

/// Makes a test in which one rule is broken.
macro_rules! broken {
    ($($name:ident: $kind:expr, $broken:ident, $words:literal;)+) => {
        $(#[test]
        #[should_panic(expected = $words)]
        fn $name() {
            no_call_is_lost($kind, Broken::$broken);
        })+
    };
}

broken! {
    flags_need_the_full_barrier:
        SPLIT[0], FullBarrier, "a call was lost";
    event_indexes_need_the_full_barrier:
        SPLIT[1], FullBarrier, "a call was lost";
    flags_of_a_packed_ring_need_the_full_barrier:
        PACKED[0], FullBarrier, "a call was lost";
    events_of_a_packed_ring_need_the_full_barrier:
        PACKED[1], FullBarrier, "a call was lost";
    the_used_index_needs_release:
        SPLIT[0], Release, "a used buffer that the device did not write";
    used_descriptors_need_release:
        PACKED[0], Release, "a used buffer that the device did not write";
}
