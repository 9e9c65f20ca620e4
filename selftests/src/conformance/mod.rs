// SPDX-License-Identifier: GPL-2.0

//! The same calls on both devices, compared one by one: result, error number, bytes written.
//!
//! [`calls`] is the table of calls, [`states`] are the states in which each is made,
//! [`differences`] where the devices differ on purpose; everything else has to be the same.
//! [`random`] makes the calls in any order. A step is data ([`step`]), made on each device by its
//! [`side`].

pub mod calls;
pub mod differences;
pub mod ioctls;
pub mod random;
pub mod side;
pub mod states;
pub mod step;

use anyhow::{Context, Result};
use differences::Difference;
use side::Side;
use states::State;
use std::path::Path;
use step::{Action, Caller, Outcome, Step};

/// After how many calls that should change nothing it is seen to.
const UNSEEN: usize = 16;

/// A child, which is a process each, makes one call of so many: a number that has no factor in
/// common with how the table repeats itself.
const CHILDREN: usize = 11;

/// Both devices.
#[derive(Debug)]
pub struct Pair {
    c: Side,
    rnet: Side,
}

/// What a step did on both devices.
#[derive(Clone, Debug)]
pub struct Both {
    /// On the in-tree device.
    pub c: Outcome,
    /// On ours.
    pub rnet: Outcome,
}

impl Both {
    /// Whether both did the same.
    #[must_use]
    pub fn same(&self) -> bool {
        self.c == self.rnet
    }

    /// Whether either did something.
    fn any_succeeded(&self) -> bool {
        self.c.result.is_ok() || self.rnet.result.is_ok()
    }

    /// A line that says what `step` did.
    #[must_use]
    pub fn tell(&self, step: &Step) -> String {
        format!("{step}: in-tree: {}; rnet: {}", self.c, self.rnet)
    }
}

impl Pair {
    /// Opens both devices.
    ///
    /// # Errors
    ///
    /// When one is missing, or the kernel refuses what the calls refer to.
    pub fn open(c: &Path, rnet: &Path) -> Result<Self> {
        Ok(Self {
            c: Side::new(c, "tapc")?,
            rnet: Side::new(rnet, "tapr")?,
        })
    }

    /// Opens both devices anew.
    ///
    /// # Errors
    ///
    /// When the kernel has no memory.
    pub fn reopen(&mut self) -> Result<()> {
        self.c.reopen()?;
        self.rnet.reopen()
    }

    /// Takes `step` on both devices.
    ///
    /// # Errors
    ///
    /// When it cannot be taken at all.
    pub fn run(&self, step: &Step) -> Result<Both> {
        let mut both = Both {
            c: self.c.run(step).with_context(|| step.to_string())?,
            rnet: self.rnet.run(step).with_context(|| step.to_string())?,
        };
        differences::hide_offer(step, &mut both.rnet);
        Ok(both)
    }
}

/// What the calls of a state showed.
#[derive(Debug, Default)]
pub struct Report {
    /// Calls that were compared.
    pub compared: usize,
    /// How often the state was made.
    pub made: usize,
    /// How often each of [`differences::ALL`] was seen, and an example.
    pub expected: Vec<(usize, String)>,
    /// What is not as it should be: the first of each kind, and how many there are.
    wrong: Vec<Wrong>,
}

/// Differences of one kind.
#[derive(Debug)]
struct Wrong {
    /// The call's name and both results.
    kind: (String, [Result<u64, i32>; 2]),
    /// The first, and what else there is to say about it.
    example: String,
    /// How many there are.
    count: usize,
}

impl Report {
    fn new() -> Self {
        Self {
            expected: vec![(0, String::new()); differences::ALL.len()],
            ..Self::default()
        }
    }

    fn wrong(&mut self, step: &Step, both: &Both, what: &str, after: &str) {
        // A call under another number than its own is called "NAME as ...".
        let name = step.name.split(" as ").next().unwrap_or_default();
        let kind = (name.to_owned() + what, [both.c.result, both.rnet.result]);
        match self.wrong.iter_mut().find(|wrong| wrong.kind == kind) {
            Some(wrong) => wrong.count += 1,
            None => self.wrong.push(Wrong {
                kind,
                example: format!("{}{after}", both.tell(step)),
                count: 1,
            }),
        }
    }

