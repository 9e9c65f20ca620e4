// SPDX-License-Identifier: GPL-2.0

//! The driver's half against a device that each test plays by hand.

use super::*;

const SIZE: u16 = 8;

fn ring(events: bool, base: u16) -> (Arc<GuestMemory>, SplitLayout, SplitDriver) {
    let features = if events { feature::EVENT_IDX } else { 0 };
    ring_with(features, base)
}

fn ring_with(features: u64, base: u16) -> (Arc<GuestMemory>, SplitLayout, SplitDriver) {
    let memory = Arc::new(GuestMemory::new(&[(0x1000, 1 << 16)]).expect("memory"));
    let layout = SplitLayout::alloc(&memory, SIZE).expect("room for a ring");
    let driver = SplitDriver::new(memory.clone(), layout, features, base);
    (memory, layout, driver)
}

fn segment() -> Segment {
    Segment {
        addr: 0x2000,
        len: 64,
        writable: false,
    }
}

/// Plays the device: returns chain `id`.
fn give_back(memory: &GuestMemory, layout: &SplitLayout, id: u32) {
    let index = layout.used_index(memory);
    let slot = layout.used + 4 + 8 * u64::from(index % SIZE);
    memory.write(slot, &id.to_le_bytes());
    memory.write(slot + 4, &[0; 4]);
    memory.store_u16(layout.used + 2, index.wrapping_add(1), Ordering::Release);
}

#[test]
fn chains_come_back_over_the_wrap() {
    let (memory, layout, mut driver) = ring(false, 65533);
    for token in 0..10 {
        driver
            .add(&[segment(), segment()], None, token)
            .expect("room");
        assert!(driver.publish());
        let at = layout.avail + 4 + 2 * u64::from(layout.used_index(&memory) % SIZE);
        let head = memory.load_u16(at, Ordering::Relaxed);
        give_back(&memory, &layout, u32::from(head));
        assert_eq!(driver.poll().expect("fair"), Some(Used { token, len: 0 }));
        assert_eq!(driver.free(), usize::from(SIZE));
    }
    assert_eq!(driver.base(), u32::from(65533u16.wrapping_add(10)));
}

#[test]
fn a_chain_given_back_twice_is_noticed() {
    let (memory, layout, mut driver) = ring(false, 0);
    driver.add(&[segment()], None, 1).expect("room");
    driver.add(&[segment()], None, 2).expect("room");
    let _ = driver.publish();
    let head = memory.load_u16(layout.avail + 4, Ordering::Relaxed);
    give_back(&memory, &layout, u32::from(head));
    give_back(&memory, &layout, u32::from(head));
    assert!(driver.poll().expect("fair").is_some());
    assert!(driver.poll().is_err());
}

#[test]
fn more_chains_than_are_out_are_noticed() {
    let (memory, layout, mut driver) = ring(false, 0);
    driver.add(&[segment()], None, 1).expect("room");
    let _ = driver.publish();
    memory.store_u16(layout.used + 2, 2, Ordering::Release);
    assert!(driver.poll().is_err());
}

#[test]
fn a_kick_is_due_when_the_event_index_is_passed() {
    let (memory, layout, mut driver) = ring(true, 65535);
    let event = layout.used + 4 + 8 * u64::from(SIZE);
    for (wanted, due) in [(65535, true), (65535, false), (2, false), (2, true)] {
        memory.store_u16(event, wanted, Ordering::Relaxed);
        driver.add(&[segment()], None, 0).expect("room");
        assert_eq!(driver.publish(), due, "event index {wanted}");
    }
    assert!(!driver.publish(), "nothing new");
}

#[test]
fn a_call_wish_that_comes_late_is_told() {
    let (memory, layout, mut driver) = ring(true, 65534);
    for token in 0..3 {
        driver.add(&[segment()], None, token).expect("room");
    }
    let _ = driver.publish();
    assert!(!driver.arm_call(1));
    memory.store_u16(layout.used + 2, 0, Ordering::Release);
    assert!(driver.arm_call(2));
    assert!(!driver.arm_call(3));
}

#[test]
fn a_full_ring_refuses() {
    let (_memory, _layout, mut driver) = ring(false, 0);
    let chain = vec![segment(); 9];
    assert!(driver.add(&chain, None, 0).is_err());
    assert!(driver.add(&chain[..8], None, 0).is_ok());
    assert!(driver.add(&chain[..1], None, 0).is_err());
}

