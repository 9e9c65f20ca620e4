// SPDX-License-Identifier: GPL-2.0

//! A queue that stops for one of many reasons, and its worker, which arranges to be started again.

use std::sync::Arc;

use loom::sync::{Condvar, Mutex};
use loom::thread;
use vring::{
    Fault, GetWork, GuestAddr, KickControl, MemTable, Region, Rings, Segment, Segments, UserAddr,
};

use crate::device::{give_back, started};
use crate::driver::buffer;
use crate::memory::PLACE;
use crate::{with_ring, Broken, Kind, Shared};

/// Number of chains that pass through the ring: the queue stops at the first, or because the second
/// is missing.
pub const CHAINS: u16 = 2;

/// Bytes of memory that hold the buffers of all chains, and of the first only.
const ALL: u64 = 0x1000;
const FIRST: u64 = 0x180;

/// The reason why the queue stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The first chain has the wrong direction.
    ///
    /// The driver corrects it before it adds the next one.
    Direction,
    /// The ring itself is invalid: the driver's index is out of bounds, or a packed ring's chain
    /// continues where nothing is available.
    ///
    /// The driver corrects that with its next chain, or before.
    Nonsense,
    /// Memory is unmapped for a while.
    Away,
    /// A packet needs two chains.
    Unbuffered,
    /// There are no packets for a while.
    Packets,
    /// The dirty log cannot be written for a while.
    Log,
    /// The owner's IOTLB lacks a translation.
    Translation,
    /// The owner has a memory table that lacks a region.
    Table,
    /// The owner has set another place for the ring than the driver's.
    Place,
    /// The owner has set the features of another driver.
    Features,
}

/// The rule of the module that is broken on purpose, to check that the model detects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// No rule is broken.
    Nothing,
    /// The queue does not ask for a kick.
    NoAsk,
    /// The queue ignores the request to look again after it has asked for a kick.
    Deaf,
    /// A chain that was rejected is not read again.
    NoForget,
    /// With memory unmapped, or a log that cannot be written, the queue waits for a kick.
    NoTimer,
    /// Writes that could not be logged are forgotten.
    Forgiving,
    /// Chains whose completion failed count as completed.
    Forgetful,
    /// With no packets, the queue does not wait for the backend.
    NoArm,
    /// The owner does not wake the queue.
    NoWake,
    /// The owner wakes the queue before it takes the mutex.
    EarlyWake,
    /// The queue assumes that kicks are still on after the owner has changed something.
    Believe,
}

/// The result of a round.
#[derive(PartialEq, Eq)]
enum Next {
    /// Something will wake the queue.
    Wait,
    /// There may be more to do.
    Again,
    /// Memory may be mapped again later.
    Timer,
    /// The owner has to translate an address, and then wakes the queue.
    Translate,
}

/// Wakes a thread without losing a wake-up, like the flag and the scheduler that
/// [`stop`](crate::stop) models.
pub struct Bell {
    rung: Mutex<bool>,
    woken: Condvar,
}

impl Bell {
    fn new(rung: bool) -> Self {
        Self {
            rung: Mutex::new(rung),
            woken: Condvar::new(),
        }
    }

    /// Wakes the thread.
    pub fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.woken.notify_one();
    }

    /// Returns when the bell has been rung since the last wait.
    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.woken.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// The backend, under the lock of its wait queue.
struct Socket {
    ready: bool,
    armed: bool,
}

/// The dirty log.
struct Log {
    writable: bool,
    /// Chains whose writes are in the log.
    chains: u16,
}

/// What the queue's mutex protects.
struct State {
    ring: Rings,
    shared: Arc<Shared>,
    /// Bytes of guest memory in the owner's memory table.
    memory: u64,
    /// Chains taken, of whole packets only.
    taken: u16,
    /// Chains given back.
    completed: u16,
    /// Chains given back whose writes are logged; the writes of the others are owed.
    logged: u16,
    /// Whether kicks are assumed to be on, whatever the ring says.
    believes: bool,
}

/// A queue of a device and what surrounds it.
pub struct Queue {
    reason: Reason,
    wrong: Wrong,
    state: Mutex<State>,
    /// Wakes the worker.
    pub bell: Bell,
    socket: Mutex<Socket>,
    /// With [`Reason::Log`] only.
    log: Mutex<Log>,
    /// Rung when the owner has to translate.
    messages: Bell,
}

