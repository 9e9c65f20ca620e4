// SPDX-License-Identifier: GPL-2.0

//! Random runs of a driver and a device over one ring, with a model of what each has to find.
//!
//! Every chain reaches the device once, in order, with its bytes; every completion reaches the
//! driver likewise; and whoever sleeps is woken. The driver acts not only between the device's
//! operations but before any single access within them, and the device's stores stay in a store
//! buffer until a barrier lets them out: a missing or misplaced barrier loses a notification here.
//!
//! The driver kicks only when it is asked to. So whatever the device stops for, something else has to
//! start it again: a kick that it has asked for, also when it stops at a chain that it does not like;
//! a timer, when memory is away; the call by which the owner changed features or place of the ring.

mod guest;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};
use vring::{
    Chain, CompleteWork, Fault, GetWork, KickControl, RingAddrs, Segment, SplitRing, UserAddr,
};

use crate::mock::{extents, segment, Bench, Driver, Op, Setup, PLACE, RAM};
use guest::{bytes, pattern, total, Act, Guest};

/// Where else the owner may have the ring.
const ELSEWHERE: RingAddrs = RingAddrs {
    desc: UserAddr(0x50_0000),
    avail: UserAddr(0x60_0000),
    used: UserAddr(0x70_0000),
};

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
    /// The device looks for work, and sleeps if there is none and kicks are on.
    Look,
    /// The device does not like the next chain: it asks for a kick and sleeps unless it has to look
    /// again.
    Stop,
    /// The owner turns event indexes on or off.
    Features,
    /// The owner has the ring elsewhere.
    Move,
}

/// What of the device's rules is not kept, to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// All are.
    Nothing,
    /// What came while it asked for a kick is not looked for.
    Deaf,
    /// A queue that stops at a chain asks for no kick.
    NoAsk,
    /// When memory is away, the device waits for a kick.
    NoTimer,
    /// A call of the owner wakes nobody.
    NoWake,
    /// What could not be completed is taken for completed.
    Forgetful,
}

/// The whole machine.
struct Run {
    wrong: Wrong,
    bench: Bench,
    guest: Rc<RefCell<Guest>>,
    first: u16,
    taken: VecDeque<(Chain, Vec<Segment>, usize)>,
    completed: usize,
    asleep: bool,
    call_owed: bool,
    notify_on_empty: bool,
}

