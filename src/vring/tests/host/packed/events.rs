// SPDX-License-Identifier: GPL-2.0

//! The driver's and the device's event suppression structure.

use vring::{CompleteWork, GetWork, KickControl, PackedRing, Position, UserAddr};

use super::{event, put_wish, wish, with_events, Bench, BUF};
use crate::mock::packed::packed_bytes;
use crate::mock::{Buf, DriverSide, Op, Setup, PLACE};

#[test]
fn events_are_told_of_by_value() {
    for event_idx in [false, true] {
        for (flags, call) in [
            (0, true),
            (1, false),
            (2, !event_idx),
            (3, true),
            (0x8001, true),
            (0x8002, true),
            (0xffff, true),
        ] {
            let mut bench = Bench::with(Setup {
                size: 8,
                event_idx,
                ..Setup::default()
            });
            let _ = bench.ring.needs_call(&bench.memory);
            let id = bench.offer(&[BUF]);
            assert_eq!(bench.head(), id);
            bench.complete(id);
            // The event is not among the used descriptors.
            put_wish(&bench, event(flags, Position::START.advance(8, 5)));
            assert_eq!(bench.ring.needs_call(&bench.memory), call, "{flags:#x}");
        }
    }
}

#[test]
fn a_wish_is_for_a_range_of_descriptors() {
    for size in [1u16, 2, 3, 8] {
        for start in 0..2 * size {
            for groups in [&[1u16][..], &[2], &[1, 3], &[3, 1, 2]] {
                let moved: u16 = groups.iter().sum();
                if moved > size {
                    continue;
                }
                for ahead in 0..2 * size {
                    let mut bench = with_events(size, start);
                    let used: Vec<_> = groups
                        .iter()
                        .map(|slots| {
                            let id = bench.offer(&vec![BUF; usize::from(*slots)]);
                            assert_eq!(bench.head(), id);
                            PackedRing::used_entry(id, *slots, 0)
                        })
                        .collect();
                    bench.ring.complete(&bench.memory, &used).unwrap();
                    let old = Position::START.advance(size, start);
                    put_wish(&bench, event(2, old.advance(size, ahead)));
                    let call = ahead < moved || moved == size;
                    let found = bench.ring.needs_call(&bench.memory);
                    assert_eq!(found, call, "{ahead} from {start} by {groups:?} of {size}");
                    // The event is passed only once.
                    let again = bench.ring.needs_call(&bench.memory);
                    assert!(!again);
                }
            }
        }
    }
}

#[test]
fn a_whole_ring_passes_any_event() {
    for count in [3u16, 4, 5, 8, 9, 17] {
        let mut bench = with_events(4, 1);
        for _ in 0..count {
            let id = bench.offer(&[BUF]);
            assert_eq!(bench.head(), id);
            bench.complete(id);
            bench.driver.poll(&bench.memory).unwrap();
        }
        // The event is the next used descriptor.
        put_wish(&bench, event(2, bench.driver.last_used));
        assert_eq!(bench.ring.needs_call(&bench.memory), count >= 4, "{count}");
    }
}

#[test]
fn events_outside_the_ring_are_passed() {
    for offset in [4u16, 5, 0x7fff] {
        for wrap in [0, 0x8000] {
            let mut bench = with_events(4, 0);
            let id = bench.offer(&[BUF]);
            assert_eq!(bench.head(), id);
            bench.complete(id);
            put_wish(&bench, event(2, Position::from_bits(offset | wrap)));
            assert!(bench.ring.needs_call(&bench.memory));
        }
    }
}

#[test]
fn an_event_is_accessed_as_one_word() {
    let mut bench = with_events(8, 3);
    bench.memory.take_log();
    assert!(!bench.ring.enable_kick(&bench.memory).unwrap());
    let _ = bench.ring.needs_call(&bench.memory);
    let here = Position::START.advance(8, 3);
    let expect = [
        Op::StoreEvent(PLACE.used, event(2, here)),
        Op::Barrier,
        Op::LoadAvailable {
            addr: UserAddr(bench.driver.desc_at(here)),
            wrap: true,
            count: 1,
        },
        Op::Barrier,
        Op::LoadEvent(PLACE.avail),
    ];
    assert_eq!(bench.memory.take_log(), expect);
}