    /// What is not as it should be, a line each.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let line = |wrong: &Wrong| match wrong.count {
            1 => wrong.example.clone(),
            count => format!("{} ({count} times)", wrong.example),
        };
        self.wrong.iter().map(line).collect()
    }

    /// Compares what can be seen of the devices, after what `after` names.
    fn observe(&mut self, pair: &Pair, state: &State, after: &str) -> Result<()> {
        for observer in calls::observers() {
            if state.misses && observer.action == Action::Poll {
                continue;
            }
            let both = pair.run(&observer)?;
            self.compared += 1;
            if !both.same() {
                self.wrong(&observer, &both, " seen", &format!(", after {after}"));
            }
        }
        Ok(())
    }

    /// Compares what `step` did with what is meant in `state`.
    fn compare(&mut self, state: &State, step: &Step, both: &Both) {
        self.compared += 1;
        let meant = |(_, difference): &(usize, &Difference)| difference.foretells(state, step);
        match differences::ALL.iter().enumerate().find(meant) {
            None if both.same() => {}
            None => self.wrong(step, both, "", ""),
            Some((_, difference)) if both.same() => {
                let after = format!(": the same, though marked: {}", difference.reason);
                self.wrong(step, both, " marked", &after);
            }
            Some((_, difference)) if !(difference.outcomes)(&both.c, &both.rnet) => {
                let after = format!(": differs in another way than: {}", difference.reason);
                self.wrong(step, both, " marked", &after);
            }
            Some((index, _)) => {
                if let Some((count, example)) = self.expected.get_mut(index) {
                    *count += 1;
                    *example = both.tell(step);
                }
            }
        }
    }
}

/// Leads both devices to `state`; false if that failed, and the report says why.
fn prepare(pair: &mut Pair, state: &State, report: &mut Report) -> Result<bool> {
    report.made += 1;
    pair.reopen()?;
    for step in &state.before {
        let both = pair.run(step)?;
        if !both.same() || both.c.result.is_err() {
            report.wrong(step, &both, " before", ", on the way to the state");
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes all calls in `state`.
///
/// A call that succeeds may change the device: after it, and what can be seen of the change, the
/// state is made anew. Calls that fail must change nothing.
///
/// # Errors
///
/// When the calls cannot be made.
pub fn table(pair: &mut Pair, state: &State) -> Result<Report> {
    let mut report = Report::new();
    if !prepare(pair, state, &mut report)? {
        return Ok(report);
    }
    let mut steps = calls::defined();
    if !state.bound {
        steps.extend(calls::long());
    }
    let share = match state.caller {
        Caller::Child => CHILDREN,
        Caller::Main | Caller::Thread => 1,
    };
    let mut unseen = 0;
    for step in steps.into_iter().step_by(share) {
        let step = step.by(state.caller);
        let parts = differences::ALL
            .iter()
            .any(|difference| difference.parts(&step));
        if parts && unseen > 0 {
            // While what is seen still has to be the same.
            report.observe(pair, state, &format!("{unseen} calls before {step}"))?;
            unseen = 0;
        }
        let both = pair.run(&step)?;
        report.compare(state, &step, &both);
        let renew = (both.any_succeeded() && !step.only_reads()) || !both.same();
        if renew && parts {
            if !prepare(pair, state, &mut report)? {
                return Ok(report);
            }
            continue;
        }
        unseen += 1;
        if renew || unseen >= UNSEEN {
            report.observe(pair, state, &format!("{step}, or {} before", unseen - 1))?;
            unseen = 0;
        }
        if renew && !prepare(pair, state, &mut report)? {
            return Ok(report);
        }
    }
    for step in calls::strange().into_iter().step_by(share) {
        let step = step.by(state.caller);
        let both = pair.run(&step)?;
        report.compare(state, &step, &both);
    }
    report.observe(pair, state, "calls that are not defined")?;
    Ok(report)
}
