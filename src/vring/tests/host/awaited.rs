// SPDX-License-Identifier: GPL-2.0

//! A queue that has stopped at a fault of the guest is kicked for what the driver publishes next.
//!
//! The tests of indexes are those of a split ring; `packed::events` has those of a packed ring.

use vring::{Fault, GetWork, KickControl, Unmapped, UserAddr};

use crate::for_both_formats;
use crate::mock::{Bench, Buf, DriverSide, Format, Op, Rig, SetUp, Setup, PLACE};

const BUF: Buf = Buf::read(0x1000, 64);

fn bench(index: u16, event_idx: bool) -> Bench {
    Bench::with(Setup {
        size: 8,
        index,
        event_idx,
        ..Setup::default()
    })
}

/// Writes an index in place of the driver's.
fn put_index(bench: &Bench, index: u16) {
    bench.memory.poke16(PLACE.avail.0 + 2, index);
}

/// Whether a driver that follows the specification kicks when it moves the index from `old` to
/// `new`.
fn kicks(bench: &mut Bench, old: u16, new: u16) -> bool {
    bench.driver.published = old;
    bench.driver.avail = new;
    bench.driver.publish(&bench.memory)
}

/// A ring with kicks off and two chains available, whose device has stopped at the second.
fn stopped(event_idx: bool, index: u16) -> Bench {
    let mut bench = bench(index, event_idx);
    bench.ring.disable_kick(&bench.memory).unwrap();
    for _ in 0..3 {
        bench.driver.add(&bench.memory, &[BUF]).unwrap();
    }
    let event = PLACE.used.0 + 4 + 8 * 8;
    if event_idx {
        bench.memory.poke16(event, index.wrapping_sub(1));
    }
    assert!(!bench.driver.publish(&bench.memory));
    bench.head();
    bench.head();
    bench.ring.rewind(1, 0);
    bench.memory.take_log();
    bench
}

#[test]
fn a_queue_that_stopped_is_kicked_for_any_move_of_the_index() {
    for event_idx in [false, true] {
        // Indexes around the bounds, and some between.
        let far = (0..0xffff).step_by(1023);
        for step in (1..12).chain(far.skip(1)).chain(0xfff4..=0xffff) {
            let mut bench = stopped(event_idx, 0xfffd);
            assert_eq!(bench.ring.await_kick(&bench.memory), Ok(false));
            let old = bench.driver.published;
            assert!(kicks(&mut bench, old, old.wrapping_add(step)), "{step}");
            // Any other index is reported once.
            assert_eq!(bench.ring.await_kick(&bench.memory), Ok(true));
            assert_eq!(bench.ring.await_kick(&bench.memory), Ok(false));
        }
    }
}

#[test]
fn what_comes_while_a_kick_is_awaited_is_seen() {
    for event_idx in [false, true] {
        // The index moves ahead, out of bounds, or one back; before each access in turn.
        for step in [1u16, 100, 0xffff] {
            for access in 0..3 {
                let mut bench = stopped(event_idx, 0xfffe);
                let published = bench.driver.published;
                let index = published.wrapping_add(step);
                let mut seen = 0;
                bench.memory.on_access(move |memory, _| {
                    if seen == access {
                        memory.poke16(PLACE.avail.0 + 2, index);
                    }
                    seen += 1;
                });
                assert_eq!(bench.ring.await_kick(&bench.memory), Ok(true));
                bench.memory.leave_alone();
                assert_eq!(bench.ring.await_kick(&bench.memory), Ok(false));
                assert!(kicks(&mut bench, index, published.wrapping_add(2)));
            }
        }
    }
}

