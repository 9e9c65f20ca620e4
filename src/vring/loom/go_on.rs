// SPDX-License-Identifier: GPL-2.0

//! For every reason why a queue stops, an event that is certain to occur starts it again.
//!
//! The driver kicks only when flags or event ask for it, and makes only a fixed number of chains
//! available: a kick that was not asked for never comes.

use std::sync::Arc;

use loom::thread;
use vring::{Desc, DESC_F_NEXT, DESC_F_WRITE};

use crate::driver::{buffer, Driver};
use crate::stopped::{Queue, Reason, Wrong, CHAINS};
use crate::{explore, Broken, Kind, Shared, PACKED, SPLIT};

/// Preemptions tried, with up to three threads; two are enough to detect every broken rule.
const PREEMPTIONS: usize = 2;

/// The driver's thread.
fn drive(reason: Reason, kind: Kind, shared: &Shared, queue: &Queue) {
    let mut driver = Driver::new(shared, kind);
    let kick = |wanted: bool| {
        if wanted {
            queue.bell.ring();
        }
    };
    match reason {
        Reason::Direction => {
            let bad = Desc {
                flags: DESC_F_WRITE,
                ..buffer(0)
            };
            driver.write(0, bad);
            kick(driver.offer());
            driver.write(0, buffer(0));
        }
        Reason::Nonsense if kind.packed => {
            let bad = Desc {
                flags: DESC_F_NEXT,
                ..buffer(0)
            };
            driver.write(0, bad);
            kick(driver.offer());
            driver.write(0, buffer(0));
        }
        Reason::Nonsense => kick(driver.publish(0x4000)),
        _ => {}
    }
    while driver.avail < CHAINS {
        kick(driver.add());
    }
}

/// Checks that all chains are taken and given back.
///
/// If one is left, the worker sleeps for ever, which loom reports as a deadlock.
fn goes_on_with(reason: Reason, kind: Kind, wrong: Wrong, broken: Broken) {
    explore(PREEMPTIONS, move || {
        let shared = match reason {
            Reason::Away => Shared::sometimes_away(broken),
            _ => Shared::new(broken),
        };
        let shared = Arc::new(shared);
        let queue = Arc::new(Queue::new(reason, wrong, kind, &shared));
        if matches!(reason, Reason::Place | Reason::Features) {
            shared.ask_for_no_kick();
        }
        let worker = thread::spawn({
            let queue = queue.clone();
            move || queue.work()
        });
        // If nothing happens outside, this thread is the driver.
        let outside = !matches!(
            reason,
            Reason::Direction | Reason::Nonsense | Reason::Unbuffered
        );
        let other = outside.then(|| {
            let (queue, shared) = (queue.clone(), shared.clone());
            thread::spawn(move || queue.outside(kind, &shared))
        });
        drive(reason, kind, &shared, &queue);
        if let Some(other) = other {
            other.join().unwrap();
        }
        worker.join().unwrap();
        assert_eq!(shared.used(kind), CHAINS, "a chain was not given back");
        if reason == Reason::Log {
            assert_eq!(queue.logged(), CHAINS, "a write was not logged");
        }
    });
}

/// Runs the model with all rules kept.
fn goes_on(reason: Reason) {
    for kind in [SPLIT, PACKED].concat() {
        goes_on_with(reason, kind, Wrong::Nothing, Broken::Nothing);
    }
}

/// Runs the model with one rule broken, which each format has to detect.
fn broken(reason: Reason, wrong: Wrong) {
    let packed = std::panic::catch_unwind(|| {
        goes_on_with(reason, PACKED[0], wrong, Broken::Nothing);
    });
    assert!(packed.is_err(), "a packed ring does without");
    broken_for_split_rings(reason, wrong);
}

/// Runs the model with a broken rule that packed rings do not need.
fn broken_for_split_rings(reason: Reason, wrong: Wrong) {
    goes_on_with(reason, SPLIT[0], wrong, Broken::Nothing);
}

