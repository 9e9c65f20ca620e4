// SPDX-License-Identifier: GPL-2.0

//! Kicks and calls: suppressed when not wanted, never lost, and "look again" is not answered for
//! ever.

use std::cell::Cell;
use std::rc::Rc;

use vring::{CompleteWork, Fault, GetWork, KickControl, SplitRing, UserAddr};

use crate::for_both_formats;
use crate::mock::driver::passed;
use crate::mock::{Bench, Buf, DriverSide, Format, Op, Rig, SetUp, Setup, PLACE};

const BUF: Buf = Buf::read(0x1000, 64);

fn bench(size: u16, index: u16, event_idx: bool, notify_on_empty: bool) -> Bench {
    Bench::with(Setup {
        size,
        index,
        event_idx,
        notify_on_empty,
    })
}

/// Passes `count` chains through the ring, completing each at once.
fn pass(bench: &mut Bench, count: u16) {
    let heads: Vec<_> = (0..count).map(|_| bench.offer(&[BUF])).collect();
    let used: Vec<_> = heads
        .iter()
        .map(|_| SplitRing::used_entry(bench.head(), 1, 0))
        .collect();
    bench.ring.complete(&bench.memory, &used).unwrap();
    for head in heads {
        assert_eq!(bench.driver.poll(&bench.memory), Some((head, 0)));
    }
    bench.memory.take_log();
}

#[test]
fn without_event_indexes_the_flag_decides() {
    let mut bench = bench(4, 0xfffe, false, false);
    for (flags, call) in [(0, true), (1, false), (0xfffe, true), (0xffff, false)] {
        pass(&mut bench, 1);
        bench.memory.poke16(PLACE.avail.0, flags);
        assert_eq!(bench.ring.needs_call(&bench.memory), call, "{flags:#x}");
    }
}

#[test]
fn with_event_indexes_the_flag_is_ignored() {
    let mut bench = bench(4, 0, true, false);
    let _ = bench.ring.needs_call(&bench.memory);
    for flags in [0, 1] {
        bench.memory.poke16(PLACE.avail.0, flags);
        bench
            .driver
            .want_calls(&bench.memory, bench.driver.last_used);
        pass(&mut bench, 1);
        assert!(bench.ring.needs_call(&bench.memory));
        assert!(!bench.ring.needs_call(&bench.memory), "once is enough");
    }
}

#[test]
fn a_wish_for_kicks_that_cannot_be_written_is_none() {
    for event_idx in [false, true] {
        let mut bench = bench(4, 0, event_idx, false);
        bench.ring.disable_kick(&bench.memory).unwrap();
        bench.memory.fail_in(0);
        assert!(bench.ring.enable_kick(&bench.memory).is_err());
        assert!(!bench.ring.kicks_are_on());
        // The store may have taken effect all the same, so a request for no kicks has to be written
        // again.
        bench.memory.poke16(PLACE.used.0, 0);
        bench.ring.disable_kick(&bench.memory).unwrap();
        assert_eq!(bench.memory.peek16(PLACE.used.0), u16::from(!event_idx));
        assert_eq!(bench.ring.enable_kick(&bench.memory), Ok(false));
        assert_eq!(bench.ring.kicks_are_on(), !event_idx);
        assert_eq!(bench.memory.peek16(PLACE.used.0), 0);
    }
}

#[test]
fn a_wish_for_no_kicks_that_cannot_be_written_is_none() {
    let mut bench = bench(4, 0, false, false);
    assert!(bench.ring.kicks_are_on());
    bench.memory.fail_in(0);
    assert!(bench.ring.disable_kick(&bench.memory).is_err());
    // The device does not rely on kicks either.
    assert!(!bench.ring.kicks_are_on());
    bench.ring.disable_kick(&bench.memory).unwrap();
    assert_eq!(bench.memory.peek16(PLACE.used.0), 1);
}

#[test]
fn the_first_decision_is_to_call() {
    let mut bench = bench(4, 0, true, false);
    bench.driver.no_calls(&bench.memory);
    pass(&mut bench, 1);
    assert!(bench.ring.needs_call(&bench.memory));
    pass(&mut bench, 1);
    assert!(!bench.ring.needs_call(&bench.memory));
    // After a restart the first decision is to call again.
    bench.ring.start(&bench.memory).unwrap();
    assert!(bench.ring.needs_call(&bench.memory));
}

