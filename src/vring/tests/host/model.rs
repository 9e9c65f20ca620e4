// SPDX-License-Identifier: GPL-2.0

//! Random runs of a driver and a device over one ring, with a model of what each has to find.
//!
//! Every chain reaches the device once, in order, with its bytes; every completion reaches the
//! driver likewise; and whoever sleeps is woken. The driver acts not only between the device's
//! operations but before any single access within them, and the device's stores stay in a store
//! buffer until a barrier lets them out: a missing or misplaced barrier loses a notification here.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use proptest::prelude::*;
use vring::{Chain, Segment, SplitRing, UserAddr};

use crate::mock::driver::passed;
use crate::mock::{segment, Bench, Buf, Driver, MockMemory, Op, Setup, PLACE, RAM};

/// What the driver may do at any time.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Makes visible what it added.
    Publish,
    /// Takes what was used.
    Poll,
    /// Asks for a call after so many more completions, and sleeps unless they are there.
    Sleep(u16),
    /// Goes on without calls.
    Wake,
}

/// One step of a run.
#[derive(Clone, Debug)]
enum Step {
    /// Adds a chain with buffers of these lengths: readable, then writable.
    Add(Vec<u32>, Vec<u32>, bool),
    /// The driver acts.
    Act(Act),
    /// The device takes up to so many chains.
    Take(usize),
    /// The device gives back up to so many.
    Rewind(usize),
    /// The device reads again what it has read ahead.
    ForgetPrefetch,
    /// The device completes up to so many, and decides whether to call unless told to wait.
    Complete(usize, bool),
    /// The device asks for kicks and sleeps unless it has to look again.
    Idle,
    /// The device does not like the next chain: it asks for a kick and sleeps unless it has to look
    /// again.
    Stop,
}

/// A chain as the driver made it.
struct Offer {
    head: u16,
    bufs: Vec<Buf>,
}

/// The guest, and what is known of the device's sleep.
struct Guest {
    driver: Driver,
    offers: Vec<Offer>,
    polled: usize,
    /// Position from which a call is due, while asleep.
    asleep: Option<u16>,
    kicked: bool,
    /// The index that the device read last.
    seen: u16,
    /// The one that it read last in order to take what is before it.
    avail: u16,
    /// Whether it reads for another reason.
    awaits: bool,
}

/// The byte at `offset` of what passes through chain `serial` in one direction.
fn pattern(serial: usize, write: bool, offset: u64) -> u8 {
    (serial as u64 * 31 + offset * 7 + u64::from(write) * 101) as u8
}

fn bytes(serial: usize, write: bool, len: u64) -> Vec<u8> {
    (0..len).map(|at| pattern(serial, write, at)).collect()
}

fn total(bufs: &[Buf], write: bool) -> u64 {
    let lens = bufs.iter().filter(|buf| buf.write == write);
    lens.map(|buf| u64::from(buf.len)).sum()
}

impl Guest {
    fn add(&mut self, memory: &MockMemory, read: &[u32], write: &[u32], indirect: bool) {
        let serial = self.offers.len();
        // Far fewer chains than slots are under way.
        let slot = serial as u64 % 64 * 0x400;
        let mut at = slot;
        let mut bufs = Vec::new();
        let lens = read.iter().map(|&len| (len, false));
        for (len, write) in lens.chain(write.iter().map(|&len| (len, true))) {
            let addr = at;
            bufs.push(Buf { addr, len, write });
            at += u64::from(len) + 1;
        }
        let head = if indirect {
            let table = 0x2_0000 + slot;
            let user = UserAddr(RAM + table);
            self.driver.add_indirect(memory, table, user, &bufs)
        } else {
            self.driver.add(memory, &bufs)
        };
        let Some(head) = head else {
            return;
        };
        let content = bytes(serial, false, total(&bufs, false));
        let mut content = content.as_slice();
        for buf in bufs.iter().filter(|buf| !buf.write) {
            let (now, later) = content.split_at(buf.len as usize);
            memory.poke(RAM + buf.addr, now);
            content = later;
        }
        self.offers.push(Offer { head, bufs });
    }

