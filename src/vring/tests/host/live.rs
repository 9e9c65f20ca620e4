// SPDX-License-Identifier: GPL-2.0

//! Calls of the owner while the ring runs, after which the ring must not use what it knew of
//! memory.

use vring::{CompleteWork, GetWork, KickControl, RingAddrs, UserAddr};

use crate::for_both_formats;
use crate::mock::{
    segment, Bench, Buf, Driver, DriverSide, Format, Op, Rig, SetUp, Setup, PLACE, RAM,
};

const BUF: Buf = Buf::read(0x1000, 64);
const SIZE: u16 = 8;
/// Another place for the ring.
const NEW: RingAddrs = RingAddrs {
    desc: UserAddr(0x50_0000),
    avail: UserAddr(0x60_0000),
    used: UserAddr(0x70_0000),
};

fn bench(index: u16, event_idx: bool) -> Bench {
    Bench::with(Setup {
        size: SIZE,
        index,
        event_idx,
        ..Setup::default()
    })
}

/// Moves the ring to memory whose available and used index are both `index`.
fn move_ring(bench: &mut Bench, index: u16) {
    let extents = bench.ring.extents().map(|len| len as usize);
    for (place, len) in [NEW.desc, NEW.avail, NEW.used].into_iter().zip(extents) {
        bench.memory.map(place.0, len);
    }
    let event_idx = bench.driver.event_idx;
    bench.driver = Driver::new(&bench.memory, NEW, SIZE, index, event_idx);
    bench.ring.set_addrs(NEW);
    bench.memory.take_log();
}

/// What the owner may do to a running ring, after which the flags in memory may be others.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// Event indexes are turned on and off again.
    Features,
    /// The ring is moved.
    Place,
    /// Its addresses are translated in another way.
    Translation,
}

const CHANGES: [Change; 3] = [Change::Features, Change::Place, Change::Translation];

impl Change {
    fn make(self, bench: &mut Bench) {
        match self {
            Self::Features => {
                let event_idx = bench.driver.event_idx;
                bench.ring.set_features(!event_idx, false);
                bench.ring.set_features(event_idx, false);
            }
            Self::Place => move_ring(bench, bench.ring.base()),
            Self::Translation => bench.ring.forget_memory(),
        }
    }
}

#[test]
fn flags_that_others_wrote_are_not_relied_on() {
    for change in CHANGES {
        for (off, found) in [(false, 1), (false, 0), (true, 1), (true, 0)] {
            // A request for kicks and a request for none are both written, whatever was requested
            // before.
            for wish in [false, true] {
                let mut bench = bench(3, false);
                if off {
                    bench.ring.disable_kick(&bench.memory).unwrap();
                }
                change.make(&mut bench);
                let flags = bench.ring.addrs().used.0;
                bench.memory.poke16(flags, found);
                assert!(!bench.ring.kicks_are_on(), "{change:?}");
                if wish {
                    assert!(!bench.ring.enable_kick(&bench.memory).unwrap());
                } else {
                    bench.ring.disable_kick(&bench.memory).unwrap();
                }
                assert_eq!(bench.memory.peek16(flags), u16::from(!wish), "{change:?}");
                assert_eq!(bench.ring.kicks_are_on(), wish);
                bench.memory.take_log();
                bench.ring.disable_kick(&bench.memory).unwrap();
                let stores = bench.memory.take_log().len();
                assert_eq!(stores, usize::from(wish), "now it is known");
            }
        }
    }
}

#[test]
fn a_start_writes_what_is_not_known() {
    for change in CHANGES {
        for off in [false, true] {
            let mut bench = bench(3, false);
            if off {
                bench.ring.disable_kick(&bench.memory).unwrap();
            }
            change.make(&mut bench);
            let flags = bench.ring.addrs().used.0;
            bench.memory.poke16(flags, 1);
            bench.ring.start(&bench.memory).unwrap();
            assert_eq!(bench.memory.peek16(flags), 0, "{change:?}");
            assert!(bench.ring.kicks_are_on());
        }
    }
}

#[test]
fn a_start_that_fails_makes_nothing_known() {
    let mut bench = bench(3, false);
    bench.memory.fail_in(0);
    assert!(bench.ring.start(&bench.memory).is_err());
    assert!(!bench.ring.kicks_are_on());
    bench.ring.start(&bench.memory).unwrap();
    assert!(bench.ring.kicks_are_on());
}

#[test]
fn features_that_stay_change_nothing() {
    for event_idx in [false, true] {
        let mut bench = bench(3, event_idx);
        let _ = bench.ring.needs_call(&bench.memory);
        bench.driver.no_calls(&bench.memory);
        bench.ring.set_features(event_idx, true);
        bench.ring.set_features(event_idx, false);
        assert_eq!(bench.ring.kicks_are_on(), !event_idx);
        assert!(!bench.ring.needs_call(&bench.memory));
        bench.ring.disable_kick(&bench.memory).unwrap();
        bench.ring.set_features(event_idx, true);
        bench.memory.take_log();
        bench.ring.disable_kick(&bench.memory).unwrap();
        assert_eq!(bench.memory.take_log(), []);
    }
}

