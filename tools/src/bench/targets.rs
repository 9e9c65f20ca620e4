// SPDX-License-Identifier: GPL-2.0
//! Targets for instructions per packet, and whether they are reached.

use super::ratios::Rows;

/// What the instructions of a case are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Against {
    /// The same case on the kernel's own device.
    C,
    /// Another case on our own device.
    Ours(&'static str),
}

/// Case, what it is compared with, and the ratio that it must not exceed.
const TARGETS: &[(&str, Against, f64)] = &[
    ("tx-60", Against::C, 0.78),
    ("tx-60-indirect", Against::C, 0.72),
    ("tx-1500", Against::C, 0.85),
    ("tx-4200", Against::C, 0.60),
    ("tx-9000", Against::C, 0.60),
    ("tx-65000", Against::C, 0.60),
    ("rx-60", Against::C, 0.45),
    ("rx-1500", Against::C, 0.70),
    ("rx-9000", Against::C, 0.92),
    ("rx-65000", Against::C, 0.985),
    ("tx-60-regions512-local", Against::Ours("tx-60"), 1.02),
    ("rx-60-regions512-local", Against::Ours("rx-60"), 1.02),
    ("tx-60-regions512", Against::Ours("tx-60"), 1.02),
    ("rx-60-regions512", Against::Ours("rx-60"), 1.02),
    ("tx-60-batch1", Against::C, 0.90),
    ("rx-60-batch1", Against::C, 0.85),
    ("tx-60-packed", Against::Ours("tx-60"), 0.97),
    ("rx-60-packed", Against::Ours("rx-60"), 0.97),
    ("tx-60-packed-in_order", Against::Ours("tx-60"), 0.94),
    ("rx-60-packed-in_order", Against::Ours("rx-60"), 0.94),
    (
        "tx-60-packed-indirect",
        Against::Ours("tx-60-indirect"),
        1.00,
    ),
    (
        "rx-60-packed-indirect",
        Against::Ours("rx-60-indirect"),
        1.00,
    ),
];

/// The result for one target.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The case.
    pub case: &'static str,
    /// What it is compared with.
    pub against: &'static str,
    /// The ratio that it must not exceed.
    pub bound: f64,
    /// The ratio found, if both were measured.
    pub found: Option<f64>,
    /// The same comparison on the kernel's own device, if it is one of cases.
    pub theirs: Option<f64>,
}

impl Verdict {
    /// Whether the target is reached.
    pub fn holds(&self) -> Option<bool> {
        self.found.map(|found| found <= self.bound)
    }
}

/// Compares `rows` with all targets.
pub fn judge(rows: &Rows) -> Vec<Verdict> {
    TARGETS
        .iter()
        .map(|&(case, against, bound)| {
            let row = rows.get(case);
            let (against, found, theirs) = match against {
                Against::C => ("vhost-net", row.and_then(|row| rows.ratio(row)), None),
                Against::Ours(other) => {
                    let base = rows.get(other);
                    let ours = row
                        .and_then(|row| row.ours)
                        .zip(base.and_then(|row| row.ours));
                    let theirs = row
                        .and_then(|row| row.theirs)
                        .zip(base.and_then(|row| row.theirs));
                    let divide = |(a, b): (super::ratios::Figures, super::ratios::Figures)| {
                        a.instructions / b.instructions
                    };
                    (other, ours.map(divide), theirs.map(divide))
                }
            };
            Verdict {
                case,
                against,
                bound,
                found,
                theirs,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::ratios::tests::run;
    use crate::vm::device::{C_VHOST, RNET};

    #[test]
    fn targets_are_judged_by_the_right_ratio() {
        let rows = Rows::from_records(&[
            run("tx-60", RNET, 70.0),
            run("tx-60", C_VHOST, 100.0),
            run("tx-60-regions512", RNET, 77.0),
            run("tx-60-regions512", C_VHOST, 101.0),
        ]);
        let verdicts = judge(&rows);
        let of = |case| verdicts.iter().find(|v| v.case == case).unwrap();
        assert_eq!(of("tx-60").holds(), Some(true));
        assert_eq!(of("tx-60-regions512").found, Some(1.1));
        assert_eq!(of("tx-60-regions512").holds(), Some(false));
        assert_eq!(of("tx-60-regions512").theirs, Some(1.01));
        assert_eq!(of("rx-60").holds(), None);
    }

    #[test]
    fn every_target_is_measured_by_the_quick_run() {
        let quick: Vec<String> = selftests::bench::case::quick()
            .iter()
            .map(|case| case.name())
            .collect();
        for (case, against, _) in TARGETS {
            assert!(quick.iter().any(|name| name == case), "{case}");
            if let Against::Ours(other) = against {
                assert!(quick.iter().any(|name| name == other), "{other}");
            }
        }
    }
}
