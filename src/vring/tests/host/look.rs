// SPDX-License-Identifier: GPL-2.0

//! What a look at a ring shows, and that it changes nothing.

use vring::{Fault, GetWork, KickControl, Look, Position, Unmapped};

use crate::for_both_formats;
use crate::mock::{Bench, Buf, DriverSide, Format, Packed, Rig, Setup, PLACE};

const BUF: Buf = Buf::read(0x1000, 64);

fn rig<F: Format>(size: u16, index: u16, event_idx: bool) -> Rig<F> {
    Rig::with(Setup {
        size,
        index,
        event_idx,
        ..Setup::default()
    })
}

/// An index as a look shows it: that of a packed ring has no wrap counter.
fn shown<F: Format>(index: u16) -> u16 {
    match F::WRITES_DESCS {
        true => Position::from_bits(index).offset(),
        false => index,
    }
}

/// The place of the next chain, as the owner reads it.
fn base<F: Format>(rig: &Rig<F>) -> u16 {
    use crate::mock::SetUp;
    // The lower half.
    shown::<F>(SetUp::base(&rig.ring) as u16)
}

fn both_sides_are_shown<F: Format>() {
    for (size, start) in [(1, 0), (4, 0), (8, 7), (64, 70), (256, 255)] {
        let mut rig = rig::<F>(size, start, false);
        for offered in 0..=size {
            let offer = rig.ring.offer(&rig.memory).unwrap();
            assert_eq!(offer.index, Some(shown::<F>(rig.driver.published())));
            assert_eq!(offer.available, offered != 0);
            assert_eq!(rig.ring.progress().taken, base(&rig));
            if offered < size {
                rig.offer(&[BUF]);
            }
        }
        let (before, log) = (rig.ring.progress(), rig.memory.take_log());
        let again = (rig.ring.offer(&rig.memory), rig.ring.progress());
        assert_eq!(again.1, before, "a look changes nothing");
        assert!(!log.is_empty() && again.0.unwrap().available);
        for left in (0..size).rev() {
            let head = rig.head();
            assert_eq!(rig.ring.progress().taken, base(&rig));
            assert_eq!(rig.ring.offer(&rig.memory).unwrap().available, left != 0);
            let used = rig.ring.progress().used;
            rig.complete(head);
            assert_ne!((rig.ring.progress().used, size), (used, 4), "it moves on");
        }
        let Some(index) = rig.ring.offer(&rig.memory).unwrap().index else {
            panic!("nothing is unmapped");
        };
        let end = rig.ring.progress();
        assert_eq!([end.taken, end.seen, end.used], [index; 3]);
    }
}

fn what_was_read_ahead_is_seen<F: Format>() {
    let mut rig = rig::<F>(8, 0, false);
    for _ in 0..3 {
        rig.offer(&[BUF]);
    }
    let before = rig.ring.progress();
    assert_eq!(before.taken, before.seen);
    assert!(rig.ring.has_work(&rig.memory).unwrap());
    let after = rig.ring.progress();
    assert_eq!((after.taken, after.seen), (before.taken, before.taken + 3));
}

fn a_request_for_kicks_is_shown<F: Format>() {
    for event_idx in [false, true] {
        let mut rig = rig::<F>(4, 0, event_idx);
        assert_eq!(rig.ring.progress().wants_kicks, Some(true));
        rig.ring.disable_kick(&rig.memory).unwrap();
        assert_eq!(rig.ring.progress().wants_kicks, Some(false));
        assert_eq!(rig.ring.enable_kick(&rig.memory), Ok(false));
        assert_eq!(rig.ring.progress().wants_kicks, Some(true));
        rig.memory.fail_in(0);
        assert!(rig.ring.await_kick(&rig.memory).is_err());
        assert_eq!(rig.ring.progress().wants_kicks, None);
    }
}

fn a_request_for_calls_is_shown<F: Format>() {
    for event_idx in [false, true] {
        for start in [0, 3, 5] {
            let mut rig = rig::<F>(4, start, event_idx);
            rig.driver.no_calls(&rig.memory);
            assert_eq!(rig.ring.wants_calls(&rig.memory), Ok(false));
            rig.driver.want_calls(&rig.memory, 0);
            assert_eq!(rig.ring.wants_calls(&rig.memory), Ok(true));
            if event_idx {
                // The event is behind the device as soon as it has passed it.
                rig.offer(&[BUF]);
                let head = rig.head();
                rig.complete(head);
                assert_eq!(rig.ring.wants_calls(&rig.memory), Ok(false));
            }
        }
    }
}

fn memory_that_cannot_be_read_is_unknown<F: Format>() {
    let rig = rig::<F>(4, 0, false);
    rig.memory.fail_in(0);
    let unmapped = rig.ring.offer(&rig.memory);
    assert!(matches!(unmapped, Err(Fault::Unmapped(Unmapped(_)))));
    rig.memory.fail_in(0);
    let unmapped = rig.ring.wants_calls(&rig.memory);
    assert!(matches!(unmapped, Err(Fault::Unmapped(Unmapped(_)))));
}

for_both_formats!(
    both_sides_are_shown,
    what_was_read_ahead_is_seen,
    a_request_for_kicks_is_shown,
    a_request_for_calls_is_shown,
    memory_that_cannot_be_read_is_unknown,
);

#[test]
fn an_index_out_of_bounds_is_shown_as_it_is() {
    let bench = Bench::new(4);
    bench.memory.poke16(PLACE.avail.0 + 2, 0x1234);
    let offer = bench.ring.offer(&bench.memory).unwrap();
    assert_eq!((offer.index, offer.available), (Some(0x1234), true));
}

#[test]
fn a_packed_ring_is_looked_at_as_far_as_it_can_be_read() {
    let mut rig = rig::<Packed>(64, 0, false);
    for _ in 0..64 {
        rig.offer(&[BUF]);
    }
    rig.memory.punch(PLACE.desc.0 + 20 * 16, 16);
    let offer = rig.ring.offer(&rig.memory).unwrap();
    assert_eq!((offer.index, offer.available), (None, true));
}