#[test]
fn a_kick_is_asked_for_in_the_way_that_counts_now() {
    for event_idx in [false, true] {
        for off in [false, true] {
            let mut bench = bench(0xffff, event_idx);
            // Flags and event both ask for no kick: the flag is set, and the event is far away.
            let flags = PLACE.used.0;
            bench.memory.map(flags + 4 + 8 * u64::from(SIZE), 2);
            bench.memory.map(PLACE.avail.0 + 4 + 2 * u64::from(SIZE), 2);
            if off {
                bench.ring.disable_kick(&bench.memory).unwrap();
            } else {
                let _ = bench.ring.enable_kick(&bench.memory).unwrap();
            }
            bench.ring.set_features(!event_idx, false);
            bench.driver.event_idx = !event_idx;
            bench.memory.poke16(flags, 1);
            let event = flags + 4 + 8 * u64::from(SIZE);
            bench.memory.poke16(event, 0x7000);
            assert!(!bench.ring.kicks_are_on());
            assert!(!bench.ring.enable_kick(&bench.memory).unwrap());
            bench.driver.add(&bench.memory, &[BUF]).unwrap();
            assert!(bench.driver.publish(&bench.memory), "kicks that are lost");
        }
    }
}

#[test]
fn a_decision_to_call_made_elsewhere_does_not_count() {
    for change in CHANGES {
        let mut bench = bench(3, true);
        let _ = bench.ring.needs_call(&bench.memory);
        bench.driver.no_calls(&bench.memory);
        assert!(!bench.ring.needs_call(&bench.memory));
        change.make(&mut bench);
        bench.driver.no_calls(&bench.memory);
        assert!(bench.ring.needs_call(&bench.memory), "{change:?}");
        assert!(!bench.ring.needs_call(&bench.memory));
    }
}

#[test]
fn a_moved_ring_is_read_at_the_new_place_only() {
    let mut bench = bench(0, false);
    let heads = [(); 6].map(|()| bench.offer(&[BUF]));
    assert_eq!(bench.head(), heads[0]);
    // The owner copies the ring elsewhere, and the driver there continues differently.
    let extents = bench.ring.extents().map(|len| len as usize);
    let places = [
        (PLACE.desc, NEW.desc),
        (PLACE.avail, NEW.avail),
        (PLACE.used, NEW.used),
    ];
    for ((old, new), len) in places.into_iter().zip(extents) {
        bench.memory.map(new.0, len);
        let bytes = bench.memory.peek(old.0, len);
        bench.memory.poke(new.0, &bytes);
        bench.memory.punch(old.0, len as u64);
    }
    bench.driver.addrs = NEW;
    bench.driver.avail = 1;
    bench
        .driver
        .write_desc(&bench.memory, 7, Buf::read(0x3000, 3).desc(None));
    for _ in 1..6 {
        bench.driver.push_head(&bench.memory, 7);
    }
    bench.ring.set_addrs(NEW);
    assert_eq!(bench.ring.addrs(), NEW);
    bench.memory.take_log();
    for _ in 1..6 {
        let (chain, segments) = bench.next().unwrap().unwrap();
        assert_eq!(chain.id, 7, "what was read ahead is forgotten");
        assert_eq!(segments, [segment(RAM + 0x3000, 3)]);
        bench.complete(7);
        assert!(bench.ring.needs_call(&bench.memory));
    }
    bench.ring.disable_kick(&bench.memory).unwrap();
    assert!(!bench.ring.enable_kick(&bench.memory).unwrap());
    for op in bench.memory.take_log() {
        for range in op.ranges() {
            assert!(range.start >= u128::from(NEW.desc.0), "{op:?}");
        }
    }
    assert_eq!(bench.memory.peek16(NEW.used.0 + 2), 5);
}

#[test]
fn entries_are_taken_up_to_the_index_of_the_new_place_only() {
    // Fewer chains than at the old place, as many, and more.
    for there in 0..=5u16 {
        for read_ahead in [false, true] {
            let mut bench = bench(0xfffe, false);
            for _ in 0..3 {
                bench.driver.add(&bench.memory, &[BUF]).unwrap();
            }
            bench.driver.publish(&bench.memory);
            if read_ahead {
                bench.head();
                bench.ring.rewind(1, 0);
            } else {
                assert!(bench.ring.has_work(&bench.memory).unwrap());
            }
            move_ring(&mut bench, 0xfffe);
            // The driver there has filled in entries that it has not made available yet.
            let heads = [(); 5].map(|()| bench.driver.add(&bench.memory, &[BUF]).unwrap());
            let index = 0xfffeu16.wrapping_add(there);
            bench.memory.poke16(NEW.avail.0 + 2, index);
            for head in &heads[..usize::from(there)] {
                assert_eq!(bench.head(), *head);
            }
            assert_eq!(bench.next(), Ok(None), "{there} are there");
            assert_eq!(bench.ring.base(), index);
        }
    }
}