#[test]
fn kicks_are_asked_for_behind_what_was_seen() {
    let mut bench = with_events(300, 290);
    let ids: Vec<_> = (0..100).map(|_| bench.offer(&[BUF])).collect();
    for id in ids {
        assert_eq!(bench.head(), id);
    }
    assert_eq!(bench.next(), Ok(None));
    bench.ring.rewind(100, 100);
    assert!(!bench.ring.enable_kick(&bench.memory).unwrap(), "no news");
    assert_eq!(wish(&bench), event(2, bench.driver.avail));
    bench.driver.add(&bench.memory, &[BUF, BUF]).unwrap();
    assert!(bench.driver.publish(&bench.memory));
    assert!(bench.ring.enable_kick(&bench.memory).unwrap());
}

#[test]
fn no_kick_is_wanted_until_the_device_has_nothing_to_do() {
    for event_idx in [false, true] {
        let mut bench = Bench::with(Setup {
            size: 3,
            event_idx,
            ..Setup::default()
        });
        let pass = |bench: &mut Bench, chains: u16, kick: bool| {
            for _ in 0..chains {
                let id = bench.driver.add(&bench.memory, &[BUF]).unwrap();
                assert_eq!(bench.driver.publish(&bench.memory), kick);
                assert_eq!(bench.head(), id);
                bench.complete(id);
                bench.driver.poll(&bench.memory).unwrap();
            }
        };
        // Since its start, it wants all kicks.
        pass(&mut bench, 2, true);
        bench.ring.disable_kick(&bench.memory).unwrap();
        pass(&mut bench, 20, false);
        // Once it has been idle, the first kick at least; and none later, however often the ring
        // comes round.
        assert!(!bench.ring.enable_kick(&bench.memory).unwrap());
        pass(&mut bench, 1, true);
        bench.ring.disable_kick(&bench.memory).unwrap();
        pass(&mut bench, 20, false);
        // Since it stopped at a chain, all again, until that chain has been taken.
        assert!(bench.ring.await_kick(&bench.memory).unwrap());
        bench.ring.disable_kick(&bench.memory).unwrap();
        pass(&mut bench, 2, true);
        bench.memory.take_log();
        bench.ring.disable_kick(&bench.memory).unwrap();
        bench.ring.disable_kick(&bench.memory).unwrap();
        assert_eq!(bench.memory.take_log().len(), 1, "it is stored once");
        pass(&mut bench, 20, false);
    }
}

#[test]
fn an_awaited_kick_stays_on_until_the_chain_is_taken() {
    for event_idx in [false, true] {
        let mut bench = Bench::with(Setup {
            size: 8,
            index: 6,
            event_idx,
            ..Setup::default()
        });
        bench.ring.disable_kick(&bench.memory).unwrap();
        bench.offer(&[Buf::read(u64::MAX, 9)]);
        bench.offer(&[BUF]);
        for _ in 0..3 {
            assert!(bench.next().is_err());
            let first = bench.ring.await_kick(&bench.memory).unwrap();
            assert_eq!(wish(&bench), 0, "all are told of");
            if first {
                assert!(bench.next().is_err());
                assert!(!bench.ring.await_kick(&bench.memory).unwrap());
            }
            // Rounds that find no work.
            bench.ring.disable_kick(&bench.memory).unwrap();
            assert_eq!(wish(&bench), 0);
            assert_eq!(bench.ring.kicks_are_on(), !event_idx);
        }
        // The driver corrects the descriptor: the device does not rely on what it had read.
        let good = packed_bytes(BUF.desc(None), 2, true);
        let place = bench.driver.desc_at(Position::from_bits(6));
        bench.memory.poke(place, &good);
        assert_eq!(bench.head(), 2);
        bench.ring.disable_kick(&bench.memory).unwrap();
        assert!(!bench.ring.kicks_are_on());
        assert_eq!(wish(&bench), event(1, Position::from_bits(0)));
        // After a rewind the queue may stop at the chain again.
        bench.ring.rewind(1, 1);
        assert!(bench.ring.await_kick(&bench.memory).unwrap());
        assert!(!bench.ring.await_kick(&bench.memory).unwrap());
        assert_eq!(wish(&bench), 0);
    }
}