impl Run {
    fn new(setup: Setup, wrong: Wrong) -> Self {
        let bench = Bench::with_room(setup, &[ELSEWHERE]);
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
            wrong,
            bench,
            guest: Rc::new(RefCell::new(guest)),
            first: setup.index,
            taken: VecDeque::new(),
            completed: 0,
            asleep: false,
            call_owed: false,
            notify_on_empty: setup.notify_on_empty,
        }
    }

    /// Makes a step during which the driver acts: before the device's access number `at`, or when
    /// the device is done but its stores may still be held. Access number `away` fails.
    fn meddled_step(&mut self, step: &Step, at: usize, act: Option<Act>, away: Option<usize>) {
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
            if matches!(op, Op::LoadAcquire(_)) && !memory.fails_now() {
                guest.seen = guest.driver.published;
                if !guest.awaits {
                    guest.avail = guest.seen;
                }
            }
        });
        if let Some(away) = away {
            self.bench.memory.fail_in(away);
        }
        if let Err(fault) = self.step(step) {
            // Nobody kicks for memory that is back: a timer has the device look again.
            assert!(matches!(fault, Fault::Unmapped(_)), "{fault}");
            assert!(away.is_some(), "{fault}");
            self.asleep = self.wrong == Wrong::NoTimer;
        }
        self.bench.memory.fail_no_more();
        if let Some(act) = act.take() {
            self.guest.borrow_mut().act(&self.bench.memory, act);
        }
        self.check();
    }

    /// Makes a step; one that failed may be made again at any time.
    fn step(&mut self, step: &Step) -> Result<(), Fault> {
        let Bench { memory, ring, .. } = &mut self.bench;
        match step {
            Step::Add(read, write, indirect) => {
                self.guest.borrow_mut().add(memory, read, write, *indirect);
            }
            Step::Act(act) => self.guest.borrow_mut().act(memory, *act),
            Step::Take(most) => {
                self.asleep = false;
                ring.disable_kick(memory)?;
                for _ in 0..*most {
                    if !self.take()? {
                        break;
                    }
                }
            }
            Step::Rewind(most) => {
                let count = self.taken.len().min(*most);
                ring.rewind(count as u16, 0);
                self.taken.truncate(self.taken.len() - count);
            }
            Step::ForgetPrefetch => ring.forget_prefetch(),
            Step::Complete(most, call) => self.complete(*most, *call)?,
            Step::Idle => {
                self.guest.borrow_mut().kicked = false;
                let before = self.guest.borrow().avail;
                let again = ring.enable_kick(memory)?;
                let after = self.guest.borrow().avail;
                assert_eq!(again, before != after, "there is news or there is not");
                self.asleep = !again || self.wrong == Wrong::Deaf;
            }
            Step::Look => {
                self.guest.borrow_mut().kicked = false;
                // Nothing was there, and for whatever comes there is a kick.
                self.asleep = !ring.has_work(memory)? && ring.kicks_are_on();
            }
            Step::Stop if self.wrong == Wrong::NoAsk => {
                self.guest.borrow_mut().kicked = false;
                self.asleep = true;
            }
            Step::Stop => {
                self.guest.borrow_mut().kicked = false;
                self.guest.borrow_mut().awaits = true;
                let before = self.guest.borrow().seen;
                let again = ring.await_kick(memory);
                let after = self.guest.borrow().seen;
                self.guest.borrow_mut().awaits = false;
                let again = again?;
                assert_eq!(again, before != after, "there is news or there is not");
                self.asleep = !again || self.wrong == Wrong::Deaf;
            }
            Step::Features => self.change_features(),
            Step::Move => self.move_ring(),
        }
        Ok(())
    }

    /// The owner turns event indexes on or off. The driver goes by that from now on, and what stands
    /// in the other place, the flags or the event, asks for no kick.
    fn change_features(&mut self) {
        let Bench { memory, ring, .. } = &mut self.bench;
        let mut guest = self.guest.borrow_mut();
        memory.drain();
        let event_idx = !guest.driver.event_idx;
        guest.driver.event_idx = event_idx;
        ring.set_features(event_idx, self.notify_on_empty);
        guest.ask_for_no_kick(memory);
        // It states its wishes anew.
        guest.asleep = None;
        self.asleep &= self.wrong == Wrong::NoWake;
    }

    /// The owner moves the ring, whose new place asks for no kick.
    fn move_ring(&mut self) {
        let Bench { memory, ring, .. } = &mut self.bench;
        let mut guest = self.guest.borrow_mut();
        memory.drain();
        let old = ring.addrs();
        let new = if old == PLACE { ELSEWHERE } else { PLACE };
        for ((old, new), len) in [old.desc, old.avail, old.used]
            .into_iter()
            .zip([new.desc, new.avail, new.used])
            .zip(extents(ring.size(), true))
        {
            memory.poke(new.0, &memory.peek(old.0, len));
        }
        guest.driver.addrs = new;
        ring.set_addrs(new);
        guest.ask_for_no_kick(memory);
        // The device knows of nothing there.
        guest.seen = ring.base();
        guest.avail = ring.base();
        self.asleep &= self.wrong == Wrong::NoWake;
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

    fn take(&mut self) -> Result<bool, Fault> {
        let base = self.bench.ring.base();
        let Some((chain, segments)) = self.bench.next()? else {
            assert_eq!(base, self.guest.borrow().avail, "nothing is left behind");
            return Ok(false);
        };
        let guest = self.guest.borrow();
        let serial = self.completed + self.taken.len();
        assert_eq!(base, self.first.wrapping_add(serial as u16));
        let offer = &guest.offers[serial];
        assert_eq!(chain.id, offer.head);
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
        Ok(true)
    }

    fn complete(&mut self, most: usize, call: bool) -> Result<(), Fault> {
        let count = self.taken.len().min(most);
        let used: Vec<_> = self
            .taken
            .iter()
            .take(count)
            .map(|(chain, segments, serial)| {
                let mut at = 0;
                for part in &segments[chain.readable..] {
                    let content: Vec<_> = (at..at + part.len)
                        .map(|at| pattern(*serial, true, at))
                        .collect();
                    self.bench.memory.poke(part.addr.0, &content);
                    at += part.len;
                }
                SplitRing::used_entry(chain.id, 1, at as u32)
            })
            .collect();
        let Bench { memory, ring, .. } = &mut self.bench;
        let completed = ring.complete(memory, &used);
        if self.wrong != Wrong::Forgetful {
            // The chains are still the device's.
            completed?;
        }
        self.taken.drain(..count);
        self.completed += count;
        self.call_owed = !call;
        if call && ring.needs_call(memory) {
            self.guest.borrow_mut().asleep = None;
        }
        Ok(())
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
            self.meddled_step(&step, 0, None, None);
        }
        let guest = self.guest.borrow();
        assert_eq!(guest.polled, guest.offers.len(), "a chain was lost");
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
        2 => Just(Step::Look),
        2 => Just(Step::Stop),
        1 => Just(Step::Features),
        1 => Just(Step::Move),
    ]
}

