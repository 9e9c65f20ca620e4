// SPDX-License-Identifier: GPL-2.0
//! What the full run writes, as Markdown and as the data of charts.

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use rnet_e2e::Report as Guest;
use selftests::bench::case::{self, Case};
use selftests::bench::record::{Floor, Record};
use serde::Serialize;

use super::chart::Bar;
use super::pairs::{Better, Pair, latency, throughput};
use super::ratios::Rows;
use super::tables::{clock_table, guest_table, instructions_table, share_table, targets_table};
use super::targets;

/// All results of a full run.
#[derive(Default, Serialize)]
pub struct Report {
    /// The kernel that everything ran on.
    pub kernel: String,
    /// The accelerator of wall-clock measurements.
    pub wallclock_on: String,
    /// What the measuring program printed.
    pub records: Vec<Record>,
    /// The reports of guests.
    pub guests: Vec<Guest>,
}

/// The cost of the tap alone, by case.
fn floors(records: &[Record]) -> Vec<&Floor> {
    records
        .iter()
        .filter_map(|record| match record {
            Record::Floor(floor) => Some(floor),
            _ => None,
        })
        .collect()
}

/// Adds a section with a table and a paragraph `about` it.
fn section(out: &mut String, title: &str, mut table: Table, about: &str) {
    table.load_preset(ASCII_MARKDOWN);
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
                             regions: all buffers lie in one of them. The ratio is that to \
                             vhost-net, and of packed rings to split ones on vhost-rnet."
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
            // The chart is about vhost-net: no packed rings.
            .filter(|row| row.theirs.is_some())
            .filter_map(|row| {
                Some(Bar {
                    label: row.case.clone(),
                    ratio: rows.ratio(row)?,
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
    use crate::vm::device::{C_VHOST, RNET};
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
