// SPDX-License-Identifier: GPL-2.0

//! Models of the notifications between a driver and a device of `vring`.
//!
//! Both sides are threads over the same memory. No chain may be left while the device waits for a
//! kick that is not coming ([`kicks`]), also when the owner stops the device and starts it again
//! ([`stop`]) or the queue stops for another reason ([`go_on`]). No used buffer may be left while
//! the driver waits for a call ([`calls`]). With a barrier left out or a rule broken, each model
//! has to fail, or it proves nothing.

#![cfg(test)]

mod calls;
mod device;
mod driver;
mod go_on;
mod kicks;
mod memory;
mod stop;
mod stopped;

use memory::{Broken, Shared};

/// A ring format, and the way in which its two sides request notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    /// Whether it is a packed ring.
    packed: bool,
    /// Whether event indexes were negotiated.
    event_idx: bool,
}

/// Split rings.
const SPLIT: [Kind; 2] = kinds(false);

/// Packed rings.
const PACKED: [Kind; 2] = kinds(true);

/// With flags, and with event indexes.
const fn kinds(packed: bool) -> [Kind; 2] {
    let flags = Kind {
        packed,
        event_idx: false,
    };
    let events = Kind {
        packed,
        event_idx: true,
    };
    [flags, events]
}

/// Evaluates an expression with the ring in force.
macro_rules! with_ring {
    ($rings:expr, |$ring:ident| $what:expr) => {
        match $rings.in_force() {
            vring::InForce::Split($ring) => $what,
            vring::InForce::Packed($ring) => $what,
        }
    };
}
use with_ring;

/// Number of chains that pass through the ring: the transmit worker turns kicks off at the second
/// chain, and on when none is left.
const CHAINS: u16 = 3;

/// Preemptions tried with two threads; two preemptions are enough to detect every broken rule.
const PREEMPTIONS: usize = 3;

/// Runs `model` in every order of accesses with up to `LOOM_MAX_PREEMPTIONS`, or else
/// `preemptions`, preemptions.
fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(model);
}