#[test]
fn a_call_is_due_exactly_when_the_event_is_passed() {
    for old in [0u16, 5, 0x7fff, 0xfffa, 0xffff] {
        for moved in [0u16, 1, 2, 7, 8] {
            let mut bench = bench(8, old, true, false);
            bench.driver.no_calls(&bench.memory);
            let _ = bench.ring.needs_call(&bench.memory);
            pass(&mut bench, moved);
            let new = old.wrapping_add(moved);
            for event in (0..12).map(|step| old.wrapping_add(step).wrapping_sub(2)) {
                let mut bench = self::bench(8, old, true, false);
                let _ = bench.ring.needs_call(&bench.memory);
                pass(&mut bench, moved);
                bench.driver.want_calls(&bench.memory, event);
                assert_eq!(
                    bench.ring.needs_call(&bench.memory),
                    passed(event, old, new),
                    "event {event}, from {old} to {new}"
                );
            }
        }
    }
}

#[test]
fn a_decision_too_long_ago_is_none() {
    // With 2^16 completions since, the index has passed every event, though it looks unmoved.
    for extra in [0u16, 1, 3] {
        let mut bench = bench(256, 0xff00, true, false);
        let _ = bench.ring.needs_call(&bench.memory);
        for _ in 0..256 {
            pass(&mut bench, 256);
        }
        pass(&mut bench, extra);
        bench.driver.no_calls(&bench.memory);
        assert!(bench.ring.needs_call(&bench.memory), "{extra}");
        assert!(!bench.ring.needs_call(&bench.memory));
    }
    // With one fewer, the interval is still known, and lacks exactly the index before the old one.
    let mut bench = bench(256, 0xff00, true, false);
    let _ = bench.ring.needs_call(&bench.memory);
    for _ in 0..255 {
        pass(&mut bench, 256);
    }
    pass(&mut bench, 255);
    bench.driver.want_calls(&bench.memory, 0xff00 - 1);
    assert!(!bench.ring.needs_call(&bench.memory));
}

#[test]
fn an_empty_ring_is_told_of_when_asked_for() {
    for event_idx in [false, true] {
        for notify in [false, true] {
            let mut bench = bench(8, 0xfffe, event_idx, notify);
            bench.driver.no_calls(&bench.memory);
            let heads = [(); 3].map(|()| bench.offer(&[BUF]));
            for (left, head) in [2, 1, 0].into_iter().zip(heads) {
                assert_eq!(bench.head(), head);
                bench.complete(head);
                let call = bench.ring.needs_call(&bench.memory);
                // The first decision with event indexes is to call.
                if left < 2 {
                    assert_eq!(call, notify && left == 0, "{left} left");
                }
            }
        }
    }
}

#[test]
fn kicks_go_off_and_on_by_the_flag() {
    let mut bench = bench(8, 0, false, false);
    for _ in 0..2 {
        bench.ring.disable_kick(&bench.memory).unwrap();
        assert_eq!(bench.memory.peek16(PLACE.used.0), 1);
        bench.driver.add(&bench.memory, &[BUF]).unwrap();
        assert!(!bench.driver.publish(&bench.memory));
        bench.memory.take_log();
        bench.ring.disable_kick(&bench.memory).unwrap();
        assert_eq!(bench.memory.take_log(), [], "they are off already");
        assert!(bench.ring.enable_kick(&bench.memory).unwrap());
        assert_eq!(bench.memory.peek16(PLACE.used.0), 0);
        bench.driver.add(&bench.memory, &[BUF]).unwrap();
        assert!(bench.driver.publish(&bench.memory));
        while bench.next().unwrap().is_some() {}
    }
}

#[test]
fn a_restart_keeps_kicks_as_they_are() {
    let mut bench = bench(8, 0, false, false);
    bench.ring.disable_kick(&bench.memory).unwrap();
    bench.memory.poke16(PLACE.used.0, 0);
    bench.ring.start(&bench.memory).unwrap();
    assert_eq!(bench.memory.peek16(PLACE.used.0), 1);
}