impl Queue {
    /// A queue that has just been started, on the driver's ring or on a ring without a driver.
    pub fn new(reason: Reason, wrong: Wrong, kind: Kind, shared: &Arc<Shared>) -> Self {
        let shared = match reason {
            Reason::Place => Arc::new(Shared::new(Broken::Nothing)),
            _ => shared.clone(),
        };
        let first = Kind {
            event_idx: kind.event_idx ^ (reason == Reason::Features),
            ..kind
        };
        let ring = started(&shared, first);
        let lacks = matches!(reason, Reason::Translation | Reason::Table);
        Self {
            reason,
            wrong,
            state: Mutex::new(State {
                ring,
                shared,
                memory: if lacks { FIRST } else { ALL },
                taken: 0,
                completed: 0,
                logged: 0,
                believes: false,
            }),
            bell: Bell::new(true),
            socket: Mutex::new(Socket {
                ready: reason != Reason::Packets,
                armed: false,
            }),
            log: Mutex::new(Log {
                writable: false,
                chains: 0,
            }),
            messages: Bell::new(false),
        }
    }

    /// The worker's thread; it returns when it has given back all chains.
    pub fn work(&self) {
        loop {
            self.bell.wait();
            let mut state = self.state.lock().unwrap();
            let next = self.round(&mut state);
            let done = state.completed == CHAINS && !self.owes(&state);
            drop(state);
            match next {
                _ if done => return,
                Next::Wait => {}
                Next::Again => self.bell.ring(),
                Next::Timer => {
                    // The timer expires later, after the other threads have run.
                    thread::yield_now();
                    self.bell.ring();
                }
                Next::Translate => self.messages.ring(),
            }
        }
    }

    /// Runs a round and handles the reason why it stops.
    ///
    /// What an earlier round owes to the log comes first.
    fn round(&self, state: &mut State) -> Next {
        if !self.log(state) {
            return self.timer();
        }
        let looked = self.look(state);
        let completed = self.complete(state);
        match completed.and(looked) {
            _ if !self.log(state) => self.timer(),
            Ok(next) => next,
            Err(Fault::Unmapped(_)) => self.timer(),
            Err(Fault::OutsideMemory { .. }) if self.reason == Reason::Translation => {
                Next::Translate
            }
            Err(_) if self.wrong == Wrong::NoAsk => Next::Wait,
            // A fault of the guest: what the driver publishes next may correct it.
            Err(_) => match with_ring!(state.ring, |ring| ring.await_kick(&*state.shared)) {
                Ok(more) => self.more(more),
                Err(_) => self.timer(),
            },
        }
    }

    /// The result of a round that has asked for a kick; `more` says whether to look again.
    fn more(&self, more: bool) -> Next {
        if more && self.wrong != Wrong::Deaf {
            Next::Again
        } else {
            Next::Wait
        }
    }

    fn timer(&self) -> Next {
        match self.wrong {
            Wrong::NoTimer => Next::Wait,
            _ => Next::Timer,
        }
    }

    /// Takes all available packets.
    ///
    /// Kicks are off meanwhile or, where the owner changes what the ring knows of them, from the
    /// second chain on.
    fn look(&self, state: &mut State) -> Result<Next, Fault> {
        let shared = state.shared.clone();
        let when_busy = matches!(self.reason, Reason::Place | Reason::Features);
        if !when_busy {
            with_ring!(state.ring, |ring| ring.disable_kick(&*shared))?;
        }
        loop {
            if !self.socket.lock().unwrap().ready {
                if self.wrong != Wrong::NoArm {
                    self.arm();
                }
                return Ok(Next::Wait);
            }
            if self.take_packet(state)? {
                if when_busy && state.taken == 2 {
                    with_ring!(state.ring, |ring| ring.disable_kick(&*shared))?;
                }
                continue;
            }
            self.complete(state)?;
            if when_busy && (with_ring!(state.ring, |ring| ring.kicks_are_on()) || state.believes) {
                return Ok(Next::Wait);
            }
            if self.wrong == Wrong::NoAsk {
                return Ok(Next::Wait);
            }
            return Ok(self.more(with_ring!(state.ring, |ring| ring.enable_kick(&*shared))?));
        }
    }

