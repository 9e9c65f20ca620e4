// SPDX-License-Identifier: GPL-2.0

//! Measures vhost devices: one JSON object per line on standard output, progress on the other.

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use selftests::bench::record::{Record, Skipped};
use selftests::bench::{case, floor, instructions, profile, rig, wallclock};
use selftests::host::tap;
use selftests::sys;
use std::path::PathBuf;
use std::time::Duration;

/// Measures vhost devices, taking turns between them.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Run time of the worker per packet; instructions under -icount shift=0.
    Instructions {
        #[command(flatten)]
        common: Common,
        /// Only the cases that targets are about.
        #[arg(long)]
        quick: bool,
        /// Packets of a run of small frames; large frames are fewer.
        #[arg(long, default_value_t = 12_800)]
        packets: u64,
    },
    /// Packets per second, with one and more queue pairs.
    Throughput {
        #[command(flatten)]
        common: Common,
        /// Milliseconds of each run.
        #[arg(long, default_value_t = 1000)]
        time: u64,
    },
    /// Time of one packet at a time.
    Latency {
        #[command(flatten)]
        common: Common,
        /// Packets of each run.
        #[arg(long, default_value_t = 2000)]
        packets: u64,
    },
    /// Which share of the worker's run time is its own, by perf; a filter picks among all cases.
    Profile {
        #[command(flatten)]
        common: Common,
        /// Packets of a run of small frames.
        #[arg(long, default_value_t = 6400)]
        packets: u64,
    },
    /// What the tap alone costs, in run time of the thread that uses it.
    Floor {
        /// Packets of a run of small frames.
        #[arg(long, default_value_t = 12_800)]
        packets: u64,
        /// Runs of each case.
        #[arg(long, default_value_t = 1)]
        runs: u32,
    },
}

#[derive(Args, Debug)]
struct Common {
    /// Device nodes, measured in turn.
    #[arg(long = "device", default_values = ["/dev/vhost-rnet", "/dev/vhost-net"])]
    devices: Vec<PathBuf>,
    /// Runs of each case and device.
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Only cases whose name contains one of these; one that ends in "$" must be the whole name.
    filter: Vec<String>,
}

impl Common {
    fn wants(&self, name: &str) -> bool {
        let matches = |part: &String| match part.strip_suffix('$') {
            Some(whole) => name == whole,
            None => name.contains(part.as_str()),
        };
        self.filter.is_empty() || self.filter.iter().any(matches)
    }
}

fn print(record: &Record) -> Result<()> {
    match record {
        Record::Instructions(r) => eprintln!(
            "{:<26} {:<16} {:>3} {:>10.1} per packet, {:.4} kicks, {:.4} calls",
            r.case, r.device, r.run, r.per_packet, r.kicks, r.calls
        ),
        Record::Throughput(r) => eprintln!(
            "{:<26} {:<16} {:>3} {} pairs {:>10.0} packets/s, worker {:.0} ns",
            r.case, r.device, r.run, r.pairs, r.packets_per_second, r.worker_ns
        ),
        Record::Latency(r) => eprintln!(
            "{:<26} {:<16} {:>3} {:>10.0} ns, 99 % {:.0} ns, worker {:.0} ns",
            r.case, r.device, r.run, r.median_ns, r.p99_ns, r.worker_ns
        ),
        Record::Floor(r) => eprintln!(
            "{:<26} {:>20} {:>10.1} per packet ({})",
            r.case, r.run, r.per_packet, r.method
        ),
        Record::Share(r) => eprintln!(
            "{:<26} {:<16} tap {:.3}, notifications {:.3}, own {:.3} ({} samples)",
            r.case, r.device, r.tap, r.notify, r.own, r.samples
        ),
        Record::Skipped(r) => eprintln!("{:<26} {:<16} {}", r.case, r.device, r.reason),
    }
    println!("{}", serde_json::to_string(record)?);
    Ok(())
}

fn run_instructions(common: &Common, quick: bool, packets: u64) -> Result<()> {
    // Else the worker would wake in the middle of a batch that is being sent to it.
    sys::process::run_first().context("run before the worker")?;
    let cases = if quick { case::quick() } else { case::all() };
    for case in cases.iter().filter(|case| common.wants(&case.name())) {
        for run in 1..=common.runs {
            for path in &common.devices {
                let record = match rig::obstacle(path, case)? {
                    Some(reason) => Record::Skipped(Skipped {
                        case: case.name(),
                        device: path.display().to_string(),
                        reason,
                    }),
                    None => Record::Instructions(
                        instructions::measure(path, *case, packets, run)
                            .with_context(|| format!("{} on {}", case.name(), path.display()))?,
                    ),
                };
                print(&record)?;
            }
        }
    }
    Ok(())
}

fn run_throughput(common: &Common, time: Duration) -> Result<()> {
    for (case, pairs) in wallclock::cases() {
        if !common.wants(&case.name()) {
            continue;
        }
        for run in 1..=common.runs {
            for path in &common.devices {
                let record = wallclock::throughput(path, (case, pairs), time, run)
                    .with_context(|| format!("{} on {}", case.name(), path.display()))?;
                print(&Record::Throughput(record))?;
            }
        }
    }
    Ok(())
}

fn run_latency(common: &Common, packets: u64) -> Result<()> {
    for frame in [60, 1500] {
        for run in 1..=common.runs {
            for path in &common.devices {
                if common.wants(&format!("roundtrip-{frame}")) {
                    let record = wallclock::round_trip(path, frame, packets, run)?;
                    print(&Record::Latency(record))?;
                }
                if common.wants(&format!("kick-{frame}")) {
                    let record = wallclock::kick_to_call(path, frame, packets, run)?;
                    print(&Record::Latency(record))?;
                }
            }
        }
    }
    Ok(())
}

fn run_profile(common: &Common, packets: u64) -> Result<()> {
    let usual = ["tx-60", "tx-1500", "rx-60", "rx-1500"];
    let wanted = |name: &String| match common.filter.as_slice() {
        [] => usual.contains(&name.as_str()),
        _ => common.wants(name),
    };
    for name in case::all().iter().map(case::Case::name).filter(wanted) {
        for path in &common.devices {
            let record = profile::measure(path, &name, packets)
                .with_context(|| format!("{name} on {}", path.display()))?;
            print(&Record::Share(record))?;
        }
    }
    Ok(())
}

fn run_floor(packets: u64, runs: u32) -> Result<()> {
    for run in 1..=runs {
        print(&Record::Floor(floor::empty_call(packets, run)))?;
        for direction in [case::Direction::Tx, case::Direction::Rx] {
            for frame in [60, 256, 1500, 9000, 65000] {
                let case = case::Case::base(direction, frame);
                let record = floor::measure(case, packets, run).with_context(|| case.name())?;
                print(&Record::Floor(record))?;
            }
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let options = Options::parse();
    tap::private_network()?;
    match options.what {
        What::Instructions {
            common,
            quick,
            packets,
        } => run_instructions(&common, quick, packets),
        What::Throughput { common, time } => run_throughput(&common, Duration::from_millis(time)),
        What::Latency { common, packets } => run_latency(&common, packets),
        What::Profile { common, packets } => run_profile(&common, packets),
        What::Floor { packets, runs } => run_floor(packets, runs),
    }
}
