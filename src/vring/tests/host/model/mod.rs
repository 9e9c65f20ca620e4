// SPDX-License-Identifier: GPL-2.0

//! Random runs of a driver and a device over one ring, with a model of what each has to see.
//!
//! Every chain reaches the device once, in order, with its bytes; every completion reaches the
//! driver in the same way; and a side that sleeps is woken. The driver acts between the device's
//! operations and also before any single access within them. The device's stores stay in a store
//! buffer until a barrier, so that a missing or misplaced barrier loses a notification.
//!
//! The driver kicks only when it is asked to. So for every reason why the device stops, something
//! has to start it again: a kick that it has asked for, also when it stops at a chain that it
//! rejects; a timer, when memory is unmapped; the call by which the owner changed the ring's
//! features or place.

mod guest;
mod runs;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use proptest::test_runner::{Config, TestError, TestRunner};
use vring::{Chain, CompleteWork, Fault, GetWork, KickControl, RingAddrs, Segment, UserAddr};

use crate::for_both_formats;
use crate::mock::{extents, segment, DriverSide, Format, Rig, SetUp, Setup, PLACE, RAM};
use guest::{bytes, pattern, total, Act, Guest};
use runs::{runs, Meddled};

/// The other place to which the owner may move the ring.
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
    /// The device discards what it has read ahead.
    ForgetPrefetch,
    /// The device completes up to so many, and decides whether to call unless told to wait.
    Complete(usize, bool),
    /// The device asks for kicks and sleeps unless it has to look again.
    Idle,
    /// The device looks for work, and sleeps if there is none and kicks are on.
    Look,
    /// The device rejects the next chain: it asks for a kick and sleeps unless it has to look
    /// again.
    Stop,
    /// The owner turns event indexes on or off.
    Features,
    /// The owner moves the ring.
    Move,
}

/// The rule that the device breaks on purpose, to check that the model detects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// No rule is broken.
    Nothing,
    /// The device ignores the request to look again after it has asked for a kick.
    Deaf,
    /// The device does not ask for a kick when it stops at a chain.
    NoAsk,
    /// When memory is unmapped, the device waits for a kick.
    NoTimer,
    /// A call of the owner does not wake the device.
    NoWake,
    /// Chains whose completion failed count as completed.
    Forgetful,
}

/// A run: guest, device and the ring between them.
struct Run<F: Format> {
    wrong: Wrong,
    bench: Rig<F>,
    guest: Rc<RefCell<Guest<F>>>,
    /// The place of the next chain.
    next: u16,
    taken: VecDeque<(Chain, Vec<Segment>, usize)>,
    completed: usize,
    asleep: bool,
    /// Whether it has stopped at a chain that it rejects.
    stopped: bool,
    call_owed: bool,
    event_idx: bool,
    notify_on_empty: bool,
}

impl<F: Format> Run<F> {
    fn new(setup: Setup, wrong: Wrong) -> Self {
        let bench = Rig::<F>::with_room(setup, &[ELSEWHERE]);
        bench.memory.hold_stores();
        let driver = F::Driver::new(
            &bench.memory,
            PLACE,
            setup.size,
            setup.index,
            setup.event_idx,
        );
        let start = bench.ring.base() as u16;
        let guest = Guest {
            driver,
            offers: Vec::new(),
            polled: 0,
            asleep: false,
            kicked: false,
            seen: start,
            known: start,
            awaits: false,
        };
        Self {
            wrong,
            bench,
            guest: Rc::new(RefCell::new(guest)),
            next: start,
            taken: VecDeque::new(),
            completed: 0,
            asleep: false,
            stopped: false,
            call_owed: false,
            event_idx: setup.event_idx,
            notify_on_empty: setup.notify_on_empty,
        }
    }