#[test]
fn kicks_go_off_by_leaving_the_event_behind() {
    let mut bench = bench(8, 0xfffe, true, false);
    assert!(!bench.ring.enable_kick(&bench.memory).unwrap());
    for _ in 0..4 {
        bench.driver.add(&bench.memory, &[BUF]).unwrap();
        assert!(bench.driver.publish(&bench.memory), "the first is told of");
        bench.memory.take_log();
        bench.ring.disable_kick(&bench.memory).unwrap();
        assert_eq!(bench.memory.take_log(), []);
        let first = bench.head();
        bench.driver.add(&bench.memory, &[BUF]).unwrap();
        assert!(!bench.driver.publish(&bench.memory), "the next is not");
        let second = bench.head();
        assert!(!bench.ring.enable_kick(&bench.memory).unwrap());
        for head in [first, second] {
            bench.complete(head);
            bench.driver.poll(&bench.memory).unwrap();
        }
    }
}

#[test]
fn what_comes_while_kicks_go_on_is_seen() {
    for event_idx in [false, true] {
        // Before each access in turn.
        for access in 0..3 {
            let mut bench = bench(8, 0xffff, event_idx, false);
            bench.ring.disable_kick(&bench.memory).unwrap();
            bench.driver.add(&bench.memory, &[BUF]).unwrap();
            let avail = bench.driver.avail;
            let mut seen = 0;
            bench.memory.on_access(move |memory, _| {
                if seen == access {
                    memory.poke16(PLACE.avail.0 + 2, avail);
                }
                seen += 1;
            });
            assert!(bench.ring.enable_kick(&bench.memory).unwrap());
            bench.memory.leave_alone();
            assert!(bench.next().unwrap().is_some());
            assert!(!bench.ring.enable_kick(&bench.memory).unwrap());
        }
    }
}

#[test]
fn the_wish_is_stated_before_the_last_look() {
    for (event_idx, at) in [(false, 0), (true, 4 + 8 * 8)] {
        let mut bench = bench(8, 7, event_idx, false);
        bench.ring.disable_kick(&bench.memory).unwrap();
        bench.memory.take_log();
        let _ = bench.ring.enable_kick(&bench.memory).unwrap();
        let value = if event_idx { 7 } else { 0 };
        let wish = Op::Store(UserAddr(PLACE.used.0 + at), value);
        let expect = [wish, Op::Barrier, bench.index_load()];
        assert_eq!(bench.memory.take_log(), expect);
    }
}

#[test]
fn the_drivers_wish_is_read_behind_the_barrier() {
    for (event_idx, at) in [(false, 0), (true, 4 + 2 * 8)] {
        let mut bench = bench(8, 7, event_idx, false);
        let _ = bench.ring.needs_call(&bench.memory);
        pass(&mut bench, 1);
        let _ = bench.ring.needs_call(&bench.memory);
        let wish = Op::Load(UserAddr(PLACE.avail.0 + at));
        assert_eq!(bench.memory.take_log(), [Op::Barrier, wish]);
    }
}

/// A ring of one format or the other.
fn rig<F: Format>(index: u16, event_idx: bool) -> Rig<F> {
    Rig::with(Setup {
        size: 8,
        index,
        event_idx,
        ..Setup::default()
    })
}

fn look_again_is_answered_for_news_only<F: Format>() {
    for event_idx in [false, true] {
        let mut bench = rig::<F>(0xfffd, event_idx);
        // A packet needs five buffers, four are there: taken and given back.
        let ids = [(); 4].map(|()| bench.offer(&[BUF]));
        assert_eq!(ids.map(|_| bench.head()), ids);
        assert_eq!(bench.next(), Ok(None));
        bench.ring.rewind(4, 4);
        assert!(!bench.ring.enable_kick(&bench.memory).unwrap(), "no news");
        assert!(!bench.ring.enable_kick(&bench.memory).unwrap());
        bench.driver.add(&bench.memory, &[BUF]).unwrap();
        assert!(
            bench.driver.publish(&bench.memory),
            "the fifth brings a kick"
        );
        assert!(bench.ring.enable_kick(&bench.memory).unwrap());
        // Told once; or until it has been looked for.
        let again = bench.ring.enable_kick(&bench.memory);
        assert_eq!(again, Ok(!F::NEWS_IS_KNOWN));
        assert_eq!([(); 4].map(|()| bench.head()), ids);
        assert!(bench.next().unwrap().is_some());
        assert_eq!(bench.next(), Ok(None));
        assert!(!bench.ring.enable_kick(&bench.memory).unwrap());
    }
}

