// SPDX-License-Identifier: GPL-2.0

//! What the device does at its turn.

use linux_driver::{Features, Shared};
use vring::{
    Chain, InForce, MAX_CHAIN_SEGMENTS, MemTable, Memory, Region, Ring, RingAddrs, Rings, Segment,
    Segments,
};

use crate::between::{Between, Offer, Random, count};
use crate::memory;

/// A chain that the device has taken.
struct Taken {
    offer: Offer,
    chain: Chain,
    /// Its number among all chains taken.
    number: u64,
}

/// Whether the device runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It looks for work.
    Runs,
    /// It has found no work and waits for a kick.
    Waits,
    /// It has left a chain and waits for a kick, or for the owner.
    Stopped,
}

/// A device that calls only when asked.
pub struct Device {
    rings: Rings,
    side: Side,
}

/// All of a device except for its ring.
struct Side {
    addrs: RingAddrs,
    size: u16,
    features: Features,
    table: MemTable<Vec<Region>>,
    storage: Vec<Segment>,
    state: State,
    /// Chains taken and not used, in the order of their numbers.
    taken: Vec<Taken>,
    next_number: u64,
    /// Number of descriptors of the ring that have been taken.
    descs: u64,
    /// What that was when the device stopped at a chain, unless it has turned kicks on or off since.
    stopped_at: Option<u64>,
    /// Chains have been used since the last decision whether to call.
    not_called: bool,
}

/// Runs a function on the ring in force, with its memory.
macro_rules! on_ring {
    ($device:expr, $pause:expr, |$side:ident, $ring:ident, $memory:ident| $what:expr) => {{
        let Device { rings, side: $side } = $device;
        let $memory = &$side.memory(rings.extents(), $pause);
        match rings.in_force() {
            InForce::Split($ring) => $what,
            InForce::Packed($ring) => $what,
        }
    }};
}

impl Device {
    /// The device of a driver's ring at `addrs`.
    pub fn new(addrs: RingAddrs, size: u16, features: Features) -> Self {
        let side = Side {
            addrs,
            size,
            features,
            table: memory::table(),
            storage: vec![Segment::default(); MAX_CHAIN_SEGMENTS],
            state: State::Runs,
            taken: Vec::new(),
            next_number: 0,
            descs: 0,
            stopped_at: None,
            not_called: false,
        };
        let base = if features.packed { 0x8000_8000 } else { 0 };
        let rings = side.start(base, &|| ());
        Self { rings, side }
    }

    /// Does one thing at random; `pause` is called before each access to memory.
    pub fn turn(&mut self, between: &Between, random: &Random, pause: &dyn Fn()) {
        match self.side.state {
            State::Waits | State::Stopped if between.kick.take() => {
                on_ring!(self, pause, |side, ring, memory| side
                    .wake(ring, memory, between, random));
            }
            State::Waits | State::Stopped => match random.below(16) {
                0 => self.restart(between, pause),
                _ => on_ring!(self, pause, |side, ring, memory| {
                    side.complete(ring, memory, between, random);
                    side.call(ring, memory, between);
                }),
            },
            State::Runs if random.one_in(64) => self.restart(between, pause),
            State::Runs => on_ring!(self, pause, |side, ring, memory| side
                .run(ring, memory, between, random)),
        }
    }

    /// Does all that there is to do before it may wait; returns whether it waits now.
    pub fn settle(&mut self, between: &Between, random: &Random) -> bool {
        on_ring!(self, &|| (), |side, ring, memory| {
            if side.state == State::Stopped {
                // The owner says that it may go on.
                between.waits_for_kick.set(false);
                between.kick_is_due.set(false);
                side.state = State::Runs;
            }
            if side.state == State::Waits && between.kick.take() {
                side.wake(ring, memory, between, random);
            }
            if side.state == State::Runs {
                while side.take(ring, memory, between) {}
            }
            while !side.taken.is_empty() {
                side.complete(ring, memory, between, random);
            }
            side.call(ring, memory, between);
            if side.state == State::Runs {
                side.idle(ring, memory, between);
            }
            side.state == State::Waits && !between.kick.get()
        })
    }

    /// Continues with a new ring where this one is, as after a migration.
    fn restart(&mut self, between: &Between, pause: &dyn Fn()) {
        // The owner waits for chains that are under way.
        if !self.side.taken.is_empty() {
            return;
        }
        count(&between.figures.restarts);
        between.note("device: starts anew", self.rings.base());
        between.waits_for_kick.set(false);
        between.kick_is_due.set(false);
        between.kicks_are_off.set(false);
        self.rings = self.side.start(self.rings.base(), pause);
        self.side.stopped_at = None;
        self.side.state = State::Runs;
    }
}