    /// Makes a step during which the driver acts, before the device's access number `at` or after
    /// the device's last access, when stores may still be buffered; access number `away` fails.
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
            if !memory.fails_now() {
                guest.note(op);
            }
        });
        if let Some(away) = away {
            self.bench.memory.fail_in(away);
        }
        if let Err(fault) = self.step(step) {
            // No kick tells that memory is mapped again: a timer makes the device look again.
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

    /// Makes a step; a step that failed may be repeated at any time.
    fn step(&mut self, step: &Step) -> Result<(), Fault> {
        let Rig { memory, ring, .. } = &mut self.bench;
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
                let back = self.taken.split_off(self.taken.len() - count);
                let slots = back.iter().map(|(chain, ..)| chain.slots).sum();
                ring.rewind(count as u16, slots);
                self.next = ring.base() as u16;
            }
            Step::ForgetPrefetch => ring.forget_prefetch(),
            Step::Complete(most, call) => self.complete(*most, *call)?,
            Step::Idle => {
                self.guest.borrow_mut().kicked = false;
                let before = self.guest.borrow().known;
                let again = ring.enable_kick(memory)?;
                let mut guest = self.guest.borrow_mut();
                assert_eq!(
                    again,
                    before != guest.known,
                    "there is news or there is not"
                );
                if !F::NEWS_IS_KNOWN {
                    guest.known = before;
                }
                self.asleep = !again || self.wrong == Wrong::Deaf;
                self.stopped = false;
            }
            Step::Look => {
                self.guest.borrow_mut().kicked = false;
                // There was no work, and there will be a kick for any new chain.
                self.asleep = !ring.has_work(memory)? && ring.kicks_are_on();
                self.stopped = false;
            }
            Step::Stop => self.stop()?,
            Step::Features => self.change_features(),
            Step::Move => self.move_ring(),
        }
        Ok(())
    }

    /// The device rejects the next chain.
    fn stop(&mut self) -> Result<(), Fault> {
        let Rig { memory, ring, .. } = &mut self.bench;
        self.guest.borrow_mut().kicked = false;
        self.stopped = true;
        if self.wrong == Wrong::NoAsk {
            self.asleep = true;
            return Ok(());
        }
        self.asleep = false;
        // The device looks at the chain in memory, not at what it had read ahead.
        ring.forget_prefetch();
        ring.has_work(memory)?;
        self.guest.borrow_mut().awaits = true;
        let before = self.guest.borrow().seen;
        let again = ring.await_kick(memory);
        let after = self.guest.borrow().seen;
        self.guest.borrow_mut().awaits = false;
        let mut again = again?;
        if F::NEWS_IS_KNOWN {
            assert_eq!(again, before != after, "there is news or there is not");
        } else if again && self.wrong != Wrong::Deaf {
            // It finds the same chain.
            ring.has_work(memory)?;
            again = ring.await_kick(memory)?;
            assert!(!again, "it would stop without end");
        }
        self.asleep = !again || self.wrong == Wrong::Deaf;
        Ok(())
    }

    /// The owner turns event indexes on or off.
    ///
    /// The driver follows at once, and the field that it now reads, the flags or the event, asks
    /// for no kick.
    fn change_features(&mut self) {
        let Rig { memory, ring, .. } = &mut self.bench;
        let mut guest = self.guest.borrow_mut();
        memory.drain();
        self.event_idx = !self.event_idx;
        let addrs = ring.addrs();
        guest.driver.move_to(addrs, self.event_idx);
        ring.set_features(self.event_idx, self.notify_on_empty);
        guest.driver.ask_for_no_kick(memory);
        // It states again whether it wants calls.
        guest.asleep = false;
        self.asleep &= self.wrong == Wrong::NoWake;
    }

    /// The owner moves the ring, whose new place asks for no kick.
    fn move_ring(&mut self) {
        let Rig { memory, ring, .. } = &mut self.bench;
        let mut guest = self.guest.borrow_mut();
        memory.drain();
        let old = ring.addrs();
        let new = if old == PLACE { ELSEWHERE } else { PLACE };
        for ((old, new), len) in [old.desc, old.avail, old.used]
            .into_iter()
            .zip([new.desc, new.avail, new.used])
            .zip(extents::<F>(ring.size(), true))
        {
            memory.poke(new.0, &memory.peek(old.0, len));
        }
        guest.driver.move_to(new, self.event_idx);
        ring.set_addrs(new);
        guest.driver.ask_for_no_kick(memory);
        // The device knows of no chains there.
        guest.seen = ring.base() as u16;
        guest.known = guest.seen;
        self.asleep &= self.wrong == Wrong::NoWake;
    }

    /// Checks that neither side sleeps although what it waits for has occurred.
    fn check(&self) {
        self.bench.memory.drain();
        let guest = self.guest.borrow();
        if self.asleep && !guest.kicked {
            // A queue that has stopped waits for any publication, another one for chains that it
            // can take.
            let looked = if self.stopped {
                guest.seen
            } else {
                guest.known
            };
            assert_eq!(guest.driver.published(), looked, "a kick was lost");
        }
        if !self.call_owed {
            assert!(!guest.is_due(&self.bench.memory), "a call was lost");
        }
        self.bench.memory.take_log();
    }

    fn take(&mut self) -> Result<bool, Fault> {
        let base = self.bench.ring.base() as u16;
        let Some((chain, segments)) = self.bench.next()? else {
            assert_eq!(base, self.guest.borrow().known, "nothing is left behind");
            return Ok(false);
        };
        let guest = self.guest.borrow();
        let serial = self.completed + self.taken.len();
        assert_eq!(base, self.next);
        let offer = &guest.offers[serial];
        assert_eq!((chain.id, chain.slots), (offer.id, offer.slots));
        let size = self.bench.ring.size();
        self.next = F::go_on(self.next, size, 1, chain.slots);
        assert_eq!(self.bench.ring.base() as u16, self.next);
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
                F::Ring::used_entry(chain.id, chain.slots, at as u32)
            })
            .collect();
        let Rig { memory, ring, .. } = &mut self.bench;
        let completed = ring.complete(memory, &used);
        if self.wrong != Wrong::Forgetful {
            // The chains are still the device's.
            completed?;
        }
        self.taken.drain(..count);
        self.completed += count;
        self.call_owed = !call;
        if call && ring.needs_call(memory) {
            self.guest.borrow_mut().asleep = false;
        }
        Ok(())
    }

    /// Completes everything in flight.
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
        assert_eq!(guest.driver.free(), usize::from(self.bench.ring.size()));
        assert!(self.asleep, "and there is nothing more to look for");
    }
}

