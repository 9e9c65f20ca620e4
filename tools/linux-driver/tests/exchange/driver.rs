// SPDX-License-Identifier: GPL-2.0

//! What the driver does at its turn.

use linux_driver::{Buf, Features, Queue};

use crate::between::{Between, Offer, Random, count};
use crate::memory;

/// The largest number of buffers in a chain of an indirect table: more than the ring reads at once.
const MAX_TABLE: u32 = 20;

/// What the driver has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Calls {
    /// A call for the next used chain.
    On,
    /// A call when most chains are used.
    Delayed,
    /// No calls: the driver polls.
    Off,
}

/// A driver that kicks only when asked and looks for used chains when it is called, or polls.
pub struct Driver {
    pub queue: Queue,
    size: u16,
    features: Features,
    calls: Calls,
    next_token: usize,
}

impl Driver {
    /// The driver of a new queue, with calls on.
    pub fn new(size: u16, features: Features) -> Self {
        let queue = Queue::new(size, features).expect("a queue of this size");
        Self {
            queue,
            size,
            features,
            calls: Calls::On,
            next_token: 1,
        }
    }

    /// Does one thing at random.
    pub fn turn(&mut self, between: &Between, random: &Random) {
        count(&between.driver_turns);
        match random.below(8) {
            0..3 => {
                for _ in 0..random.some(u32::from(self.size)) {
                    if !self.add(between, random) {
                        break;
                    }
                }
                if random.one_in(2) {
                    self.kick(between);
                }
            }
            3 | 4 => {
                if between.not_kicked.get() || random.one_in(8) {
                    self.kick(between);
                }
            }
            5 => self.take_call(between, random),
            6 => match self.calls {
                Calls::Off => self.poll(between, random),
                Calls::On | Calls::Delayed => self.reap(between),
            },
            _ => match self.calls {
                Calls::Off => self.poll(between, random),
                Calls::On | Calls::Delayed if random.one_in(4) => self.disable(between),
                Calls::On | Calls::Delayed => {}
            },
        }
    }

    /// Does what it has to do before it may wait; returns whether it waits now.
    pub fn settle(&mut self, between: &Between, random: &Random) -> bool {
        count(&between.driver_turns);
        if between.not_kicked.get() {
            self.kick(between);
        }
        self.take_call(between, random);
        if self.calls == Calls::Off {
            self.poll(between, random);
        }
        self.calls != Calls::Off && !between.call.get()
    }

    /// Makes a chain available; returns whether there was room.
    fn add(&mut self, between: &Between, random: &Random) -> bool {
        let most = if self.features.indirect {
            MAX_TABLE
        } else {
            u32::from(self.size).min(MAX_TABLE)
        };
        let bufs = bufs(random.some(most), random);
        let needed = if self.features.indirect {
            1
        } else {
            bufs.len()
        };
        if needed > self.queue.num_free() as usize {
            count(&between.figures.full);
            return false;
        }
        let token = self.next_token;
        self.queue.add(&bufs, token);
        between.note("driver: available", token);
        self.next_token += 1;
        between.not_kicked.set(true);
        let offer = Offer { token, bufs };
        between.offered.borrow_mut().push_back(offer);
        // If the device waits, it has not seen this chain.
        between.kick_is_due.set(between.waits_for_kick.get());
        true
    }

    /// Kicks if the device wants that.
    fn kick(&mut self, between: &Between) {
        let (due, off) = (between.kick_is_due.get(), between.kicks_are_off.get());
        let kick = self.queue.kick_prepare();
        between.note("driver: kicks", kick);
        count(&between.figures.kick_decisions);
        between.not_kicked.set(false);
        // The device may have acted meanwhile.
        assert!(
            kick || !due || !between.kick_is_due.get(),
            "the device waits and is not kicked"
        );
        assert!(
            !kick || !off || !between.kicks_are_off.get(),
            "a kick that nobody asked for"
        );
        if kick {
            count(&between.figures.kicks);
            between.kick.set(true);
            // It is about to go on.
            between.waits_for_kick.set(false);
        }
        between.kick_is_due.set(false);
    }

    /// Takes a call, if there is one.
    fn take_call(&mut self, between: &Between, random: &Random) {
        if between.call.take() && self.queue.interrupt() {
            between.note("driver: is called", 0u64);
            if self.calls != Calls::Off && random.one_in(8) {
                self.reap(between);
            } else {
                self.disable(between);
            }
        }
    }

    /// Turns calls off.
    fn disable(&mut self, between: &Between) {
        self.queue.disable_cb();
        between.note("driver: calls off", 0u64);
        self.calls = Calls::Off;
        between.call_is_due.set(false);
        between.waits_for_call.set(false);
        // With event indexes, the event is merely not moved on.
        between.calls_are_off.set(!self.features.event_idx);
    }

    /// Gets some used chains, or turns calls on when there are none.
    fn poll(&mut self, between: &Between, random: &Random) {
        // Amid a group, the kernel's driver does not find the rest of it when it turns calls on.
        let early = !self.features.in_order && random.one_in(8);
        if !early {
            for _ in 0..random.some(u32::from(self.size)) {
                if !self.get(between) {
                    break;
                }
            }
            if !between.used.borrow().is_empty() {
                return;
            }
        }
        between.calls_are_off.set(false);
        let delayed = random.one_in(4);
        let waits = if delayed {
            self.queue.enable_cb_delayed()
        } else {
            self.queue.enable_cb()
        };
        between.note("driver: waits", waits);
        if !waits {
            self.disable(between);
            return;
        }
        assert!(
            delayed || between.used.borrow().is_empty() || between.completing.get(),
            "the driver waits for a call and does not see what is used"
        );
        self.calls = if delayed { Calls::Delayed } else { Calls::On };
        // Whatever is used from now on is news.
        between.call_is_due.set(false);
        between.waits_for_call.set(!delayed);
    }

    /// Gets all used chains while calls are on, which asks for a call for the next one.
    fn reap(&mut self, between: &Between) {
        between.call_is_due.set(false);
        let mut any = false;
        while self.get(between) {
            any = true;
        }
        if any {
            self.calls = Calls::On;
            between.waits_for_call.set(true);
        }
    }

    /// Gets one used chain.
    fn get(&mut self, between: &Between) -> bool {
        let got = self.queue.get_buf();
        assert!(!self.queue.is_broken(), "the driver calls the ring broken");
        let Some(got) = got else {
            assert!(
                between.used.borrow().is_empty() || between.completing.get(),
                "the driver does not see what is used"
            );
            return false;
        };
        between.note("driver: gets", got.0);
        // If calls are on, this has asked for another one.
        between.call_is_due.set(false);
        assert_eq!(Some(got), between.used.borrow_mut().pop_front());
        count(&between.figures.chains);
        true
    }
}

/// Some readable buffers, then some writable ones; `number` together.
fn bufs(number: u32, random: &Random) -> Vec<Buf> {
    let readable = random.below(number + 1);
    let buf = |index: u32| {
        let len = 1 + random.below(if random.one_in(4) { 70_000 } else { 2000 });
        let addr = memory::address(random, len);
        if index < readable {
            Buf::readable(addr, len)
        } else {
            Buf::writable(addr, len)
        }
    };
    (0..number).map(buf).collect()
}
