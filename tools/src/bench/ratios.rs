// SPDX-License-Identifier: GPL-2.0
//! Ratios of our device's figures to those of vhost-net, or of its packed rings to its split ones, and
//! comparison with recorded ratios.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use selftests::bench::case;
use selftests::bench::record::{Instructions, Record};
use selftests::bench::stats;
use serde::{Deserialize, Serialize};

use crate::vm::device::{C_VHOST, RNET};

/// A device's figures per packet of a case, as medians of its runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Instructions of the worker.
    pub instructions: f64,
    /// Largest less smallest of them, in relation to the median, if there were several.
    pub spread: Option<f64>,
    /// Kicks.
    pub kicks: f64,
    /// Calls.
    pub calls: f64,
}

impl Figures {
    fn new(runs: &[&Instructions]) -> Option<Self> {
        let all = |what: fn(&Instructions) -> f64| -> Vec<f64> {
            runs.iter().map(|run| what(run)).collect()
        };
        let instructions = all(|run| run.per_packet);
        Some(Self {
            instructions: stats::median(&instructions)?,
            spread: (runs.len() > 1).then(|| stats::spread(&instructions)),
            kicks: stats::median(&all(|run| run.kicks))?,
            calls: stats::median(&all(|run| run.calls))?,
        })
    }
}

/// A case with the figures of both devices.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The case's name.
    pub case: String,
    /// Ours, unless it can't take part.
    pub ours: Option<Figures>,
    /// The kernel's own.
    pub theirs: Option<Figures>,
    /// Why a device is missing.
    pub note: String,
}

/// All cases, in the order in which they were measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows(pub Vec<Row>);

impl Rows {
    /// Takes the medians of all runs among `records`.
    pub fn from_records(records: &[Record]) -> Self {
        let mut names: Vec<&str> = Vec::new();
        for record in records {
            let name = match record {
                Record::Instructions(run) => &run.case,
                Record::Skipped(skipped) => &skipped.case,
                _ => continue,
            };
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        Self(names.iter().map(|name| row(records, name)).collect())
    }

    /// What our device's instructions in a row are compared with: those of the kernel's own, or of
    /// our split rings if the row's are packed, which the kernel's own device has not.
    fn reference(&self, row: &Row) -> Option<f64> {
        let figures = match case::split_twin(&row.case) {
            Some(split) => self.get(&split)?.ours,
            None => row.theirs,
        };
        figures.map(|figures| figures.instructions)
    }

    /// Our device's instructions in a row in relation to those that they are compared with.
    pub fn ratio(&self, row: &Row) -> Option<f64> {
        let reference = self.reference(row).filter(|count| *count > 0.0)?;
        Some(row.ours?.instructions / reference)
    }

    /// The row of a case.
    pub fn get(&self, case: &str) -> Option<&Row> {
        self.0.iter().find(|row| row.case == case)
    }
}

fn row(records: &[Record], case: &str) -> Row {
    let of = |device: &str| {
        let runs: Vec<&Instructions> = records
            .iter()
            .filter_map(|record| match record {
                Record::Instructions(run) if run.case == case && run.device == device => Some(run),
                _ => None,
            })
            .collect();
        Figures::new(&runs)
    };
    let mut notes: Vec<String> = Vec::new();
    for record in records {
        match record {
            Record::Skipped(skipped) if skipped.case == case => {
                let note = format!("{}: {}", skipped.device, skipped.reason);
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
            _ => {}
        }
    }
    Row {
        case: case.to_owned(),
        ours: of(RNET),
        theirs: of(C_VHOST),
        note: notes.join("; "),
    }
}

/// The recorded figures of a case.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedCase {
    /// Our instructions in relation to those that they are compared with.
    pub ratio: f64,
    /// Our instructions per packet, for information: they change with the kernel.
    pub rnet: f64,
    /// Those that they are compared with, likewise.
    pub reference: f64,
}

/// Ratios of an earlier run, which are comparable across kernels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// The kernel of that run.
    pub kernel: String,
    /// By the name of the case.
    pub cases: BTreeMap<String, RecordedCase>,
}

impl Recorded {
    /// Takes what is to be recorded of `rows`.
    pub fn new(kernel: String, rows: &Rows) -> Self {
        let round = |value: f64, digits: f64| (value * digits).round() / digits;
        let cases = rows.0.iter().filter_map(|row| {
            let recorded = RecordedCase {
                ratio: round(rows.ratio(row)?, 1e4),
                rnet: round(row.ours?.instructions, 10.0),
                reference: round(rows.reference(row)?, 10.0),
            };
            Some((row.case.clone(), recorded))
        });
        Self {
            kernel,
            cases: cases.collect(),
        }
    }

