// SPDX-License-Identifier: GPL-2.0

//! The device completes chains while the driver goes to sleep.

use std::sync::Arc;

use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::{AcqRel, Relaxed};
use loom::thread;
use vring::{CompleteWork, SplitRing};

use crate::driver::Driver;
use crate::memory::{PLACE, SIZE};
use crate::{explore, Broken, Shared, CHAINS, PREEMPTIONS};

/// One round of the driver, after which it waits for a call.
fn round(driver: &mut Driver<'_>) {
    loop {
        driver.disable_calls();
        driver.poll();
        if !driver.enable_calls() {
            return;
        }
    }
}

/// No used buffer is left when both sides have come to rest.
fn no_call_is_lost(event_idx: bool, broken: Broken) {
    explore(PREEMPTIONS, move || {
        let shared = Arc::new(Shared::new(broken));
        // As an eventfd, which loses none: read and written in one go by both sides.
        let call = Arc::new(AtomicBool::new(false));
        let mut ring = SplitRing::default();
        assert!(ring.set_size(u32::from(SIZE)));
        ring.set_features(event_idx, false);
        ring.set_addrs(PLACE);
        ring.start(&*shared).unwrap();
        // With event indexes the first decision is always to call.
        let _ = ring.needs_call(&*shared);
        let device = thread::spawn({
            let (shared, call) = (shared.clone(), call.clone());
            move || {
                for head in 0..CHAINS {
                    let used = SplitRing::used_entry(head, 1, 0);
                    ring.complete(&*shared, &[used]).unwrap();
                    if ring.needs_call(&*shared) {
                        call.swap(true, AcqRel);
                    }
                }
            }
        });
        let mut driver = Driver::new(&shared, event_idx);
        loop {
            round(&mut driver);
            if !call.swap(false, AcqRel) {
                break;
            }
        }
        device.join().unwrap();
        if call.load(Relaxed) {
            round(&mut driver);
        }
        assert_eq!(driver.last_used, CHAINS, "a call was lost");
    });
}

#[test]
fn no_call_is_lost_with_flags() {
    no_call_is_lost(false, Broken::Nothing);
}

#[test]
fn no_call_is_lost_with_event_indexes() {
    no_call_is_lost(true, Broken::Nothing);
}

#[test]
#[should_panic(expected = "a call was lost")]
fn flags_need_the_full_barrier() {
    no_call_is_lost(false, Broken::FullBarrier);
}

#[test]
#[should_panic(expected = "a call was lost")]
fn event_indexes_need_the_full_barrier() {
    no_call_is_lost(true, Broken::FullBarrier);
}

#[test]
#[should_panic(expected = "a used element that the device did not write")]
fn the_used_index_needs_release() {
    no_call_is_lost(false, Broken::Release);
}