fn kicks_are_on_until_they_are_off<F: Format>() {
    for event_idx in [false, true] {
        let mut bench = rig::<F>(0, event_idx);
        assert_eq!(bench.ring.kicks_are_on(), !event_idx);
        bench.ring.disable_kick(&bench.memory).unwrap();
        assert!(!bench.ring.kicks_are_on());
        // A ring that was stopped in this state starts in it.
        bench.ring.start(&bench.memory).unwrap();
        assert!(!bench.ring.kicks_are_on());
        bench.driver.add(&bench.memory, &[BUF]).unwrap();
        if F::STORES_OFF || !event_idx {
            assert!(!bench.driver.publish(&bench.memory));
        }
        let _ = bench.ring.enable_kick(&bench.memory).unwrap();
        assert_eq!(bench.ring.kicks_are_on(), !event_idx);
    }
}

fn when_in_doubt_call<F: Format>() {
    for event_idx in [false, true] {
        let mut bench = rig::<F>(0, event_idx);
        let _ = bench.ring.needs_call(&bench.memory);
        bench.driver.no_calls(&bench.memory);
        for fails in [true, false] {
            let id = bench.offer(&[BUF]);
            assert_eq!(bench.head(), id);
            bench.complete(id);
            bench.driver.poll(&bench.memory).unwrap();
            if fails {
                bench.memory.fail_in(0);
            }
            assert_eq!(bench.ring.needs_call(&bench.memory), fails);
        }
    }
}

fn faults_of_kicks_are_told<F: Format>() {
    for event_idx in [false, true] {
        let mut bench = rig::<F>(0, event_idx);
        let unmapped = |fault: Result<bool, Fault>| matches!(fault, Err(Fault::Unmapped(_)));
        // The wish, and then the look.
        for access in 0..2 {
            bench.memory.fail_in(access);
            let enabled = bench.ring.enable_kick(&bench.memory);
            assert!(unmapped(enabled), "{access}");
            assert_eq!(bench.ring.kicks_are_on(), access == 1 && !event_idx);
        }
        bench.memory.fail_in(0);
        let disabled = bench.ring.disable_kick(&bench.memory);
        assert_eq!(disabled.is_err(), F::STORES_OFF || !event_idx);
        bench.memory.fail_no_more();
        bench.offer(&[BUF]);
        assert!(bench.ring.enable_kick(&bench.memory).unwrap());
    }
}

/// The driver publishes before each of the device's accesses in turn.
fn what_comes_while_kicks_go_on_is_seen_or_brings_a_kick<F: Format>() {
    for event_idx in [false, true] {
        for access in 0..4 {
            let Rig {
                memory,
                mut driver,
                mut ring,
                ..
            } = rig::<F>(0xffff, event_idx);
            ring.disable_kick(&memory).unwrap();
            driver.add(&memory, &[BUF]).unwrap();
            let kicked = Rc::new(Cell::new(None));
            let seen = Rc::clone(&kicked);
            let mut count = 0;
            memory.on_access(move |memory, _| {
                if count == access {
                    seen.set(Some(driver.publish(memory)));
                }
                count += 1;
            });
            let again = ring.enable_kick(&memory).unwrap();
            memory.leave_alone();
            match kicked.get() {
                Some(kicked) => assert!(again || kicked, "before access {access}"),
                None => assert!(!again),
            }
        }
    }
}

for_both_formats!(
    look_again_is_answered_for_news_only,
    kicks_are_on_until_they_are_off,
    when_in_doubt_call,
    faults_of_kicks_are_told,
    what_comes_while_kicks_go_on_is_seen_or_brings_a_kick,
);