    /// Reads the file at `path`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// Writes the file at `path`.
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        std::fs::write(path, json).with_context(|| format!("writing {}", path.display()))
    }

    /// Tells which recorded cases have become worse by more than `tolerance`,
    /// or were not measured.
    pub fn worse(&self, rows: &Rows, tolerance: f64) -> Vec<String> {
        let mut worse = Vec::new();
        for (case, before) in &self.cases {
            match rows.get(case).and_then(|row| rows.ratio(row)) {
                Some(now) if now > before.ratio + tolerance => worse.push(format!(
                    "{case}: ratio {now:.3}, {:.3} recorded",
                    before.ratio
                )),
                Some(_) => {}
                None => worse.push(format!(
                    "{case}: not measured, {:.3} recorded",
                    before.ratio
                )),
            }
        }
        worse
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use selftests::bench::record::Skipped;

    /// A run of `case` on `device`.
    pub fn run(case: &str, device: &str, per_packet: f64) -> Record {
        Record::Instructions(Instructions {
            case: case.to_owned(),
            device: device.to_owned(),
            run: 1,
            packets: 64,
            per_packet,
            kicks: 0.5,
            calls: 0.25,
            slices: 0.5,
        })
    }

    #[test]
    fn runs_become_medians() {
        let rows = Rows::from_records(&[
            run("b", RNET, 80.0),
            run("b", C_VHOST, 100.0),
            run("b", RNET, 90.0),
            run("b", RNET, 70.0),
            run("a", C_VHOST, 50.0),
            Record::Skipped(Skipped {
                case: "a".into(),
                device: RNET.into(),
                reason: "no".into(),
            }),
        ]);
        let names: Vec<_> = rows.0.iter().map(|row| row.case.as_str()).collect();
        assert_eq!(names, ["b", "a"]);
        let row = rows.get("b").unwrap();
        assert_eq!(rows.ratio(row), Some(0.8));
        assert_eq!(row.ours.unwrap().spread, Some(0.25));
        let other = rows.get("a").unwrap();
        assert_eq!(rows.ratio(other), None);
        assert!(other.note.contains("no"));
    }

    #[test]
    fn packed_rings_are_compared_with_our_split_ones() {
        let rows = Rows::from_records(&[
            run("x-1", RNET, 80.0),
            run("x-1", C_VHOST, 100.0),
            run("x-packed-1", RNET, 60.0),
        ]);
        let ratio = |rows: &Rows, case| rows.ratio(rows.get(case).unwrap());
        assert_eq!(ratio(&rows, "x-packed-1"), Some(0.75));
        let recorded = Recorded::new("k".into(), &rows);
        assert_eq!(recorded.cases["x-packed-1"].reference, 80.0);
        let alone = Rows::from_records(&[run("x-packed-1", RNET, 60.0)]);
        assert_eq!(ratio(&alone, "x-packed-1"), None);
        assert_eq!(recorded.worse(&alone, 0.02).len(), 2);
    }

    #[test]
    fn only_what_is_clearly_worse_is_told() {
        let before = Rows::from_records(&[run("x", RNET, 80.0), run("x", C_VHOST, 100.0)]);
        let recorded = Recorded::new("k".into(), &before);
        let now = |ours, theirs| {
            let rows = Rows::from_records(&[run("x", RNET, ours), run("x", C_VHOST, theirs)]);
            recorded.worse(&rows, 0.02)
        };
        assert!(now(80.0, 100.0).is_empty());
        assert!(now(81.9, 100.0).is_empty());
        assert_eq!(now(82.5, 100.0).len(), 1);
        // Another kernel, the same ratio.
        assert!(now(160.0, 200.0).is_empty());
        assert_eq!(recorded.worse(&Rows::default(), 0.02).len(), 1);
    }

    #[test]
    fn records_survive_a_file() {
        let rows = Rows::from_records(&[run("x", RNET, 80.0), run("x", C_VHOST, 100.0)]);
        let recorded = Recorded::new("k".into(), &rows);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/recorded.json");
        recorded.write(&path).unwrap();
        assert_eq!(Recorded::read(&path).unwrap(), recorded);
    }
}
