// SPDX-License-Identifier: GPL-2.0

//! The states of a device in which all calls are made.

use super::calls::{GUEST, LOG, addresses, file, ioctl, message, state, usual_memory};
use super::step::{Caller, Fd, Field, Step};
use crate::driver::uapi::feature;

/// Whose device it is, as the caller of the table sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Nobody's.
    Nobody,
    /// The caller's.
    Caller,
    /// Another process's.
    Other,
}

/// A state, by the calls that lead to it.
#[derive(Clone, Debug)]
pub struct State {
    /// Its name.
    pub name: &'static str,
    /// The calls; all of them succeed.
    pub before: Vec<Step>,
    /// Who makes the calls of the table.
    pub caller: Caller,
    /// Whose device it is.
    pub owner: Owner,
    /// Whether the in-tree driver takes ring and memory for unusable, even to unbind.
    pub unusable: bool,
    /// Whether queues run.
    pub bound: bool,
    /// Whether workers may have misses to report, at a time of their own.
    pub misses: bool,
}

impl State {
    fn new(name: &'static str, before: Vec<Step>) -> Self {
        Self {
            name,
            before,
            caller: Caller::Main,
            owner: Owner::Caller,
            unusable: false,
            bound: false,
            misses: false,
        }
    }

    fn bound(mut self) -> Self {
        self.bound = true;
        self
    }

    fn misses(mut self) -> Self {
        self.misses = true;
        self
    }

    fn unusable(mut self) -> Self {
        self.unusable = true;
        self
    }

    fn owner(mut self, owner: Owner) -> Self {
        self.owner = owner;
        self
    }

    fn by(mut self, name: &'static str, caller: Caller) -> Self {
        self.name = name;
        self.caller = caller;
        if caller == Caller::Child && self.owner == Owner::Caller {
            self.owner = Owner::Other;
        }
        self
    }
}

fn set_features(bits: u64) -> Step {
    ioctl("SET_FEATURES", vec![Field::long(bits)])
}

/// Both queues' rings.
fn rings() -> Vec<Step> {
    (0..2)
        .flat_map(|index| [state("SET_VRING_NUM", index, 256), addresses(index)])
        .collect()
}

/// An owner with features, and all of the queues but their backend.
fn ready(features: u64) -> Vec<Step> {
    let mut steps = vec![
        Step::nonblocking(),
        ioctl("SET_OWNER", Vec::new()),
        set_features(features),
        usual_memory(),
    ];
    steps.extend(rings());
    for index in 0..2 {
        steps.push(file("SET_VRING_KICK", index, Fd::Kick));
        steps.push(file("SET_VRING_CALL", index, Fd::Call));
        steps.push(file("SET_VRING_ERR", index, Fd::Call));
    }
    steps
}

fn backends(fd: Fd) -> Vec<Step> {
    (0..2)
        .map(|index| file("NET_SET_BACKEND", index, fd))
        .collect()
}

/// A translation of the memory behind the rings to itself.
fn translation() -> Step {
    let start = Field::memory(0);
    message(2, 2, start, GUEST, start, 3)
}

fn running(features: u64) -> Vec<Step> {
    [ready(features), backends(Fd::Tap)].concat()
}

/// All states.
#[must_use]
pub fn all() -> Vec<State> {
    let own = || ioctl("SET_OWNER", Vec::new());
    let reset = || ioctl("RESET_OWNER", Vec::new());
    let plain = feature::VERSION_1;
    let iotlb = feature::VERSION_1 | feature::ACCESS_PLATFORM;
    let logging = feature::VERSION_1 | feature::LOG_ALL;
    let then = |mut steps: Vec<Step>, more: Vec<Step>| {
        steps.extend(more);
        steps
    };
    let log = ioctl("SET_LOG_BASE", vec![Field::memory(LOG)]);
    let message_v2 = ioctl("SET_BACKEND_FEATURES", vec![Field::long(2)]);
    let kthread = ioctl("SET_FORK_FROM_OWNER", vec![Field::Byte(0)]);
    let nowhere = Field::long(0xffff_8880_0000_0000);
    let misplaced = |queue| {
        let place = [nowhere, nowhere, nowhere, Field::long(0)];
        let mut fields = vec![Field::word(queue), Field::word(0)];
        fields.extend(place);
        ioctl("SET_VRING_ADDR", fields)
    };
    let fresh = || State::new("fresh", Vec::new()).owner(Owner::Nobody);
    let run = || State::new("running", running(plain)).bound();
    vec![
        fresh(),
        fresh().by("fresh, by a child", Caller::Child),
        State::new("owned", vec![own()]).unusable(),
        State::new("owned, non-blocking", vec![Step::nonblocking(), own()]).unusable(),
        State::new("owned by a child", vec![own().by(Caller::Child)]).owner(Owner::Other),
        State::new("owned, kthread", vec![kthread, own()]).unusable(),
        State::new("rings without memory", then(vec![own()], rings())).unusable(),
        State::new("memory without rings", vec![own(), usual_memory()]),
        State::new(
            "misplaced(1) rings",
            then(ready(plain), vec![misplaced(1), misplaced(0)]),
        )
        .unusable(),
        State::new("ready", ready(plain)),
        State::new("ready, legacy", ready(0)),
        run(),
        run().by("running, by a thread", Caller::Thread),
        run().by("running, by a child", Caller::Child),
        State::new("stopped", then(running(plain), backends(Fd::Unbind))),
        State::new("after reset", then(running(plain), vec![reset()])).owner(Owner::Nobody),
        State::new(
            "owned after reset",
            then(running(plain), vec![reset(), own()]),
        ),
        State::new(
            "ready, logging",
            then(ready(plain), vec![log.clone(), set_features(logging)]),
        ),
        State::new(
            "running, logging",
            then(running(plain), vec![log, set_features(logging)]),
        )
        .bound(),
        State::new("translated", then(vec![message_v2.clone()], ready(iotlb))),
        State::new("translated, old messages", ready(iotlb)),
        State::new(
            "running, translated",
            [
                vec![message_v2],
                ready(iotlb),
                vec![translation()],
                backends(Fd::Tap),
            ]
            .concat(),
        )
        .bound()
        .misses(),
        State::new(
            "no longer translated",
            then(ready(iotlb), vec![set_features(plain)]),
        ),
    ]
}