/// One step, the driver's act during it and when, and the access that fails.
type Meddled = (Step, usize, Option<Act>, Option<usize>);

fn runs() -> impl Strategy<Value = (Setup, Vec<Meddled>)> {
    let setup = (0..6u32, 0..100u16, any::<(bool, bool)>()).prop_map(
        |(shift, start, (event_idx, notify_on_empty))| Setup {
            size: 1 << shift,
            // Close before the wrap.
            index: start.wrapping_sub(60),
            event_idx,
            notify_on_empty,
        },
    );
    let act = proptest::option::of(act());
    let away = proptest::option::weighted(0.1, 0..6usize);
    let steps = proptest::collection::vec((step(), 0..6usize, act, away), 1..200);
    (setup, steps)
}

fn run(wrong: Wrong, setup: Setup, steps: &[Meddled]) {
    let mut run = Run::new(setup, wrong);
    for (step, access, act, away) in steps {
        run.meddled_step(step, *access, *act, *away);
    }
    run.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn chains_arrive_and_sleepers_wake((setup, steps) in runs()) {
        run(Wrong::Nothing, setup, &steps);
    }
}

/// Breaks a rule until that is noticed, in these words.
fn noticed(wrong: Wrong, words: &str) {
    let config = ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 0,
        ..ProptestConfig::with_cases(300)
    };
    let result = TestRunner::new(config).run(&runs(), |(setup, steps)| {
        run(wrong, setup, &steps);
        Ok(())
    });
    let Err(TestError::Fail(reason, _)) = result else {
        panic!("{wrong:?} makes no difference");
    };
    let reason = reason.message();
    assert!(reason.contains(words), "{reason}");
}

#[test]
fn what_came_meanwhile_has_to_be_looked_for() {
    noticed(Wrong::Deaf, "a kick was lost");
}

#[test]
fn a_queue_that_stops_has_to_ask_for_a_kick() {
    noticed(Wrong::NoAsk, "a kick was lost");
}

#[test]
fn memory_that_is_away_needs_a_timer() {
    noticed(Wrong::NoTimer, "a kick was lost");
}

#[test]
fn a_call_of_the_owner_has_to_wake() {
    noticed(Wrong::NoWake, "a kick was lost");
}

#[test]
fn what_could_not_be_completed_has_to_be_completed_later() {
    noticed(Wrong::Forgetful, "a chain was lost");
}
