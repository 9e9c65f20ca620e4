// SPDX-License-Identifier: GPL-2.0
//! What the full run writes: tables and the data of charts.

use comfy_table::presets::{ASCII_MARKDOWN, UTF8_FULL_CONDENSED};
use comfy_table::{CellAlignment, Table};
use rnet_e2e::Report as Guest;
use selftests::bench::case::{self, Case};
use selftests::bench::record::{Floor, Record};
use selftests::bench::stats;
use serde::Serialize;

use super::chart::Bar;
use super::ratios::{Figures, Rows};
use super::targets::{self, Verdict};
use crate::vm::device::{C_VHOST, RNET};

/// All results of a full run.
#[derive(Default, Serialize)]
pub struct Report {
    /// The kernel that everything ran on.
    pub kernel: String,
    /// What ran the processors when time was measured.
    pub wallclock_on: String,
    /// What the measuring program printed.
    pub records: Vec<Record>,
    /// How guests fared.
    pub guests: Vec<Guest>,
}

/// The case in which throughput is to be clearly higher, and by how much.
const FAST_CASE: &str = "tx-60";
const FAST_BOUND: f64 = 1.15;

/// Runs of one thing on both devices.
#[derive(Clone, Debug, PartialEq)]
struct Pair {
    name: String,
    ours: Vec<f64>,
    theirs: Vec<f64>,
    /// Nanoseconds of the workers per packet.
    ours_worker: Vec<f64>,
    theirs_worker: Vec<f64>,
}

/// Which values are the better ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    High,
    Low,
}

impl Pair {
    /// Whether all of our runs are worse than each of theirs: worse beyond the
    /// spread.
    fn worse(&self, better: Better) -> bool {
        let (ours, theirs) = match better {
            Better::High => (&self.ours, &self.theirs),
            Better::Low => (&self.theirs, &self.ours),
        };
        let high = ours.iter().copied().reduce(f64::max);
        let low = theirs.iter().copied().reduce(f64::min);
        high.zip(low).is_some_and(|(high, low)| high < low)
    }

    /// How the target stands that nothing is slower, and small frames faster.
    fn verdict(&self, better: Better) -> &'static str {
        let fast = self.name == FAST_CASE && better == Better::High;
        if fast && self.ratio().is_some_and(|ratio| ratio < FAST_BOUND) {
            "MISSED"
        } else if self.worse(better) {
            "WORSE"
        } else {
            "holds"
        }
    }

    fn ratio(&self) -> Option<f64> {
        let theirs = stats::median(&self.theirs).filter(|value| *value > 0.0)?;
        Some(stats::median(&self.ours)? / theirs)
    }

    /// Smallest and largest ratio of neighbouring runs: what one run alone may show.
    fn range(&self) -> Option<(f64, f64)> {
        let ratios: Vec<f64> = self
            .ours
            .iter()
            .zip(&self.theirs)
            .filter(|(_, theirs)| **theirs > 0.0)
            .map(|(ours, theirs)| ours / theirs)
            .collect();
        let low = ratios.iter().copied().reduce(f64::min)?;
        let high = ratios.iter().copied().reduce(f64::max)?;
        (ratios.len() > 1).then_some((low, high))
    }
}

/// Collects `(name, device, value, worker)` of records that `pick` knows.
fn pairs(
    records: &[Record],
    pick: impl Fn(&Record) -> Option<(String, &str, f64, f64)>,
) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    for (name, device, value, worker) in records.iter().filter_map(pick) {
        let at = pairs.iter().position(|pair| pair.name == name);
        let at = at.unwrap_or_else(|| {
            pairs.push(Pair {
                name,
                ours: Vec::new(),
                theirs: Vec::new(),
                ours_worker: Vec::new(),
                theirs_worker: Vec::new(),
            });
            pairs.len() - 1
        });
        if let Some(pair) = pairs.get_mut(at) {
            if device == RNET {
                pair.ours.push(value);
                pair.ours_worker.push(worker);
            } else if device == C_VHOST {
                pair.theirs.push(value);
                pair.theirs_worker.push(worker);
            }
        }
    }
    pairs
}

fn throughput(records: &[Record]) -> Vec<Pair> {
    pairs(records, |record| match record {
        Record::Throughput(r) => {
            let name = match r.pairs {
                1 => r.case.clone(),
                pairs => format!("{}, {pairs} queue pairs", r.case),
            };
            Some((name, &r.device, r.packets_per_second, r.worker_ns))
        }
        _ => None,
    })
}

