// SPDX-License-Identifier: GPL-2.0
//! Jobs that run side by side, each as soon as what it needs is there.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;

use crate::tests::tally::Tally;

/// What a job does.
type Work<'a> = Box<dyn FnOnce(&mut Tally) + Send + 'a>;

/// A job, and the thing without which it cannot begin.
struct Job<'a, K> {
    needs: Option<K>,
    work: Work<'a>,
}

/// Jobs that wait. `K` names what they need.
pub struct Jobs<'a, K> {
    state: Mutex<State<'a, K>>,
    changed: Condvar,
}

struct State<'a, K> {
    waiting: Vec<Job<'a, K>>,
    made: Vec<K>,
    closed: bool,
}

impl<'a, K: PartialEq + Send> Jobs<'a, K> {
    /// No jobs.
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: Vec::new(),
                made: Vec::new(),
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Adds a job. Among those that can begin, the first one added does.
    pub fn add(&mut self, needs: Option<K>, work: impl FnOnce(&mut Tally) + Send + 'a) {
        let work = Box::new(work);
        self.state().waiting.push(Job { needs, work });
    }

    /// Runs all jobs, up to `lanes` at a time, while `make` makes what they need, and calls its
    /// argument for each thing that is there. Jobs whose thing is never made do not run: `make`
    /// counts that as a failure. Returns the sum of what was counted.
    pub fn run(self, lanes: usize, make: impl FnOnce(&dyn Fn(K), &mut Tally) + Send) -> Tally {
        let jobs = &self;
        thread::scope(|scope| {
            let maker = scope.spawn(move || {
                let _closes = Closes(jobs);
                let mut tally = Tally::default();
                make(&|thing| jobs.made(thing), &mut tally);
                tally
            });
            let lane = || {
                let mut tally = Tally::default();
                while let Some(work) = jobs.next() {
                    work(&mut tally);
                }
                tally
            };
            let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
            let mut sum = maker.join().expect("the maker does not panic");
            for lane in lanes {
                sum.merge(lane.join().expect("no lane panics"));
            }
            sum
        })
    }

    fn made(&self, thing: K) {
        self.state().made.push(thing);
        self.changed.notify_all();
    }

    /// Takes the next job that can begin; waits for one. None when no more will.
    fn next(&self) -> Option<Work<'a>> {
        let mut state = self.state();
        loop {
            let ready = |job: &Job<'_, K>| match &job.needs {
                Some(thing) => state.made.contains(thing),
                None => true,
            };
            if let Some(first) = state.waiting.iter().position(ready) {
                return Some(state.waiting.remove(first).work);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).expect("no lane panics here");
        }
    }

    fn state(&self) -> MutexGuard<'_, State<'a, K>> {
        self.state.lock().expect("no lane panics here")
    }
}

/// Says that nothing more is made, also if the maker panics: else lanes would wait forever.
struct Closes<'j, 'a, K: PartialEq + Send>(&'j Jobs<'a, K>);

impl<K: PartialEq + Send> Drop for Closes<'_, '_, K> {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn jobs_begin_when_their_thing_is_made() {
        let ran = Mutex::new(Vec::new());
        let note = |name| ran.lock().unwrap().push(name);
        let mut jobs = Jobs::new();
        for (needs, name) in [
            (Some("late"), "of late"),
            (Some("early"), "of early"),
            (Some("early"), "of early, too"),
            (None, "of nothing"),
            (Some("never"), "of never"),
        ] {
            jobs.add(needs, move |tally| {
                note(name);
                tally.count(name, Ok(()));
            });
        }
        let tally = jobs.run(1, |made, tally| {
            note("early");
            made("early");
            while ran.lock().unwrap().len() < 4 {
                std::thread::yield_now();
            }
            note("late");
            made("late");
            tally.count("never", Err(anyhow::anyhow!("cannot be made")));
        });
        let ran = ran.into_inner().unwrap();
        let at = |name| ran.iter().position(|ran| *ran == name);
        assert!(at("early") < at("of early"));
        assert!(at("of early") < at("of early, too"));
        assert!(at("late") < at("of late"));
        assert!(at("of nothing").is_some());
        assert_eq!(at("of never"), None);
        assert_eq!(tally.passed, 4);
        assert_eq!(tally.failed.len(), 1);
    }
}
