// SPDX-License-Identifier: GPL-2.0
//! Counting the results of tests, and naming tests on a device.

use anyhow::Result;

use crate::lab::flavor::Flavor;
use crate::tests::ktap;
use crate::vm::level1::Outcome;

/// The results of tests.
#[derive(Default)]
pub struct Tally {
    /// The number of tests that passed.
    pub passed: usize,
    /// The names of those that failed, with the reason.
    pub failed: Vec<String>,
    /// The names of those that were skipped, with the reason.
    pub skipped: Vec<String>,
}

impl Tally {
    /// Adds what `other` has counted.
    pub fn merge(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
    }

    /// Counts `result` as the test called `name`.
    pub fn count(&mut self, name: &str, result: Result<()>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => self.failed.push(format!("{name}: {error:#}")),
        }
    }

    /// Counts a KTAP report of the program called `name`.
    pub fn count_ktap(&mut self, name: &str, results: ktap::Results) {
        self.passed += results.passed.len();
        let named = |test: String| format!("{name}: {test}");
        self.failed.extend(results.failed.into_iter().map(named));
        self.skipped.extend(results.skipped.into_iter().map(named));
    }

    /// Counts whether the kernel of a VM reported a bug, as a test of its own.
    pub fn count_kernel(&mut self, name: &str, outcome: &Outcome) {
        self.count(&format!("{name}: kernel log"), outcome.check_kernel());
    }

    /// Counts a VM that ran a program called `name`, which reports in KTAP.
    pub fn count_run(&mut self, name: &str, ran: Result<Outcome>) {
        let outcome = match ran {
            Ok(outcome) => outcome,
            Err(error) => {
                self.failed.push(format!("{error:#}"));
                return;
            }
        };
        let results = ktap::parse(&outcome.stdout);
        let told = !results.failed.is_empty();
        for test in &results.failed {
            println!("  FAILED {name}: {test}");
        }
        self.count_ktap(name, results);
        // A program that reported no failed test and yet failed counts as one failure.
        if !told && outcome.status != 0 {
            self.count(name, outcome.check_status());
        }
        self.count_kernel(name, &outcome);
    }

    /// Prints a summary; returns whether all passed.
    pub fn report(&self) -> bool {
        for skipped in &self.skipped {
            println!("skipped: {skipped}");
        }
        for failed in &self.failed {
            println!("FAILED: {failed}");
        }
        println!("{} passed, {} failed", self.passed, self.failed.len());
        self.failed.is_empty()
    }
}

/// The name of a test on `device` with a kernel of this flavor.
pub fn title(test: &str, flavor: Flavor, device: &str) -> String {
    match flavor {
        Flavor::Packaged => format!("{test} {device}"),
        _ => format!("{flavor} {test} {device}"),
    }
}