impl Side {
    /// A started ring.
    fn start(&self, base: u32, pause: &dyn Fn()) -> Rings {
        let Features {
            packed, event_idx, ..
        } = self.features;
        let mut rings = Rings::default();
        rings.set_features(packed, event_idx, false);
        assert!(rings.set_size(u32::from(self.size)));
        assert!(rings.is_aligned(&self.addrs));
        rings.set_addrs(self.addrs);
        assert!(rings.set_base(base));
        let memory = self.memory(rings.extents(), pause);
        rings.start(&memory).expect("a sound ring");
        rings
    }

    fn memory<F: Fn()>(&self, extents: [u64; 3], pause: F) -> Shared<F> {
        Shared::new(self.addrs, extents, self.features.packed, pause)
    }

    /// One thing of a device that looks for work.
    fn run<R: Ring, M: Memory>(
        &mut self,
        ring: &mut R,
        memory: &M,
        between: &Between,
        random: &Random,
    ) {
        match random.below(16) {
            0..6 => {
                for _ in 0..random.some(u32::from(self.size)) {
                    if !self.take(ring, memory, between) {
                        break;
                    }
                }
            }
            6..10 => self.complete(ring, memory, between, random),
            10 | 11 => self.call(ring, memory, between),
            12 => self.rewind(ring, between, random),
            13 => self.disable_kick(ring, memory, between),
            14 => {
                if random.one_in(4) {
                    self.stop(ring, memory, between);
                }
            }
            _ => {
                while self.take(ring, memory, between) {}
                self.call(ring, memory, between);
                self.idle(ring, memory, between);
            }
        }
    }

    /// Takes the next chain, and compares it with the one that the driver has made available; returns
    /// whether there was one.
    fn take<R: Ring, M: Memory>(&mut self, ring: &mut R, memory: &M, between: &Between) -> bool {
        let turns = between.driver_turns.get();
        let mut out = Segments::new(&mut self.storage);
        let chain = ring
            .next_chain(memory, &self.table, &mut out)
            .expect("the driver breaks no rule");
        let Some(chain) = chain else {
            assert!(
                between.offered.borrow().is_empty() || turns != between.driver_turns.get(),
                "the device does not see an available chain"
            );
            return false;
        };
        let offer = between.offered.borrow_mut().pop_front();
        let offer = offer.expect("the device takes a chain that is not available");
        between.note("device: takes", offer.token);
        let expected: Vec<_> = offer.bufs.iter().flat_map(memory::segments).collect();
        assert_eq!(out.as_slice(), expected, "segments");
        let readable = offer.bufs.iter().filter(|buf| !buf.is_writable());
        let readable = readable.flat_map(memory::segments).count();
        let split = (chain.readable, chain.writable);
        assert_eq!(split, (readable, expected.len() - readable));
        let descs = offer.bufs.len() as u32;
        let is_table = self.features.indirect && descs > 1;
        let (slots, descs) = if is_table {
            (1, descs + 1)
        } else {
            (descs, descs)
        };
        assert_eq!((u32::from(chain.slots), chain.descs), (slots, descs));
        self.taken.push(Taken {
            offer,
            chain,
            number: self.next_number,
        });
        self.next_number += 1;
        self.descs += u64::from(chain.slots);
        true
    }

    /// Makes some of the chains taken last available again.
    fn rewind<R: Ring>(&mut self, ring: &mut R, between: &Between, random: &Random) {
        // Behind the last one that has been used.
        let last = self.taken.iter().rev().zip((0..self.next_number).rev());
        let run = last.take_while(|(taken, number)| taken.number == *number);
        let run = run.count() as u32;
        if run > 0 {
            self.rewind_some(ring, between, random.some(run));
        }
    }

    fn rewind_some<R: Ring>(&mut self, ring: &mut R, between: &Between, count: u32) {
        let back = self.taken.split_off(self.taken.len() - count as usize);
        let slots = back.iter().map(|taken| taken.chain.slots).sum();
        ring.rewind(back.len() as u16, slots);
        self.descs -= u64::from(slots);
        self.next_number -= u64::from(count);
        for taken in back.into_iter().rev() {
            between.note("device: rewinds", taken.offer.token);
            between.offered.borrow_mut().push_front(taken.offer);
        }
    }

