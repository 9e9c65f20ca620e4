// SPDX-License-Identifier: GPL-2.0

//! A queue that stops for one of many reasons, and its worker, which does what it takes to go on.

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

/// Chains that pass through the ring: the queue stops for want of the second, or at the first.
pub const CHAINS: u16 = 2;

/// Memory that has the buffers of all chains, and of the first only, in bytes.
const ALL: u64 = 0x1000;
const FIRST: u64 = 0x180;

/// Why the queue stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The first chain has the wrong direction. The driver mends it before it adds the next one.
    Direction,
    /// The ring itself makes no sense: the driver's index, or a packed ring's chain goes on where nothing
    /// is available. The driver mends that with its next chain, or before.
    Nonsense,
    /// Memory is away for a while.
    Away,
    /// A packet takes two chains.
    Unbuffered,
    /// There are no packets for a while.
    Packets,
    /// The owner's IOTLB lacks a translation.
    Translation,
    /// The owner has a memory table that lacks a region.
    Table,
    /// The owner still has the ring where the driver's is not.
    Place,
    /// The owner still has the features of another driver.
    Features,
}

/// What of the module's rules is not kept, to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// All are.
    Nothing,
    /// No kick is asked for.
    NoAsk,
    /// What came while a kick was asked for is not looked for.
    Deaf,
    /// A chain that was found bad is not read again.
    NoForget,
    /// With memory away, the queue waits for a kick.
    NoTimer,
    /// What could not be completed is forgotten.
    Forgetful,
    /// With no packets, the queue does not wait for the backend.
    NoArm,
    /// The owner wakes nobody.
    NoWake,
    /// The owner wakes the queue before it takes the mutex.
    EarlyWake,
    /// The queue believes that kicks are on, as they were before the owner changed something.
    Believe,
}

/// What a round ends with.
#[derive(PartialEq, Eq)]
enum Next {
    /// Something will wake the queue.
    Wait,
    /// There may be more to do.
    Again,
    /// Memory may be back later.
    Timer,
    /// The owner has to translate an address, and wakes the queue when it has.
    Translate,
}

/// Wakes a thread, which loses no wake-up: as its flag and its scheduler do together, which
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

    /// Returns when it has been rung since the last time.
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

/// What the queue's mutex protects.
struct State {
    ring: Rings,
    shared: Arc<Shared>,
    /// Bytes of guest memory that the owner told of.
    memory: u64,
    /// Chains of whole packets that were taken.
    taken: u16,
    /// Those of them that were given back.
    completed: u16,
    /// Whether kicks are believed to be on, whatever the ring says.
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
    /// Rung for the owner, when it has to translate.
    messages: Bell,
}

impl Queue {
    /// A queue that has just been started, on the driver's ring or on one that has no driver.
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
                believes: false,
            }),
            bell: Bell::new(true),
            socket: Mutex::new(Socket {
                ready: reason != Reason::Packets,
                armed: false,
            }),
            messages: Bell::new(false),
        }
    }

    /// The worker's thread; it leaves when it has given back all chains.
    pub fn work(&self) {
        loop {
            self.bell.wait();
            let mut state = self.state.lock().unwrap();
            let next = self.round(&mut state);
            let done = state.completed == CHAINS;
            drop(state);
            match next {
                _ if done => return,
                Next::Wait => {}
                Next::Again => self.bell.ring(),
                Next::Timer => {
                    // A while later, at which the others had their turn.
                    thread::yield_now();
                    self.bell.ring();
                }
                Next::Translate => self.messages.ring(),
            }
        }
    }

    /// A round, and what it stops for.
    fn round(&self, state: &mut State) -> Next {
        let looked = self.look(state);
        let completed = self.complete(state);
        match completed.and(looked) {
            Ok(next) => next,
            Err(Fault::Unmapped(_)) => self.timer(),
            Err(Fault::OutsideMemory { .. }) if self.reason == Reason::Translation => {
                Next::Translate
            }
            Err(_) if self.wrong == Wrong::NoAsk => Next::Wait,
            // Of the guest: what it publishes next may be better.
            Err(_) => match with_ring!(state.ring, |ring| ring.await_kick(&*state.shared)) {
                Ok(more) => self.more(more),
                Err(_) => self.timer(),
            },
        }
    }

    /// What a round ends with that asked for a kick, if there is `more` already.
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

    /// Takes what there is. Kicks are off meanwhile, or, where the owner changes what the ring knows
    /// of them, from the second chain on.
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

    /// Takes the chains of a packet; whether there are enough.
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

    /// Takes the next chain, the one that starts at `head`; whether there is one.
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

    /// Gives back what has been taken.
    fn complete(&self, state: &mut State) -> Result<(), Fault> {
        let ids = state.completed..state.taken;
        let completed = with_ring!(state.ring, |ring| give_back(ring, &state.shared, ids));
        if self.wrong != Wrong::Forgetful {
            completed?;
        }
        state.completed = state.taken;
        Ok(())
    }

    /// Wakes the queue when there are packets, at once if there are some now.
    fn arm(&self) {
        let mut socket = self.socket.lock().unwrap();
        socket.armed = true;
        if socket.ready {
            self.bell.ring();
        }
    }

    /// What comes from outside, without regard to what the queue is doing.
    pub fn outside(&self, kind: Kind, shared: &Arc<Shared>) {
        match self.reason {
            Reason::Direction | Reason::Nonsense | Reason::Unbuffered => {}
            Reason::Away => {
                shared.set_away(true);
                shared.set_away(false);
            }
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

    /// A call of the owner on a queue that runs.
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
