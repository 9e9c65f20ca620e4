// SPDX-License-Identifier: GPL-2.0

//! What passes between the two sides of a ring, as the test knows it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;

use linux_driver::Buf;

/// Number of events that a report of a failure shows.
const SHOWN: usize = 60;

/// A chain that the driver has made available.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The driver's name for it.
    pub token: usize,
    /// Its buffers, readable ones first.
    pub bufs: Vec<Buf>,
}

impl Offer {
    /// Number of bytes that the device may write.
    pub fn room(&self) -> u32 {
        let writable = self.bufs.iter().filter(|buf| buf.is_writable());
        writable.map(|buf| buf.len).sum()
    }
}

/// How often things have happened.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Chains that the driver has got back.
    pub chains: Cell<u64>,
    /// Decisions of the driver whether to kick, and kicks.
    pub kick_decisions: Cell<u64>,
    pub kicks: Cell<u64>,
    /// Decisions of the device whether to call, and calls.
    pub call_decisions: Cell<u64>,
    pub calls: Cell<u64>,
    /// Turns of one side amid a turn of the other.
    pub amid_driver: Cell<u64>,
    pub amid_device: Cell<u64>,
    /// Waits of the device for a kick, and starts anew.
    pub waits: Cell<u64>,
    pub stops: Cell<u64>,
    pub restarts: Cell<u64>,
    /// Times at which the ring was full.
    pub full: Cell<u64>,
    /// Groups of more than one chain that were completed by one entry.
    pub groups: Cell<u64>,
}

impl std::ops::Add for Figures {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        for (ours, theirs) in self.all().into_iter().zip(other.all()) {
            ours.set(ours.get() + theirs.get());
        }
        self
    }
}

impl Figures {
    fn all(&self) -> [&Cell<u64>; 12] {
        [
            &self.chains,
            &self.kick_decisions,
            &self.kicks,
            &self.call_decisions,
            &self.calls,
            &self.amid_driver,
            &self.amid_device,
            &self.waits,
            &self.stops,
            &self.restarts,
            &self.full,
            &self.groups,
        ]
    }
}

/// Adds one.
pub fn count(figure: &Cell<u64>) {
    figure.set(figure.get() + 1);
}

/// Chains and signals between the sides, and what one side owes the other.
#[derive(Default)]
pub struct Between {
    /// Chains available and not taken.
    pub offered: RefCell<VecDeque<Offer>>,
    /// Token and length of chains used that the driver has not got back.
    pub used: RefCell<VecDeque<(usize, u32)>>,
    /// Whether the device is about to make the last of them visible.
    pub completing: Cell<bool>,
    /// Whether the driver has made chains available and not decided about a kick.
    pub not_kicked: Cell<bool>,
    /// A kick that the device has not seen.
    pub kick: Cell<bool>,
    /// A call that the driver has not seen.
    pub call: Cell<bool>,
    /// Whether the device has found nothing to do, asked for a kick and waits.
    pub waits_for_kick: Cell<bool>,
    /// Whether the driver has made chains available that the device has not seen then, and not decided
    /// about a kick.
    pub kick_is_due: Cell<bool>,
    /// Whether the device has asked for no kicks, in a way that always works.
    pub kicks_are_off: Cell<bool>,
    /// Whether the driver has found nothing used, asked for a call and waits.
    pub waits_for_call: Cell<bool>,
    /// Whether the device has used chains since then, and not decided about a call.
    pub call_is_due: Cell<bool>,
    /// Whether the driver has asked for no calls, in a way that always works.
    pub calls_are_off: Cell<bool>,
    /// Number of turns of the driver.
    pub driver_turns: Cell<u64>,
    pub figures: Figures,
    events: RefCell<VecDeque<(&'static str, u64)>>,
}

impl Between {
    /// Notes an event, for the report of a failure.
    pub fn note(&self, what: &'static str, number: impl TryInto<u64>) {
        let mut events = self.events.borrow_mut();
        if events.len() == SHOWN {
            events.pop_front();
        }
        events.push_back((what, number.try_into().unwrap_or(u64::MAX)));
    }
}

impl fmt::Display for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, number) in self.events.borrow().iter() {
            writeln!(f, "  {what} {number}")?;
        }
        Ok(())
    }
}

/// Random numbers (SplitMix64).
pub struct Random(Cell<u64>);

impl Random {
    /// The numbers that follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`, which is not 0.
    pub fn below(&self, end: u32) -> u32 {
        (self.next() % u64::from(end)) as u32
    }

    /// A number from 1 to `last`, often a small one.
    pub fn some(&self, last: u32) -> u32 {
        let last = if self.one_in(2) { last.min(3) } else { last };
        1 + self.below(last)
    }

    /// `true` once in `times`, on average.
    pub fn one_in(&self, times: u32) -> bool {
        self.below(times) == 0
    }
}