fn run<F: Format>(wrong: Wrong, setup: Setup, steps: &[Meddled]) {
    let mut run = Run::<F>::new(setup, wrong);
    for (step, access, act, away) in steps {
        run.meddled_step(step, *access, *act, *away);
    }
    run.finish();
}

/// Breaks a rule, or none, in some runs; returns the first failure that this causes.
fn first_difference<F: Format>(wrong: Wrong) -> Option<String> {
    let config = Config {
        failure_persistence: None,
        max_shrink_iters: if wrong == Wrong::Nothing { 1000 } else { 0 },
        ..Config::with_cases(300)
    };
    let result = TestRunner::new(config).run(&runs::<F>(), |(setup, steps)| {
        run::<F>(wrong, setup, &steps);
        Ok(())
    });
    match result {
        Ok(()) => None,
        Err(TestError::Fail(reason, (setup, steps))) => {
            Some(format!("{}: {setup:?} {steps:?}", reason.message()))
        }
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

fn chains_arrive_and_sleepers_wake<F: Format>() {
    assert_eq!(first_difference::<F>(Wrong::Nothing), None);
}

/// Breaks a rule until a run fails with a message that contains `words`.
fn noticed<F: Format>(wrong: Wrong, words: &str) {
    let reason = first_difference::<F>(wrong);
    let reason = reason.unwrap_or_else(|| panic!("{wrong:?} makes no difference"));
    assert!(reason.contains(words), "{reason}");
}

fn what_came_meanwhile_has_to_be_looked_for<F: Format>() {
    noticed::<F>(Wrong::Deaf, "a kick was lost");
}

fn a_queue_that_stops_has_to_ask_for_a_kick<F: Format>() {
    noticed::<F>(Wrong::NoAsk, "a kick was lost");
}

fn memory_that_is_away_needs_a_timer<F: Format>() {
    noticed::<F>(Wrong::NoTimer, "a kick was lost");
}

fn a_call_of_the_owner_has_to_wake<F: Format>() {
    noticed::<F>(Wrong::NoWake, "a kick was lost");
}

fn what_could_not_be_completed_has_to_be_completed_later<F: Format>() {
    noticed::<F>(Wrong::Forgetful, "a chain was lost");
}

for_both_formats!(
    chains_arrive_and_sleepers_wake,
    what_came_meanwhile_has_to_be_looked_for,
    a_queue_that_stops_has_to_ask_for_a_kick,
    memory_that_is_away_needs_a_timer,
    a_call_of_the_owner_has_to_wake,
    what_could_not_be_completed_has_to_be_completed_later,
);
