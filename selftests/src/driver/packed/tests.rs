// SPDX-License-Identifier: GPL-2.0

//! The driver's half against a device that each test plays by hand.

use super::*;

/// No power of two, as no rule asks for one.
const SIZE: u16 = 6;

/// A device that knows where it is in the ring.
struct Device {
    memory: Arc<GuestMemory>,
    layout: PackedLayout,
    /// Where the next chain is looked for.
    avail: Place,
    /// Where the next used descriptor goes.
    used: Place,
}

impl Device {
    /// Takes the next chain: its id, and its descriptors.
    fn take(&mut self) -> Option<(u16, Vec<PackedDescriptor>)> {
        let mut chain = Vec::new();
        loop {
            if !self.layout.is_available(&self.memory, self.avail) {
                assert!(chain.is_empty(), "a chain that ends in the middle");
                return None;
            }
            let descriptor = self.layout.read(&self.memory, self.avail.offset);
            self.avail = self.avail.after(1, SIZE);
            chain.push(descriptor);
            if descriptor.flags & DESC_NEXT == 0 {
                return Some((descriptor.id, chain));
            }
        }
    }

    /// Writes one used descriptor, for a chain or a batch of `count` descriptors.
    fn give_back(&mut self, id: u16, count: u16, len: u32) {
        let (memory, at) = (&self.memory, self.used);
        let used = PackedDescriptor {
            addr: 0,
            len,
            id,
            flags: 0,
        };
        self.layout.prepare(memory, at.offset, used);
        let flags = at.used() | if len > 0 { DESC_WRITE } else { 0 };
        self.layout
            .set_flags(memory, at.offset, flags, Ordering::Release);
        self.used = at.after(count, SIZE);
    }

    /// Takes a chain and gives it back, with `len` bytes written.
    fn serve(&mut self, len: u32) -> u16 {
        let (id, chain) = self.take().expect("a chain");
        // CAST: no more than a ring has.
        self.give_back(id, chain.len() as u16, len);
        id
    }

    /// Asks for kicks.
    fn wish(&self, at: Place, flags: u16) {
        let word = u32::from(at.half()) | u32::from(flags) << 16;
        self.memory
            .store_u32(self.layout.device, word, Ordering::Relaxed);
    }

    /// What the driver asks calls for.
    fn driver_wish(&self) -> (Place, u16) {
        let word = self.memory.load_u32(self.layout.driver, Ordering::Relaxed);
        (Place::parse(word as u16), (word >> 16) as u16)
    }
}

/// A ring that starts after `count` descriptors.
fn ring(features: u64, count: u16) -> (Device, PackedDriver) {
    let memory = Arc::new(GuestMemory::new(&[(0x1000, 1 << 16)]).expect("memory"));
    let layout = PackedLayout::alloc(&memory, SIZE).expect("room for a ring");
    let driver = PackedDriver::new(memory.clone(), layout, features, count);
    // CAST: the lower half.
    let start = Place::parse(driver.base() as u16);
    let device = Device {
        memory,
        layout,
        avail: start,
        used: start,
    };
    (device, driver)
}

fn segment() -> Segment {
    Segment {
        addr: 0x2000,
        len: 64,
        writable: false,
    }
}

fn buffer() -> Segment {
    Segment {
        writable: true,
        ..segment()
    }
}

#[test]
fn chains_come_back_over_the_wrap() {
    // Every place in both turns to start at.
    for start in 0..2 * SIZE {
        let (mut device, mut driver) = ring(0, start);
        let mut done = start;
        for token in 0..40u32 {
            // Chains of one to all descriptors.
            let count = 1 + (token as u16) % SIZE;
            let chain = vec![segment(); count.into()];
            driver.add(&chain, None, token).expect("room");
            assert_eq!(device.take(), None, "not published");
            assert!(driver.publish());
            assert_eq!(driver.poll().expect("fair"), None);
            device.serve(0);
            assert_eq!(driver.ready(), 1);
            done += count;
            assert_eq!(driver.base(), Format::Packed.base(SIZE, done.into()));
            assert_eq!(driver.poll().expect("fair"), Some(Used { token, len: 0 }));
            assert_eq!(driver.free(), usize::from(SIZE));
            assert_eq!(driver.base(), Format::Packed.base(SIZE, done.into()));
        }
    }
}