#[test]
fn a_chain_of_the_wrong_direction() {
    goes_on(Reason::Direction);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_chain_of_the_wrong_direction_needs_a_kick() {
    broken(Reason::Direction, Wrong::NoAsk);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_chain_of_the_wrong_direction_needs_another_look() {
    broken(Reason::Direction, Wrong::Deaf);
}

/// A packed ring discards what it has read ahead when it awaits a kick, so only split rings need
/// the rule.
#[test]
#[should_panic(expected = "deadlock")]
fn a_chain_of_the_wrong_direction_has_to_be_read_again() {
    broken_for_split_rings(Reason::Direction, Wrong::NoForget);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_kick_is_awaited_behind_the_full_barrier() {
    let nothing = Wrong::Nothing;
    goes_on_with(Reason::Direction, SPLIT[0], nothing, Broken::FullBarrier);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_kick_for_a_packed_ring_is_awaited_behind_the_full_barrier() {
    let nothing = Wrong::Nothing;
    goes_on_with(Reason::Direction, PACKED[0], nothing, Broken::FullBarrier);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_kick_is_awaited_behind_the_full_barrier_with_event_indexes() {
    let nothing = Wrong::Nothing;
    goes_on_with(Reason::Direction, SPLIT[1], nothing, Broken::FullBarrier);
}

#[test]
fn a_ring_that_makes_no_sense() {
    goes_on(Reason::Nonsense);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_ring_that_makes_no_sense_needs_a_kick() {
    broken(Reason::Nonsense, Wrong::NoAsk);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_ring_that_makes_no_sense_needs_another_look() {
    broken(Reason::Nonsense, Wrong::Deaf);
}

#[test]
fn memory_that_is_away() {
    goes_on(Reason::Away);
}

#[test]
#[should_panic(expected = "deadlock")]
fn memory_that_is_away_needs_a_timer() {
    broken(Reason::Away, Wrong::NoTimer);
}

#[test]
#[should_panic(expected = "a chain was not given back")]
fn memory_that_is_away_needs_another_completion() {
    broken(Reason::Away, Wrong::Forgetful);
}

#[test]
fn a_log_that_cannot_be_written() {
    goes_on(Reason::Log);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_log_that_cannot_be_written_needs_a_timer() {
    broken(Reason::Log, Wrong::NoTimer);
}

#[test]
#[should_panic(expected = "a write was not logged")]
fn what_could_not_be_logged_is_owed() {
    broken(Reason::Log, Wrong::Forgiving);
}

#[test]
fn a_packet_without_buffers() {
    goes_on(Reason::Unbuffered);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_packet_without_buffers_needs_a_kick() {
    broken(Reason::Unbuffered, Wrong::NoAsk);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_packet_without_buffers_needs_another_look() {
    broken(Reason::Unbuffered, Wrong::Deaf);
}

#[test]
fn buffers_without_a_packet() {
    goes_on(Reason::Packets);
}

#[test]
#[should_panic(expected = "deadlock")]
fn buffers_without_a_packet_need_the_backend() {
    broken(Reason::Packets, Wrong::NoArm);
}

#[test]
fn a_translation_that_is_missing() {
    goes_on(Reason::Translation);
}

#[test]
#[should_panic(expected = "deadlock")]
fn an_answer_has_to_wake() {
    broken(Reason::Translation, Wrong::NoWake);
}

#[test]
#[should_panic(expected = "deadlock")]
fn an_answer_has_to_wake_when_it_is_entered() {
    broken(Reason::Translation, Wrong::EarlyWake);
}

#[test]
fn a_table_that_lacks_memory() {
    goes_on(Reason::Table);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_new_table_has_to_wake() {
    broken(Reason::Table, Wrong::NoWake);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_new_table_has_to_wake_when_it_is_set() {
    broken(Reason::Table, Wrong::EarlyWake);
}

#[test]
fn a_ring_that_is_elsewhere() {
    goes_on(Reason::Place);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_ring_that_is_moved_has_to_wake() {
    broken(Reason::Place, Wrong::NoWake);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_ring_that_is_moved_has_to_wake_when_it_is_there() {
    broken(Reason::Place, Wrong::EarlyWake);
}

#[test]
#[should_panic(expected = "deadlock")]
fn of_a_ring_that_is_moved_no_flags_are_known() {
    broken(Reason::Place, Wrong::Believe);
}

#[test]
fn features_of_another_driver() {
    goes_on(Reason::Features);
}

/// The driver of a packed ring follows the event flags whatever the features are, so only split
/// rings need the rule.
#[test]
#[should_panic(expected = "deadlock")]
fn new_features_have_to_wake() {
    broken_for_split_rings(Reason::Features, Wrong::NoWake);
}

#[test]
#[should_panic(expected = "deadlock")]
fn new_features_have_to_wake_when_they_are_set() {
    broken_for_split_rings(Reason::Features, Wrong::EarlyWake);
}

#[test]
#[should_panic(expected = "deadlock")]
fn of_new_features_no_flags_are_known() {
    broken(Reason::Features, Wrong::Believe);
}