fn latency(records: &[Record]) -> Vec<Pair> {
    pairs(records, |record| match record {
        Record::Latency(r) => Some((r.case.clone(), &r.device, r.median_ns, r.worker_ns)),
        _ => None,
    })
}

fn floors(records: &[Record]) -> Vec<&Floor> {
    records
        .iter()
        .filter_map(|record| match record {
            Record::Floor(floor) => Some(floor),
            _ => None,
        })
        .collect()
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

/// A table with numbers to the right of the first column.
fn table(header: &[&str], rows: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Instructions of both devices by case, and what the tap alone costs where
/// `floors` know it.
pub fn instructions_table(rows: &Rows, floors: &[&Floor]) -> Table {
    let body = rows.0.iter().map(|row| {
        let instructions = |f: Option<Figures>| number(f.map(|f| f.instructions), 0);
        let rates = |f: Option<Figures>, what: fn(Figures) -> f64| number(f.map(what), 4);
        let floor = floors.iter().find(|floor| floor.case == row.case);
        let spread = [row.ours, row.theirs]
            .iter()
            .flatten()
            .filter_map(|figures| figures.spread)
            .reduce(f64::max);
        let mut cells = vec![
            row.case.clone(),
            instructions(row.ours),
            instructions(row.theirs),
            number(row.ratio(), 3),
            rates(row.ours, |f| f.kicks),
            rates(row.theirs, |f| f.kicks),
            rates(row.ours, |f| f.calls),
            rates(row.theirs, |f| f.calls),
            spread.map_or("-".to_owned(), |spread| format!("{:.2} %", spread * 100.0)),
        ];
        if !floors.is_empty() {
            cells.push(number(floor.map(|floor| floor.per_packet), 0));
        }
        if !row.note.is_empty()
            && let Some(first) = cells.first_mut()
        {
            first.push_str(&format!(" ({})", row.note));
        }
        cells
    });
    let mut header = vec![
        "instructions per packet",
        "rnet",
        "C",
        "rnet/C",
        "kicks rnet",
        "kicks C",
        "calls rnet",
        "calls C",
        "spread",
    ];
    if !floors.is_empty() {
        header.push("tap alone");
    }
    table(&header, body.collect())
}

/// Which targets hold.
pub fn targets_table(verdicts: &[Verdict]) -> Table {
    let body = verdicts.iter().map(|verdict| {
        vec![
            verdict.case.to_owned(),
            verdict.against.to_owned(),
            format!("{:.2}", verdict.bound),
            number(verdict.found, 3),
            number(verdict.theirs, 3),
            match verdict.holds() {
                Some(true) => "holds",
                Some(false) => "MISSED",
                None => "not measured",
            }
            .to_owned(),
        ]
    });
    table(
        &["target", "against", "at most", "found", "C likewise", ""],
        body.collect(),
    )
}

/// Where each device's instructions go: shares of a profile, of the figures
/// that were found without one.
fn share_table(records: &[Record], rows: &Rows) -> Option<Table> {
    let body: Vec<Vec<String>> = records
        .iter()
        .filter_map(|record| {
            let Record::Share(share) = record else {
                return None;
            };
            let row = rows.get(&share.case);
            let figures = row.and_then(|row| match share.device.as_str() {
                RNET => row.ours,
                _ => row.theirs,
            });
            let part = |part: f64| {
                let count = figures.map(|figures| figures.instructions * part);
                format!("{} ({:.0} %)", number(count, 0), part * 100.0)
            };
            Some(vec![
                share.case.clone(),
                share.device.clone(),
                number(figures.map(|figures| figures.instructions), 0),
                part(share.tap),
                part(share.notify),
                part(share.own),
            ])
        })
        .collect();
    let header = [
        "case",
        "device",
        "instructions per packet",
        "tap and network stack",
        "notifications, scheduler",
        "vhost's own",
    ];
    (!body.is_empty()).then(|| table(&header, body))
}

fn clock_table(unit: &str, pairs: &[Pair], (digits, scale): (usize, f64), better: Better) -> Table {
    let body = pairs.iter().map(|pair| {
        let value = |values: &[f64]| number(stats::median(values).map(|v| v * scale), digits);
        let spread = |values: &[f64]| format!("{:.0} %", stats::spread(values) * 100.0);
        let range = pair.range();
        vec![
            pair.name.clone(),
            value(&pair.ours),
            spread(&pair.ours),
            value(&pair.theirs),
            spread(&pair.theirs),
            number(pair.ratio(), 2),
            range.map_or("-".to_owned(), |(low, high)| {
                format!("{low:.2} to {high:.2}")
            }),
            number(stats::median(&pair.ours_worker), 0),
            number(stats::median(&pair.theirs_worker), 0),
            pair.verdict(better).to_owned(),
        ]
    });
    table(
        &[
            unit,
            "rnet",
            "spread",
            "C",
            "spread",
            "rnet/C",
            "run by run",
            "worker ns rnet",
            "worker ns C",
            "not worse",
        ],
        body.collect(),
    )
}

fn guest_table(guests: &[Guest]) -> Table {
    let mut names: Vec<&str> = Vec::new();
    for guest in guests {
        if !names.contains(&guest.backend.as_str()) {
            names.push(&guest.backend);
        }
    }
    let body = names.iter().map(|name| {
        let median = |what: fn(&Guest) -> f64, scale: f64| {
            let mine = guests.iter().filter(|guest| guest.backend == *name);
            let runs = mine.filter(|guest| guest.error.is_none());
            let values: Vec<f64> = runs.map(what).collect();
            let middle = stats::median(&values).map(|value| value * scale);
            format!(
                "{} ± {:.0} %",
                number(middle, 1),
                stats::spread(&values) * 50.0
            )
        };
        vec![
            (*name).to_owned(),
            median(|g| g.guest_sends, 1e-6),
            median(|g| g.guest_receives, 1e-6),
            median(|g| g.udp_sends, 1e-6),
            median(|g| g.udp_receives, 1e-6),
            median(|g| g.requests, 1.0),
        ]
    });
    table(
        &[
            "guest on",
            "TCP out Mbit/s",
            "TCP in Mbit/s",
            "UDP out Mbit/s",
            "UDP in Mbit/s",
            "requests/s",
        ],
        body.collect(),
    )
}

fn section(out: &mut String, title: &str, mut table: Table, about: &str) {
    table.load_style(ASCII_MARKDOWN);
    out.push_str(&format!("\n## {title}\n\n{about}\n\n{table}\n"));
}

impl Report {
    /// All tables, as Markdown.
    pub fn markdown(&self) -> String {
        let mut out = format!(
            "# vhost-rnet and vhost-net\n\nBoth on kernel {}, in the same boot, taking turns.\n",
            self.kernel
        );
        let rows = Rows::from_records(&self.records);
        if !rows.0.is_empty() {
            let verdicts = targets_table(&targets::judge(&rows));
            section(
                &mut out,
                "Targets",
                verdicts,
                "Instructions of the worker per packet.",
            );
            let floors = floors(&self.records);
            let mut about = "One instruction is one virtual nanosecond of the worker's run time. \
                             Base case: one region, 256 descriptors, batches of 64. \"Local\" \
                             regions: all buffers lie in one of them."
                .to_owned();
            if let Some(call) = floors.iter().find(|floor| floor.case == "system-call") {
                about.push_str(&format!(
                    " The tap alone: write(2) or read(2) of the same frame by a process, a system \
                     call of {:.0} instructions included; vhost pays less where it hands over \
                     frames in batches.",
                    call.per_packet
                ));
            }
            let table = instructions_table(&rows, &floors);
            section(&mut out, "Instructions per packet", table, &about);
            if let Some(table) = share_table(&self.records, &rows) {
                let about = "By profile of the worker. What runs below the tap's send and receive \
                             calls is the floor that no vhost can go below; of a received frame \
                             that includes the copy to the guest, if the tap makes it.";
                section(&mut out, "Vhost's own share", table, about);
            }
        }
        let clock = format!(
            "By the clock, processors run by {}: medians of all runs, spread is largest less \
             smallest. Only ratios mean something on another machine.",
            self.wallclock_on
        );
        let pairs = throughput(&self.records);
        if !pairs.is_empty() {
            let table = clock_table("packets/s", &pairs, (0, 1.0), Better::High);
            section(&mut out, "Throughput", table, &clock);
        }
        let pairs = latency(&self.records);
        if !pairs.is_empty() {
            let table = clock_table("median µs", &pairs, (1, 1e-3), Better::Low);
            section(&mut out, "One packet at a time", table, &clock);
        }
        if !self.guests.is_empty() {
            let about = "A QEMU guest with virtio-net: iperf3, and pings each sent on the answer \
                         to the one before. Medians; UDP into a guest is what its device receives.";
            section(&mut out, "A guest's view", guest_table(&self.guests), about);
            for guest in &self.guests {
                if let Some(error) = &guest.error {
                    let line = format!("\nA run on {} failed: {error}\n", guest.backend);
                    out.push_str(&line);
                }
            }
        }
        out
    }

    /// File name, title and bars of each chart.
    pub fn charts(&self) -> Vec<(&'static str, &'static str, Vec<Bar>)> {
        let bars = |pairs: Vec<Pair>| {
            let bar = |pair: &Pair| {
                Some(Bar {
                    label: pair.name.clone(),
                    ratio: pair.ratio()?,
                    range: pair.range(),
                })
            };
            pairs.iter().filter_map(bar).collect()
        };
        let rows = Rows::from_records(&self.records);
        let instructions: Vec<Bar> = rows
            .0
            .iter()
            .filter_map(|row| {
                Some(Bar {
                    label: row.case.clone(),
                    ratio: row.ratio()?,
                    range: None,
                })
            })
            .collect();
        let quick: Vec<String> = case::quick().iter().map(Case::name).collect();
        let important = instructions.iter().filter(|bar| quick.contains(&bar.label));
        vec![
            (
                "instructions.svg",
                "Worker instructions per packet (less is better)",
                important.cloned().collect(),
            ),
            (
                "instructions-all.svg",
                "Worker instructions per packet (less is better)",
                instructions,
            ),
            (
                "throughput.svg",
                "Packets per second (more is better)",
                bars(throughput(&self.records)),
            ),
            (
                "latency.svg",
                "Time of one packet at a time (less is better)",
                bars(latency(&self.records)),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::ratios::tests::run;
    use selftests::bench::record::Throughput;

    fn report() -> Report {
        let speed = |device: &str, run, packets_per_second| {
            Record::Throughput(Throughput {
                case: "tx-60".into(),
                device: device.into(),
                run,
                pairs: 2,
                packets_per_second,
                worker_ns: 5.0,
                kicks: 0.0,
                calls: 0.0,
            })
        };
        Report {
            kernel: "7.x".into(),
            wallclock_on: "Tcg".into(),
            records: vec![
                run("tx-60", RNET, 70.0),
                run("tx-60", C_VHOST, 100.0),
                speed(RNET, 1, 120.0),
                speed(C_VHOST, 1, 100.0),
                speed(RNET, 2, 130.0),
                speed(C_VHOST, 2, 100.0),
            ],
            guests: Vec::new(),
        }
    }

    #[test]
    fn tables_show_ratios_and_verdicts() {
        let text = report().markdown();
        assert!(text.contains("0.700"), "{text}");
        assert!(text.contains("holds"), "{text}");
        assert!(text.contains("not measured"), "{text}");
        assert!(text.contains("tx-60, 2 queue pairs"), "{text}");
        assert!(text.contains("1.20 to 1.30"), "{text}");
        assert!(!text.contains("guest's view"), "{text}");
    }

    #[test]
    fn worse_is_what_no_run_makes_up_for() {
        let pair = |name: &str, ours: &[f64], theirs: &[f64]| Pair {
            name: name.into(),
            ours: ours.to_vec(),
            theirs: theirs.to_vec(),
            ours_worker: Vec::new(),
            theirs_worker: Vec::new(),
        };
        let close = pair("x", &[90.0, 101.0], &[100.0, 102.0]);
        assert_eq!(close.verdict(Better::High), "holds");
        let slow = pair("x", &[90.0, 99.0], &[100.0, 102.0]);
        assert_eq!(slow.verdict(Better::High), "WORSE");
        assert_eq!(slow.verdict(Better::Low), "holds");
        let fast = pair(FAST_CASE, &[110.0], &[100.0]);
        assert_eq!(fast.verdict(Better::High), "MISSED");
    }

    #[test]
    fn charts_have_a_bar_for_each_case() {
        let charts = report().charts();
        let bars = |name| &charts.iter().find(|chart| chart.0 == name).unwrap().2;
        assert_eq!(bars("instructions.svg").first().unwrap().ratio, 0.7);
        assert_eq!(
            bars("throughput.svg").first().unwrap().range,
            Some((1.2, 1.3))
        );
        assert!(bars("latency.svg").is_empty());
    }
}