#[test]
fn the_last_descriptor_has_the_id() {
    let (mut device, mut driver) = ring(0, 4);
    let chain = [segment(), buffer(), buffer()];
    driver.add(&chain, None, 7).expect("room");
    let _ = driver.publish();
    let (id, chain) = device.take().expect("a chain");
    let flags: Vec<_> = chain.iter().map(|one| one.flags & 7).collect();
    assert_eq!(flags, [DESC_NEXT, DESC_NEXT | DESC_WRITE, DESC_WRITE]);
    assert!(chain[..2].iter().all(|one| one.id != id));
    device.give_back(id, 3, 100);
    let used = driver.poll().expect("fair");
    assert_eq!(used, Some(Used { token: 7, len: 100 }));
}

#[test]
fn a_table_takes_one_descriptor() {
    let (mut device, mut driver) = ring(0, 5);
    let chain = [segment(), buffer(), buffer()];
    driver.add(&chain, Some(0x4000), 1).expect("room");
    let _ = driver.publish();
    let (_, chain) = device.take().expect("a chain");
    let [table] = chain[..] else {
        panic!("{chain:?}")
    };
    assert_eq!((table.addr, table.len), (0x4000, 48));
    assert_eq!(table.flags & 7, DESC_INDIRECT);
    let flag = |at: u64| {
        device
            .memory
            .load_u16(0x4000 + 16 * at + 14, Ordering::Relaxed)
    };
    assert_eq!([flag(0), flag(1), flag(2)], [0, DESC_WRITE, DESC_WRITE]);
    assert_eq!(driver.free(), usize::from(SIZE) - 1);
}

#[test]
fn what_is_added_together_is_seen_together() {
    let (mut device, mut driver) = ring(0, 3);
    for token in 0..3 {
        driver.add(&[segment(); 2], None, token).expect("room");
        assert_eq!(device.take(), None);
    }
    let _ = driver.publish();
    for _ in 0..3 {
        assert!(device.take().is_some());
    }
    assert_eq!(device.take(), None);
}

#[test]
fn chains_may_come_back_in_any_order() {
    let (mut device, mut driver) = ring(0, 4);
    for (token, count) in [(0, 1), (1, 3), (2, 2)] {
        driver
            .add(&vec![segment(); count], None, token)
            .expect("room");
    }
    let _ = driver.publish();
    let taken: Vec<_> = (0..3).filter_map(|_| device.take()).collect();
    for which in [1, 2, 0] {
        let (id, chain) = &taken[which];
        device.give_back(*id, chain.len() as u16, 0);
    }
    assert_eq!((driver.ready(), driver.used_entries()), (3, 3));
    for token in [1, 2, 0] {
        let used = driver.poll().expect("fair");
        assert_eq!(used.map(|used| used.token), Some(token));
    }
    // What it has taken back is given again.
    driver.add(&[segment(); 6], None, 3).expect("room");
    let _ = driver.publish();
    device.serve(0);
    assert!(driver.poll().expect("fair").is_some());
}

#[test]
fn a_chain_given_back_twice_is_noticed() {
    let (mut device, mut driver) = ring(0, 0);
    driver.add(&[segment()], None, 1).expect("room");
    driver.add(&[segment()], None, 2).expect("room");
    let _ = driver.publish();
    let id = device.serve(0);
    device.give_back(id, 1, 0);
    assert!(driver.poll().expect("fair").is_some());
    assert!(driver.poll().is_err());
}

#[test]
fn more_chains_than_are_out_are_noticed() {
    let (mut device, mut driver) = ring(0, 0);
    driver.add(&[segment()], None, 1).expect("room");
    let _ = driver.publish();
    let id = device.serve(0);
    assert!(driver.poll().expect("fair").is_some());
    assert_eq!(driver.poll().expect("fair"), None);
    device.give_back(id, 1, 0);
    assert_eq!(driver.ready(), 0);
    assert!(driver.poll().is_err());
}

#[test]
fn a_kick_is_due_by_the_value_of_the_flags() {
    for features in [0, feature::EVENT_IDX] {
        let (device, mut driver) = ring(features, 0);
        for (flags, due) in [
            (event::ENABLE, true),
            (event::DISABLE, false),
            // The place is none of those that become available.
            (event::DESC, features == 0),
        ] {
            device.wish(Place::parse(5), flags);
            driver.add(&[segment()], None, 0).expect("room");
            assert_eq!(
                driver.publish(),
                due,
                "flags {flags}, features {features:#x}"
            );
        }
        assert!(!driver.publish(), "nothing new");
    }
}