    fn act(&mut self, memory: &MockMemory, act: Act) {
        match act {
            Act::Publish => self.kicked |= self.driver.publish(memory),
            Act::Poll => {
                while let Some((head, len)) = self.driver.poll(memory) {
                    let offer = &self.offers[self.polled];
                    assert_eq!(head, offer.head, "used in the order of completion");
                    let expect = total(&offer.bufs, true);
                    assert_eq!(u64::from(len), expect);
                    let writable = offer.bufs.iter().filter(|buf| buf.write);
                    let got: Vec<_> = writable
                        .flat_map(|buf| memory.peek(RAM + buf.addr, buf.len as usize))
                        .collect();
                    assert_eq!(got, bytes(self.polled, true, expect));
                    self.polled += 1;
                    self.asleep = None;
                }
            }
            Act::Sleep(more) => {
                let more = if self.driver.event_idx { more } else { 0 };
                let event = self.driver.last_used.wrapping_add(more);
                self.driver.want_calls(memory, event);
                self.asleep = Some(event);
                if self.is_due(memory) {
                    self.asleep = None;
                }
            }
            Act::Wake => {
                self.driver.no_calls(memory);
                self.asleep = None;
            }
        }
    }

    /// Whether it sleeps although what it sleeps for is there.
    fn is_due(&self, memory: &MockMemory) -> bool {
        let used = self.driver.used_index(memory);
        self.asleep
            .is_some_and(|event| passed(event, self.driver.last_used, used))
    }
}

/// The whole machine.
struct Run {
    bench: Bench,
    guest: Rc<RefCell<Guest>>,
    first: u16,
    taken: VecDeque<(Chain, Vec<Segment>, usize)>,
    completed: usize,
    asleep: bool,
    call_owed: bool,
}

impl Run {
    fn new(setup: Setup) -> Self {
        let bench = Bench::with(setup);
        bench.memory.hold_stores();
        let driver = Driver::new(
            &bench.memory,
            PLACE,
            setup.size,
            setup.index,
            setup.event_idx,
        );
        let guest = Guest {
            driver,
            offers: Vec::new(),
            polled: 0,
            asleep: None,
            kicked: false,
            seen: setup.index,
            avail: setup.index,
            awaits: false,
        };
        Self {
            bench,
            guest: Rc::new(RefCell::new(guest)),
            first: setup.index,
            taken: VecDeque::new(),
            completed: 0,
            asleep: false,
            call_owed: false,
        }
    }

    /// Makes a step during which the driver acts: before the device's access number `at`, or when
    /// the device is done but its stores may still be held.
    fn meddled_step(&mut self, step: &Step, at: usize, act: Option<Act>) {
        let guest = Rc::clone(&self.guest);
        let act = Rc::new(Cell::new(act));
        let act_then = Rc::clone(&act);
        let mut access = 0;
        self.bench.memory.on_access(move |memory, op| {
            let mut guest = guest.borrow_mut();
            if access == at {
                if let Some(act) = act_then.take() {
                    guest.act(memory, act);
                }
            }
            access += 1;
            if matches!(op, Op::LoadAcquire(_)) {
                guest.seen = guest.driver.published;
                if !guest.awaits {
                    guest.avail = guest.seen;
                }
            }
        });
        self.step(step);
        if let Some(act) = act.take() {
            self.guest.borrow_mut().act(&self.bench.memory, act);
        }
        self.check();
    }

    fn step(&mut self, step: &Step) {
        let Bench { memory, ring, .. } = &mut self.bench;
        match step {
            Step::Add(read, write, indirect) => {
                self.guest.borrow_mut().add(memory, read, write, *indirect);
            }
            Step::Act(act) => self.guest.borrow_mut().act(memory, *act),
            Step::Take(most) => {
                self.asleep = false;
                ring.disable_kick(memory).unwrap();
                for _ in 0..*most {
                    if !self.take() {
                        break;
                    }
                }
            }
            Step::Rewind(most) => {
                let count = self.taken.len().min(*most);
                ring.rewind(count as u16);
                self.taken.truncate(self.taken.len() - count);
            }
            Step::ForgetPrefetch => ring.forget_prefetch(),
            Step::Complete(most, call) => self.complete(*most, *call),
            Step::Idle => {
                self.guest.borrow_mut().kicked = false;
                let before = self.guest.borrow().avail;
                let again = ring.enable_kick(memory).unwrap();
                let after = self.guest.borrow().avail;
                assert_eq!(again, before != after, "there is news or there is not");
                self.asleep = !again;
            }
            Step::Stop => {
                self.guest.borrow_mut().kicked = false;
                self.guest.borrow_mut().awaits = true;
                let before = self.guest.borrow().seen;
                let again = ring.await_kick(memory).unwrap();
                let after = self.guest.borrow().seen;
                self.guest.borrow_mut().awaits = false;
                assert_eq!(again, before != after, "there is news or there is not");
                self.asleep = !again;
            }
        }
    }