#[test]
fn a_kick_is_awaited_with_any_index() {
    for event_idx in [false, true] {
        for bad in [9, 10, 0x100, 0x8000, 0xffff] {
            let mut bench = bench(0, event_idx);
            bench.ring.disable_kick(&bench.memory).unwrap();
            put_index(&bench, bad);
            let fault = Fault::AvailIndex {
                last: 0,
                avail: bad,
            };
            assert_eq!(bench.next(), Err(fault));
            assert_eq!(bench.ring.await_kick(&bench.memory), Ok(false), "{bad}");
            assert_eq!(bench.next(), Err(fault), "nothing has changed");
            assert_eq!(bench.ring.await_kick(&bench.memory), Ok(false));
            // Another invalid index is reported once.
            put_index(&bench, bad.wrapping_sub(1) | 0x4000);
            assert_eq!(bench.ring.await_kick(&bench.memory), Ok(true));
            assert_eq!(bench.ring.await_kick(&bench.memory), Ok(false));
            put_index(&bench, bad);
            assert_eq!(bench.ring.await_kick(&bench.memory), Ok(true));
            assert_eq!(bench.ring.await_kick(&bench.memory), Ok(false));
            // The driver returns to a valid index from there, or without ever having stored that
            // index itself.
            for good in 1..=8 {
                assert!(kicks(&mut bench, bad, good), "{bad} to {good}");
                assert!(kicks(&mut bench, 0, good), "{good}");
                put_index(&bench, bad);
            }
            bench.driver.avail = 0;
            let head = bench.offer(&[BUF]);
            assert_eq!(bench.head(), head);
        }
    }
}

#[test]
fn a_kick_is_awaited_behind_chains_that_were_taken() {
    // The index turns invalid while taken chains are rewound: the index to continue from is not the
    // device's position.
    for event_idx in [false, true] {
        let mut bench = bench(0xfffa, event_idx);
        bench.ring.disable_kick(&bench.memory).unwrap();
        let heads = [(); 3].map(|()| bench.offer(&[BUF]));
        assert_eq!(heads.map(|_| bench.head()), heads);
        put_index(&bench, 0x1000);
        assert!(bench.next().is_err());
        bench.ring.rewind(3, 0);
        assert_eq!(bench.ring.await_kick(&bench.memory), Ok(false));
        for good in 4..=8 {
            let good = 0xfffau16.wrapping_add(good);
            for old in [0x1000, 0xfffd] {
                assert!(kicks(&mut bench, old, good), "{old} to {good}");
            }
        }
    }
}

#[test]
fn awaiting_a_kick_disturbs_nothing() {
    for event_idx in [false, true] {
        for put in [0u16, 1, 50, 0xffff] {
            let mut bench = stopped(event_idx, 5);
            let index = bench.driver.published.wrapping_add(put);
            put_index(&bench, index);
            let drained = bench.ring.is_drained();
            let _ = bench.ring.await_kick(&bench.memory).unwrap();
            assert_eq!(bench.ring.is_drained(), drained);
            bench.memory.take_log();
            // The two chains that were read ahead are taken without any access.
            assert_eq!(bench.ring.base(), 6);
            assert_eq!([(); 2].map(|()| bench.head()), [1, 2]);
            assert_eq!(bench.memory.take_log(), []);
            assert!(bench.ring.is_drained());
        }
    }
}

#[test]
fn kicks_are_on_when_awaited() {
    for event_idx in [false, true] {
        let mut bench = stopped(event_idx, 0);
        bench.memory.take_log();
        let _ = bench.ring.await_kick(&bench.memory).unwrap();
        let (at, value) = if event_idx { (4 + 8 * 8, 3) } else { (0, 0) };
        let wish = Op::Store(UserAddr(PLACE.used.0 + at), value);
        let expect = [wish, Op::Barrier, bench.index_load()];
        assert_eq!(bench.memory.take_log(), expect);
        assert_eq!(bench.ring.kicks_are_on(), !event_idx);
        bench.ring.disable_kick(&bench.memory).unwrap();
        assert_eq!(bench.memory.peek16(PLACE.used.0), u16::from(!event_idx));
    }
}

#[test]
fn awaiting_fails_with_memory_only_and_can_be_repeated() {
    for event_idx in [false, true] {
        let wish = PLACE.used.0 + if event_idx { 4 + 8 * 8 } else { 0 };
        for hole in [wish, PLACE.avail.0 + 2] {
            let mut bench = stopped(event_idx, 0);
            bench.memory.punch(hole, 2);
            let fault = Fault::Unmapped(Unmapped(UserAddr(hole)));
            for _ in 0..2 {
                assert_eq!(bench.ring.await_kick(&bench.memory), Err(fault));
                let written = hole != wish;
                assert_eq!(bench.ring.kicks_are_on(), written && !event_idx);
            }
            bench.memory.mend();
            bench.driver.add(&bench.memory, &[BUF]).unwrap();
            bench.driver.publish(&bench.memory);
            assert_eq!(bench.ring.await_kick(&bench.memory), Ok(true));
            assert_eq!(bench.ring.await_kick(&bench.memory), Ok(false));
        }
    }
}