#[test]
fn a_kick_is_due_when_the_named_descriptor_is_passed() {
    for start in 0..2 * SIZE {
        for named in 0..2 * SIZE {
            let (device, mut driver) = ring(feature::EVENT_IDX, start);
            // CAST: the lower half.
            let at = Format::Packed.base(SIZE, named.into()) as u16;
            device.wish(Place::parse(at), event::DESC);
            driver.add(&[segment(); 2], None, 0).expect("room");
            driver.add(&[segment()], None, 1).expect("room");
            let ahead = (named + 2 * SIZE - start) % (2 * SIZE);
            let old = driver.base() as u16;
            assert_eq!(driver.publish(), ahead < 3, "{named} from {start}");
            assert_eq!(driver.wants_kick(old), ahead < 3, "{named} from {start}");
        }
    }
}

#[test]
fn a_call_is_asked_for_by_the_descriptor_that_is_used_last() {
    let (mut device, mut driver) = ring(feature::EVENT_IDX, 4);
    for (token, count) in [(0, 2), (1, 3), (2, 1)] {
        driver
            .add(&vec![segment(); count], None, token)
            .expect("room");
    }
    let _ = driver.publish();
    let start = device.used;
    for (after, distance) in [(1, 0), (2, 2), (3, 5), (4, 6)] {
        assert!(!driver.arm_call(after));
        let at = start.after(distance, SIZE);
        assert_eq!(device.driver_wish(), (at, event::DESC));
    }
    device.serve(0);
    device.serve(0);
    assert!(driver.arm_call(2));
    assert!(!driver.arm_call(3));
    driver.disarm_call();
    assert_eq!(device.driver_wish().1, event::DISABLE);
    driver.set_event_index(false);
    assert_eq!(device.driver_wish().1, event::DISABLE);
    assert!(driver.arm_call(1));
    assert_eq!(device.driver_wish().1, event::ENABLE);
}

#[test]
fn a_full_ring_refuses() {
    let (_device, mut driver) = ring(0, 0);
    let chain = vec![segment(); 7];
    assert!(driver.add(&chain, None, 0).is_err());
    assert!(driver.add(&chain[..6], None, 0).is_ok());
    assert!(driver.add(&chain[..1], None, 0).is_err());
}

#[test]
fn a_descriptor_stands_for_the_chains_before_it() {
    let (mut device, mut driver) = ring(feature::IN_ORDER, 5);
    assert_eq!(driver.taken_entries(), []);
    for round in 1..40 {
        let start = device.used;
        for (token, count) in [(0, 2), (1, 1), (2, 1), (3, 1)] {
            driver
                .add(&vec![buffer(); count], None, token)
                .expect("room");
        }
        let _ = driver.publish();
        let ids: Vec<_> = (0..4).filter_map(|_| device.take()).collect();
        device.give_back(ids[2].0, 4, 7);
        device.give_back(ids[3].0, 1, round);
        assert_eq!((driver.ready(), driver.used_entries()), (4, 2));
        for (taken, (token, len)) in [(0, 128), (1, 64), (2, 7), (3, round)]
            .into_iter()
            .enumerate()
        {
            assert_eq!(driver.ready(), 4 - taken);
            assert_eq!(driver.poll().expect("fair"), Some(Used { token, len }));
        }
        assert_eq!(driver.poll().expect("fair"), None);
        assert_eq!(driver.free(), usize::from(SIZE));
        let places = [start, start.after(4, SIZE)];
        let places = places.map(|at| (device.layout.slot(at.offset), 16));
        assert_eq!(driver.taken_entries(), places);
    }
}

#[test]
fn a_length_without_the_write_flag_means_nothing() {
    let (mut device, mut driver) = ring(0, 0);
    driver.add(&[segment()], None, 0).expect("room");
    let _ = driver.publish();
    device.serve(99);
    let flags = device.layout.flags(&device.memory, 0) & !DESC_WRITE;
    device
        .layout
        .set_flags(&device.memory, 0, flags, Ordering::Release);
    let used = driver.poll().expect("fair");
    assert_eq!(used, Some(Used { token: 0, len: 0 }));
}

#[test]
fn a_reset_ring_is_empty_at_any_place() {
    let (mut device, mut driver) = ring(0, 0);
    for count in 0..3 * SIZE {
        driver.add(&[segment(); 3], None, 0).expect("room");
        let _ = driver.publish();
        driver.reset(count);
        // CAST: the lower half.
        let start = Place::parse(driver.base() as u16);
        (device.avail, device.used) = (start, start);
        assert_eq!(device.take(), None);
        assert_eq!(driver.poll().expect("fair"), None);
        assert_eq!(driver.free(), usize::from(SIZE));
        driver.add(&[segment(); 6], None, 9).expect("room");
        let _ = driver.publish();
        device.serve(0);
        assert!(driver.poll().expect("fair").is_some());
    }
}