#[test]
fn a_ring_that_was_started_again_looks_where_the_index_is() {
    let mut bench = bench(0, false);
    let heads = [(); 4].map(|()| bench.offer(&[BUF]));
    assert_eq!(bench.head(), heads[0]);
    // While the ring was stopped, another backend took the rest, and the index moved back to 1.
    bench.memory.poke16(PLACE.avail.0 + 2, 1);
    bench.ring.start(&bench.memory).unwrap();
    assert_eq!(bench.next(), Ok(None));
}

#[test]
fn a_smaller_ring_has_no_more_chains_than_entries() {
    let mut bench = bench(0, false);
    for _ in 0..SIZE {
        bench.offer(&[BUF]);
    }
    assert!(bench.ring.has_work(&bench.memory).unwrap());
    assert!(bench.ring.set_size(4));
    assert!(bench.next().is_err(), "the index is not one of this ring");
    assert!(!bench.ring.kicks_are_on(), "the event is elsewhere");
}

#[test]
fn a_kick_awaited_at_a_new_place_is_asked_for_there() {
    for event_idx in [false, true] {
        for moved in [0, 1] {
            let mut bench = bench(7, event_idx);
            bench.ring.disable_kick(&bench.memory).unwrap();
            assert_eq!(bench.next(), Ok(None));
            // The index there may or may not equal the one that the device knows.
            move_ring(&mut bench, 7 + moved);
            assert_eq!(bench.ring.await_kick(&bench.memory), Ok(moved != 0));
            assert_eq!(bench.ring.await_kick(&bench.memory), Ok(false));
            let log = bench.memory.take_log();
            for range in log.iter().flat_map(Op::ranges) {
                assert!(range.start >= u128::from(NEW.avail.0), "{log:?}");
            }
            bench.driver.add(&bench.memory, &[BUF]).unwrap();
            assert!(bench.driver.publish(&bench.memory));
        }
    }
}

/// A decision whether to call is about what was used since the last, of which nothing is known any more
/// when the owner has started the ring, or changed where it is or what its features are.
fn after_a_change_the_first_decision_is_to_call<F: Format>() {
    for change in 0..4 {
        let setup = Setup {
            size: SIZE,
            index: 3,
            event_idx: true,
            ..Setup::default()
        };
        let mut bench = Rig::<F>::with_room(setup, &[NEW]);
        let id = bench.offer(&[BUF]);
        assert_eq!(bench.head(), id);
        bench.complete(id);
        bench.driver.poll(&bench.memory).unwrap();
        let _ = bench.ring.needs_call(&bench.memory);
        // For the one that comes next.
        bench.driver.want_calls(&bench.memory, 0);
        assert!(!bench.ring.needs_call(&bench.memory));
        match change {
            0 => bench.ring.start(&bench.memory).unwrap(),
            1 => bench.ring.forget_memory(),
            2 => {
                bench.ring.set_features(false, false);
                bench.ring.set_features(true, false);
            }
            _ => {
                bench.ring.set_addrs(NEW);
                bench.driver.move_to(NEW, true);
                bench.driver.want_calls(&bench.memory, 0);
            }
        }
        assert!(bench.ring.needs_call(&bench.memory), "{change}");
        assert!(!bench.ring.needs_call(&bench.memory));
    }
}

/// Of a wish for kicks that was stated elsewhere, or in another way, nothing is known either.
fn after_a_change_a_kick_is_asked_for_anew<F: Format>() {
    for event_idx in [false, true] {
        for change in 0..3 {
            for off in [false, true] {
                let setup = Setup {
                    size: SIZE,
                    index: 7,
                    event_idx,
                    ..Setup::default()
                };
                let mut bench = Rig::<F>::with_room(setup, &[NEW]);
                if off {
                    bench.ring.disable_kick(&bench.memory).unwrap();
                } else {
                    assert!(!bench.ring.enable_kick(&bench.memory).unwrap());
                }
                let (place, now) = match change {
                    0 => {
                        bench.ring.forget_memory();
                        (PLACE, event_idx)
                    }
                    1 => {
                        bench.ring.set_features(!event_idx, false);
                        (PLACE, !event_idx)
                    }
                    _ => {
                        bench.ring.set_addrs(NEW);
                        // The driver there has gone as far.
                        bench.driver = F::Driver::new(&bench.memory, NEW, SIZE, 7, event_idx);
                        (NEW, event_idx)
                    }
                };
                bench.driver.move_to(place, now);
                bench.driver.ask_for_no_kick(&bench.memory);
                assert!(!bench.ring.kicks_are_on(), "{change}");
                bench.memory.take_log();
                bench.ring.disable_kick(&bench.memory).unwrap();
                // With event indexes a split ring only leaves the event behind.
                let stores = bench.memory.take_log().len();
                let stored = F::STORES_OFF || !now;
                assert_eq!(stores, usize::from(stored), "{change}");
                assert!(!bench.ring.enable_kick(&bench.memory).unwrap());
                bench.driver.add(&bench.memory, &[BUF]).unwrap();
                assert!(
                    bench.driver.publish(&bench.memory),
                    "{change}: a kick is lost"
                );
            }
        }
    }
}

for_both_formats!(
    after_a_change_the_first_decision_is_to_call,
    after_a_change_a_kick_is_asked_for_anew,
);