/// A ring with kicks off and three chains available, whose device has stopped at the second.
fn stopped_at_second<F: Format>(event_idx: bool, index: u16) -> Rig<F> {
    let setup = Setup {
        size: 8,
        index,
        event_idx,
        ..Setup::default()
    };
    let mut rig = Rig::<F>::with_room(setup, &[]);
    rig.ring.disable_kick(&rig.memory).unwrap();
    rig.driver.ask_for_no_kick(&rig.memory);
    for _ in 0..3 {
        rig.driver.add(&rig.memory, &[BUF]).unwrap();
    }
    assert!(!rig.driver.publish(&rig.memory));
    rig.head();
    look(&mut rig);
    rig
}

/// The device looks at the next chain, and stops there.
fn look<F: Format>(rig: &mut Rig<F>) {
    rig.head();
    rig.ring.rewind(1, 1);
}

/// The device awaits a kick, and looks again if it is told to; that happens only once.
fn wait<F: Format>(rig: &mut Rig<F>) {
    if rig.ring.await_kick(&rig.memory).unwrap() {
        look(rig);
        assert_eq!(rig.ring.await_kick(&rig.memory), Ok(false));
    }
}

fn whatever_is_published_causes_a_kick<F: Format>() {
    for event_idx in [false, true] {
        // Around the ends of the ring and of a split ring's index.
        for index in (0..16).chain(0xfff0..=0xffff) {
            for chains in [&[1usize][..], &[2], &[5], &[1, 1, 1], &[3, 2]] {
                let mut rig = stopped_at_second::<F>(event_idx, index);
                wait(&mut rig);
                for bufs in chains {
                    let added = rig.driver.add(&rig.memory, &vec![BUF; *bufs]);
                    added.expect("free descriptors");
                }
                assert!(rig.driver.publish(&rig.memory), "{chains:?} from {index}");
            }
        }
    }
}

fn what_came_before_a_kick_is_awaited_is_seen<F: Format>() {
    for event_idx in [false, true] {
        for index in [0, 4, 0xfffe] {
            let mut rig = stopped_at_second::<F>(event_idx, index);
            // Kicks are off, and the device has found the fault in a chain that it had read ahead.
            let id = rig.driver.add(&rig.memory, &[BUF]).unwrap();
            assert!(!rig.driver.publish(&rig.memory));
            assert_eq!(rig.ring.await_kick(&rig.memory), Ok(true));
            look(&mut rig);
            // There is nothing new, for the next chain or behind it.
            assert_eq!(rig.ring.await_kick(&rig.memory), Ok(false));
            assert_eq!([(); 3].map(|()| rig.head())[2], id);
            assert_eq!(rig.next(), Ok(None));
        }
    }
}

fn awaiting_fails_with_the_device_area_and_can_be_repeated<F: Format>() {
    for event_idx in [false, true] {
        let mut rig = stopped_at_second::<F>(event_idx, 0);
        let [.., used] = rig.ring.extents();
        rig.memory.punch(PLACE.used.0, used);
        for _ in 0..2 {
            let fault = rig.ring.await_kick(&rig.memory);
            assert!(matches!(fault, Err(Fault::Unmapped(_))), "{fault:?}");
            assert!(!rig.ring.kicks_are_on());
        }
        rig.memory.mend();
        rig.driver.add(&rig.memory, &[BUF]).unwrap();
        assert!(!rig.driver.publish(&rig.memory));
        assert_eq!(rig.ring.await_kick(&rig.memory), Ok(true));
        assert_eq!(rig.ring.kicks_are_on(), !event_idx);
        look(&mut rig);
        assert_eq!(rig.ring.await_kick(&rig.memory), Ok(false));
        rig.driver.add(&rig.memory, &[BUF]).unwrap();
        assert!(rig.driver.publish(&rig.memory));
    }
}

for_both_formats!(
    whatever_is_published_causes_a_kick,
    what_came_before_a_kick_is_awaited_is_seen,
    awaiting_fails_with_the_device_area_and_can_be_repeated,
);