    /// Nobody sleeps through what it waits for.
    fn check(&self) {
        self.bench.memory.drain();
        let guest = self.guest.borrow();
        if self.asleep && !guest.kicked {
            assert_eq!(guest.driver.published, guest.seen, "a kick was lost");
        }
        if !self.call_owed {
            assert!(!guest.is_due(&self.bench.memory), "a call was lost");
        }
        self.bench.memory.take_log();
    }

    fn take(&mut self) -> bool {
        let base = self.bench.ring.base();
        let Some((chain, segments)) = self.bench.next().unwrap() else {
            assert_eq!(base, self.guest.borrow().avail, "nothing is left behind");
            return false;
        };
        let guest = self.guest.borrow();
        let serial = self.completed + self.taken.len();
        assert_eq!(base, self.first.wrapping_add(serial as u16));
        let offer = &guest.offers[serial];
        assert_eq!(chain.head, offer.head);
        let full = offer.bufs.iter().filter(|buf| buf.len > 0);
        let expect: Vec<_> = full
            .map(|buf| segment(RAM + buf.addr, u64::from(buf.len)))
            .collect();
        assert_eq!(segments, expect);
        assert_eq!(chain.readable + chain.writable, segments.len());
        let readable = total(&offer.bufs, false);
        assert_eq!(chain.len, readable + total(&offer.bufs, true));
        let content: Vec<_> = segments[..chain.readable]
            .iter()
            .flat_map(|part| self.bench.memory.peek(part.addr.0, part.len as usize))
            .collect();
        assert_eq!(content, bytes(serial, false, readable));
        self.taken.push_back((chain, segments, serial));
        true
    }

    fn complete(&mut self, most: usize, call: bool) {
        let count = self.taken.len().min(most);
        let used: Vec<_> = self
            .taken
            .drain(..count)
            .map(|(chain, segments, serial)| {
                let mut at = 0;
                for part in &segments[chain.readable..] {
                    let content: Vec<_> = (at..at + part.len)
                        .map(|at| pattern(serial, true, at))
                        .collect();
                    self.bench.memory.poke(part.addr.0, &content);
                    at += part.len;
                }
                SplitRing::used_entry(chain.head, at as u32)
            })
            .collect();
        self.completed += count;
        let Bench { memory, ring, .. } = &mut self.bench;
        ring.complete(memory, &used).unwrap();
        self.call_owed = !call;
        if call && ring.needs_call(memory) {
            self.guest.borrow_mut().asleep = None;
        }
    }

    /// Brings everything under way to its end.
    fn finish(&mut self) {
        let all = usize::MAX;
        for step in [
            Step::Act(Act::Publish),
            Step::Take(all),
            Step::Complete(all, true),
            Step::Act(Act::Poll),
            Step::Idle,
        ] {
            self.meddled_step(&step, 0, None);
        }
        let guest = self.guest.borrow();
        assert_eq!(guest.polled, guest.offers.len());
        assert_eq!(guest.driver.free(), usize::from(guest.driver.size));
        assert!(self.asleep, "and there is nothing more to look for");
    }
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Publish),
        2 => Just(Act::Poll),
        3 => (0..4u16).prop_map(Act::Sleep),
        1 => Just(Act::Wake),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let lens = || proptest::collection::vec(prop_oneof![1 => Just(0u32), 6 => 1..40u32], 0..4);
    let chain = (lens(), lens(), any::<bool>())
        .prop_filter("a chain has descriptors", |(read, write, _)| {
            !read.is_empty() || !write.is_empty()
        });
    prop_oneof![
        8 => chain.prop_map(|(read, write, indirect)| Step::Add(read, write, indirect)),
        5 => act().prop_map(Step::Act),
        5 => (1..20usize).prop_map(Step::Take),
        1 => (0..20usize).prop_map(Step::Rewind),
        1 => Just(Step::ForgetPrefetch),
        5 => (0..20usize, prop_oneof![3 => Just(true), 1 => Just(false)])
            .prop_map(|(most, call)| Step::Complete(most, call)),
        4 => Just(Step::Idle),
        2 => Just(Step::Stop),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn chains_arrive_and_sleepers_wake(
        shift in 0..6u32,
        start in 0..100u16,
        (event_idx, notify_on_empty) in any::<(bool, bool)>(),
        steps in proptest::collection::vec((step(), 0..6usize, proptest::option::of(act())), 1..200),
    ) {
        let mut run = Run::new(Setup {
            size: 1 << shift,
            // Close before the wrap.
            index: start.wrapping_sub(60),
            event_idx,
            notify_on_empty,
        });
        for (step, access, act) in &steps {
            run.meddled_step(step, *access, *act);
        }
        run.finish();
    }
}