    /// Gives some chains back: all in one batch, by one entry for each group with IN_ORDER.
    fn complete<R: Ring, M: Memory>(
        &mut self,
        ring: &mut R,
        memory: &M,
        between: &Between,
        random: &Random,
    ) {
        if self.taken.is_empty() {
            return;
        }
        let is_grouped = self.features.in_order && random.one_in(2);
        let (mut entries, mut groups) = (Vec::new(), Vec::new());
        let mut used = Vec::new();
        let mut members = Vec::new();
        let batch = random.some(self.taken.len() as u32);
        for left in (0..batch).rev() {
            let which = if self.features.in_order {
                0
            } else {
                random.below(self.taken.len() as u32) as usize
            };
            let Taken { offer, chain, .. } = self.taken.remove(which);
            let room = offer.room();
            let len = match random.below(4) {
                0 => random.below(room + 1),
                _ => room,
            };
            between.note("device: uses", offer.token);
            used.push((offer.token, len));
            members.push(R::used_entry(chain.id, chain.slots, len));
            // All chains of a group but the last have to be full.
            if left == 0 || !is_grouped || len < room || random.one_in(4) {
                entries.push(R::group(&members));
                groups.push(members.len() as u16);
                if members.len() > 1 {
                    count(&between.figures.groups);
                }
                members.clear();
            }
        }
        between.completing.set(true);
        between.used.borrow_mut().extend(used);
        let is_waited_for = between.waits_for_call.get();
        let turns = between.driver_turns.get();
        let done = if is_grouped {
            ring.complete_in_order(memory, &entries, &groups)
        } else {
            ring.complete(memory, &entries)
        };
        done.expect("a sound ring");
        between.completing.set(false);
        self.not_called = true;
        if is_waited_for && turns == between.driver_turns.get() {
            between.call_is_due.set(true);
        }
    }

    /// Calls if the driver wants that.
    fn call<R: Ring, M: Memory>(&mut self, ring: &mut R, memory: &M, between: &Between) {
        if !std::mem::take(&mut self.not_called) {
            return;
        }
        let (due, off) = (between.call_is_due.get(), between.calls_are_off.get());
        let turns = between.driver_turns.get();
        let call = ring.needs_call(memory);
        between.note("device: calls", call);
        count(&between.figures.call_decisions);
        assert!(
            call || !due || !between.call_is_due.get(),
            "the driver waits and is not called"
        );
        assert!(
            !call || !off || turns != between.driver_turns.get(),
            "a call that nobody asked for"
        );
        between.call_is_due.set(false);
        if call {
            count(&between.figures.calls);
            between.waits_for_call.set(false);
            between.call.set(true);
        }
    }

    /// Asks for a kick and waits, if there is still no work; the device has found none.
    fn idle<R: Ring, M: Memory>(&mut self, ring: &mut R, memory: &M, between: &Between) {
        between.kicks_are_off.set(false);
        let are_on = ring.kicks_are_on();
        let goes_on = !are_on && ring.enable_kick(memory).expect("the driver breaks no rule");
        if !are_on {
            self.stopped_at = None;
        }
        between.note("device: goes on", goes_on);
        if goes_on {
            return;
        }
        let is_empty = between.offered.borrow().is_empty();
        let is_coming = between.kick.get() || between.not_kicked.get();
        assert!(
            is_empty || are_on && is_coming,
            "the device waits and does not see an available chain"
        );
        self.wait(State::Waits, between);
        between.kick_is_due.set(!is_empty && !between.kick.get());
    }

    /// Leaves the next chain where it is, and waits for the driver to make another available.
    fn stop<R: Ring, M: Memory>(&mut self, ring: &mut R, memory: &M, between: &Between) {
        self.call(ring, memory, between);
        loop {
            if !self.take(ring, memory, between) {
                return;
            }
            self.rewind_some(ring, between, 1);
            between.kicks_are_off.set(false);
            let goes_on = ring.await_kick(memory).expect("mapped memory");
            self.stopped_at = Some(self.descs);
            between.note("device: looks again", goes_on);
            if !goes_on {
                break;
            }
        }
        count(&between.figures.stops);
        self.wait(State::Stopped, between);
    }

    fn wait(&mut self, state: State, between: &Between) {
        count(&between.figures.waits);
        self.state = state;
        between.waits_for_kick.set(true);
    }

    /// Takes a kick.
    fn wake<R: Ring, M: Memory>(
        &mut self,
        ring: &mut R,
        memory: &M,
        between: &Between,
        random: &Random,
    ) {
        between.note("device: is kicked", 0u64);
        between.waits_for_kick.set(false);
        between.kick_is_due.set(false);
        self.state = State::Runs;
        if !random.one_in(4) {
            self.disable_kick(ring, memory, between);
        }
    }

    fn disable_kick<R: Ring, M: Memory>(&mut self, ring: &mut R, memory: &M, between: &Between) {
        ring.disable_kick(memory).expect("mapped memory");
        let is_off = if self.features.packed {
            // Until the chain that it stopped at has been taken, kicks stay on. The ring knows the chain
            // by its place, which is the same again two laps later.
            let laps = 2 * u64::from(self.size);
            let stopped_here = |at: u64| at % laps == self.descs % laps;
            !self.stopped_at.is_some_and(stopped_here)
        } else {
            // With event indexes, the event is merely not moved on.
            !self.features.event_idx
        };
        if is_off {
            self.stopped_at = None;
        }
        between.kicks_are_off.set(is_off);
    }
}