/// Plays the device in order: the next `chains` are complete, `id` the last of them.
fn give_back_group(memory: &GuestMemory, layout: &SplitLayout, chains: u16, id: u32, len: u32) {
    let index = layout.used_index(memory);
    let slot = layout.used + 4 + 8 * u64::from(index % SIZE);
    memory.write(slot, &id.to_le_bytes());
    memory.write(slot + 4, &len.to_le_bytes());
    let index = index.wrapping_add(chains);
    memory.store_u16(layout.used + 2, index, Ordering::Release);
}

fn buffer() -> Segment {
    Segment {
        writable: true,
        ..segment()
    }
}

#[test]
fn in_order_chains_lie_one_behind_the_other() {
    for base in [0, 5, 65533] {
        let (memory, layout, mut driver) = ring_with(feature::IN_ORDER, base);
        let mut next = base % SIZE;
        for token in 0..40u16 {
            // Three descriptors each, so that every way over the end comes up.
            driver
                .add(&[segment(); 3], None, u32::from(token))
                .expect("room");
            let _ = driver.publish();
            let index = layout.used_index(&memory);
            let at = layout.avail + 4 + 2 * u64::from(index % SIZE);
            assert_eq!(memory.load_u16(at, Ordering::Relaxed), next);
            for step in 0..2 {
                let here = layout.desc + 16 * u64::from((next + step) % SIZE);
                let linked = memory.load_u16(here + 14, Ordering::Relaxed);
                assert_eq!(linked, (next + step + 1) % SIZE);
            }
            give_back_group(&memory, &layout, 1, u32::from(next), 0);
            let used = driver.poll().expect("fair");
            assert_eq!(used.map(|used| used.token), Some(u32::from(token)));
            next = (next + 3) % SIZE;
        }
    }
}

#[test]
fn an_element_stands_for_the_chains_before_it() {
    let (memory, layout, mut driver) = ring_with(feature::IN_ORDER, 65534);
    let mut head = 65534 % SIZE;
    for round in 0..20 {
        for token in 0..4 {
            driver.add(&[buffer()], None, token).expect("room");
        }
        let _ = driver.publish();
        let last = |chains: u16| u32::from((head + chains - 1) % SIZE);
        give_back_group(&memory, &layout, 3, last(3), 7);
        give_back_group(&memory, &layout, 1, last(4), round);
        assert_eq!((driver.ready(), driver.used_entries()), (4, 2));
        for (token, len) in [(0, 64), (1, 64), (2, 7), (3, round)] {
            assert_eq!(driver.poll().expect("fair"), Some(Used { token, len }));
        }
        assert_eq!(driver.poll().expect("fair"), None);
        assert_eq!(driver.free(), usize::from(SIZE));
        head = (head + 4) % SIZE;
    }
}

#[test]
fn an_index_that_does_not_fit_its_elements_is_noticed() {
    // One element for three chains; the index moves by fewer or more.
    for (chains, fine) in [(2, 0), (3, 3), (4, 3)] {
        let (memory, layout, mut driver) = ring_with(feature::IN_ORDER, 0);
        // A round before, so that there are old elements where there should be none.
        for token in 0..u32::from(SIZE) {
            driver.add(&[buffer()], None, token).expect("room");
            let _ = driver.publish();
            give_back_group(&memory, &layout, 1, token, 0);
            assert!(driver.poll().expect("fair").is_some());
        }
        for token in 0..5 {
            driver.add(&[buffer()], None, token).expect("room");
        }
        let _ = driver.publish();
        give_back_group(&memory, &layout, chains, 2, 0);
        for _ in 0..fine {
            assert!(driver.poll().expect("so far").is_some());
        }
        match chains {
            3 => assert_eq!(driver.poll().expect("fair"), None),
            _ => assert!(driver.poll().is_err(), "{chains}"),
        }
    }
}

#[test]
fn a_chain_out_of_order_is_noticed() {
    let (memory, layout, mut driver) = ring_with(feature::IN_ORDER, 0);
    for token in 0..3 {
        driver.add(&[segment()], None, token).expect("room");
    }
    let _ = driver.publish();
    give_back_group(&memory, &layout, 1, 1, 0);
    assert!(driver.poll().is_err());
}
