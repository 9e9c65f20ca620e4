// SPDX-License-Identifier: GPL-2.0
//! What a queue waits for, since when, whose turn it is, and what to do: pure functions of what is
//! known.

pub mod answer;
pub mod facts;
mod faults;
mod notes;
mod rules;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::device::Direction;
use answer::Answer;
use facts::Facts;

/// Everything that is said about a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The queue.
    pub queue: String,
    /// What it waits for.
    #[serde(flatten)]
    pub answer: Answer,
    /// Milliseconds since it last moved a packet; `None` if it never did, or the module does not
    /// say.
    pub since_packet_ms: Option<u64>,
    /// Milliseconds since its last fault.
    pub since_fault_ms: Option<u64>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

/// Says what a queue waits for.
#[must_use]
pub fn explain(facts: &Facts) -> Explanation {
    let counters = &facts.queue().counters;
    Explanation {
        queue: facts.direction.to_string(),
        answer: rules::answer(facts),
        since_packet_ms: counters.get("progress_ms"),
        since_fault_ms: counters.get("fault_ms"),
        notes: notes::notes(facts),
    }
}

impl Explanation {
    /// The lines that people read.
    #[must_use]
    pub fn lines(&self, counted: bool) -> Vec<String> {
        let mut lines = vec![sentence(&self.answer.what)];
        let mut since = Vec::new();
        match self.since_packet_ms {
            Some(ms) => since.push(format!("last packet {} ago", time(ms))),
            None if counted => since.push("no packet so far".to_owned()),
            None => {}
        }
        if let Some(ms) = self.since_fault_ms {
            since.push(format!("last fault {} ago", time(ms)));
        }
        if !since.is_empty() {
            lines.push(format!("Since when: {}.", since.join(", ")));
        }
        lines.push(format!("Turn: {}.", self.answer.turn));
        if let Some(advice) = &self.answer.advice {
            lines.push(format!("To do: {advice}."));
        }
        lines.extend(self.notes.iter().map(|note| format!("Note: {note}.")));
        lines
    }
}

/// `text` with a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        // A name at the beginning stays as it is.
        Some(first) if text.starts_with("the ") => {
            format!("{}{}.", first.to_ascii_uppercase(), chars.as_str())
        }
        _ => format!("{text}."),
    }
}

/// A time in the largest unit that leaves a whole number.
fn time(ms: u64) -> String {
    let (value, unit) = match ms {
        0..10_000 => return format!("{ms} ms"),
        10_000..600_000 => (ms / 1000, "s"),
        600_000..36_000_000 => (ms / 60_000, "minutes"),
        _ => (ms / 3_600_000, "hours"),
    };
    format!("{value} {unit}")
}

/// Whether a second look is needed: the queue may only seem to have lost a kick, since the guest
/// makes it after it has made buffers available.
#[must_use]
pub fn needs_second_look(device: &crate::device::Device) -> bool {
    Direction::ALL.into_iter().any(|direction| {
        let state = device.queue(direction).state.as_ref();
        state.is_some_and(|state| {
            state.available == Some(true) && state.waits_for == Some(crate::debugfs::Wait::Kick)
        })
    })
}

/// Whether the queue takes up where it was at an earlier look, without a round between.
#[must_use]
pub fn stands_still(
    before: &crate::device::Device,
    now: &crate::device::Device,
    direction: Direction,
) -> bool {
    let at = |device: &crate::device::Device| {
        let queue = device.queue(direction);
        let taken = queue.state.as_ref().and_then(|state| state.taken);
        (taken, queue.counters.get("rounds"))
    };
    at(before).0.is_some() && at(before) == at(now)
}