    /// Takes the chains of a packet; returns whether there are enough.
    fn take_packet(&self, state: &mut State) -> Result<bool, Fault> {
        let chains = if self.reason == Reason::Unbuffered {
            2
        } else {
            1
        };
        for before in 0..chains {
            match self.take(state, state.taken + before) {
                Ok(true) => {}
                other => {
                    with_ring!(state.ring, |ring| ring.rewind(before, before));
                    return other;
                }
            }
        }
        state.taken += chains;
        Ok(true)
    }

    /// Takes the next chain, which starts at `head`; returns whether there is one.
    fn take(&self, state: &mut State, head: u16) -> Result<bool, Fault> {
        let region = Region {
            guest: GuestAddr(0),
            size: state.memory,
            user: UserAddr(0),
        };
        let table = MemTable::new([region]).unwrap();
        let mut storage = [Segment::default(); 1];
        let mut out = Segments::new(&mut storage);
        let Some(chain) = with_ring!(state.ring, |ring| ring.next_chain(
            &*state.shared,
            &table,
            &mut out
        ))?
        else {
            return Ok(false);
        };
        let expect = buffer(head);
        let got = out.as_slice().first().map(|part| (part.addr.0, part.len));
        let expect = Some((expect.addr, u64::from(expect.len)));
        assert_eq!((chain.id, got), (head, expect), "not what was written");
        if chain.writable > 0 {
            with_ring!(state.ring, |ring| ring.rewind(1, 1));
            if self.wrong != Wrong::NoForget {
                state.ring.forget_prefetch();
            }
            return Err(Fault::Direction);
        }
        Ok(true)
    }

    /// Gives back the taken chains.
    fn complete(&self, state: &mut State) -> Result<(), Fault> {
        let ids = state.completed..state.taken;
        let completed = with_ring!(state.ring, |ring| give_back(ring, &state.shared, ids));
        if self.wrong != Wrong::Forgetful {
            completed?;
        }
        state.completed = state.taken;
        Ok(())
    }

    /// Whether there are writes that have to be logged.
    fn owes(&self, state: &State) -> bool {
        self.reason == Reason::Log && state.logged != state.completed
    }

    /// Logs the writes that are owed; returns `false` if they cannot be logged now.
    fn log(&self, state: &mut State) -> bool {
        if !self.owes(state) {
            return true;
        }
        let mut log = self.log.lock().unwrap();
        let writable = log.writable;
        if writable {
            log.chains += state.completed - state.logged;
        }
        if writable || self.wrong == Wrong::Forgiving {
            state.logged = state.completed;
        }
        writable
    }

    /// Number of chains whose writes have been logged.
    pub fn logged(&self) -> u16 {
        self.log.lock().unwrap().chains
    }

    /// Wakes the queue when there are packets, or at once if there are some now.
    fn arm(&self) {
        let mut socket = self.socket.lock().unwrap();
        socket.armed = true;
        if socket.ready {
            self.bell.ring();
        }
    }

    /// The events from outside, which are independent of what the queue is doing.
    pub fn outside(&self, kind: Kind, shared: &Arc<Shared>) {
        match self.reason {
            Reason::Direction | Reason::Nonsense | Reason::Unbuffered => {}
            Reason::Away => {
                shared.set_away(true);
                shared.set_away(false);
            }
            Reason::Log => self.log.lock().unwrap().writable = true,
            Reason::Packets => {
                let mut socket = self.socket.lock().unwrap();
                socket.ready = true;
                if socket.armed {
                    self.bell.ring();
                }
            }
            Reason::Translation => {
                self.messages.wait();
                self.call(|state| state.memory = ALL);
            }
            Reason::Table => self.call(|state| state.memory = ALL),
            Reason::Place => self.call(|state| {
                state.shared = shared.clone();
                state.ring.set_addrs(PLACE);
            }),
            Reason::Features => self.call(|state| {
                state.ring.set_features(kind.packed, kind.event_idx, false);
            }),
        }
    }

    /// A call of the owner on a running queue.
    fn call(&self, change: impl FnOnce(&mut State)) {
        if self.wrong == Wrong::EarlyWake {
            self.bell.ring();
        }
        let mut state = self.state.lock().unwrap();
        change(&mut state);
        state.believes = self.wrong == Wrong::Believe;
        drop(state);
        if !matches!(self.wrong, Wrong::EarlyWake | Wrong::NoWake) {
            self.bell.ring();
        }
    }
}
