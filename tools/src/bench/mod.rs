// SPDX-License-Identifier: GPL-2.0
//! Benchmarks of our module and the in-tree driver, alternating in one boot of
//! one kernel.
//!
//! Instructions are counted in a VM in which one instruction takes one virtual
//! nanosecond, so that the counts do not depend on the load of the host. Times
//! depend on the machine; only ratios within one run are comparable.

mod chart;
mod pairs;
mod ratios;
mod report;
mod tables;
mod targets;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use selftests::bench::record::{self, Record};

use crate::lab;
use crate::lab::arch::Arch;
use crate::lab::build;
use crate::lab::flavor::Flavor;
use crate::lab::paths::Lab;
use crate::steps::step;
use crate::vm::accel::{self, Accel};
use crate::vm::device::{self, C_VHOST, NO_VHOST, RNET};
use crate::vm::guest;
use crate::vm::level1::{Output, Vm};

use ratios::{Recorded, Rows};
use report::Report;

/// Ratios that the quick run compares with, relative to the checkout.
const RECORDED: &str = "tools/bench/recorded.json";

/// Where charts and tables for readers are checked in.
const CHECKED_IN: &str = "tools/bench";

/// By how much a ratio may exceed the recorded one.
const TOLERANCE: f64 = 0.02;

/// Time limit of the quick run, on a machine busy with other things.
const QUICK_LIMIT: Duration = Duration::from_secs(900);

/// Time limit of each part of the full run.
const FULL_LIMIT: Duration = Duration::from_secs(7200);

/// Loads the in-tree modules, with a higher limit of memory regions than by default.
const LOAD: &str = "modprobe -r vhost_net vhost || exit 1\n\
                    modprobe vhost max_mem_regions=1024 || exit 1\n\
                    modprobe vhost_net || exit 1\n";

/// Options of the full run.
#[derive(Args)]
pub struct BenchArgs {
    /// Directory for the report [default: target/bench].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Runs of each wall-clock measurement.
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// Parts to run, all by default.
    #[arg(long = "part", value_enum)]
    parts: Vec<Part>,
    /// Also put the charts and the table into tools/bench, to be checked in.
    #[arg(long)]
    update: bool,
}

/// A part of the full run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Part {
    /// Instructions of the worker per packet.
    Instructions,
    /// Throughput and latency.
    Wallclock,
    /// Traffic of a QEMU guest.
    Guest,
}

/// Options of the quick run.
#[derive(Args)]
pub struct QuickArgs {
    /// Record the ratios found for later runs to compare with, table and chart for readers.
    #[arg(long)]
    record: bool,
}

/// Counts instructions of the cases that targets are about; answers whether no
/// ratio is worse than recorded.
pub fn quick(lab: &Lab, args: &QuickArgs) -> Result<bool> {
    lab::ensure(lab, false)?;
    build::packaged(lab)?;
    let records = step("instructions per packet", || {
        measure(
            lab,
            "bench-quick",
            Some(Accel::Icount),
            "instructions --quick",
            QUICK_LIMIT,
        )
    })?;
    let rows = Rows::from_records(&records);
    println!("{}", tables::instructions_table(&rows, &[]));
    println!("{}", tables::targets_table(&targets::judge(&rows)));
    let path = build::checkout().join(RECORDED);
    if args.record {
        Recorded::new(lab.release()?, &rows).write(&path)?;
        // The table and chart for readers come from the run that is recorded.
        let report = Report {
            kernel: lab.release()?,
            records,
            ..Report::default()
        };
        let dir = build::checkout().join(CHECKED_IN);
        std::fs::write(dir.join("instructions.md"), report.markdown())?;
        write_charts(&report, &dir, &["instructions.svg"])?;
        println!("Recorded in {}", path.display());
        return Ok(true);
    }
    if !path.exists() {
        println!("Nothing to compare with: `cargo xtask bench-quick --record` makes {RECORDED}");
        return Ok(true);
    }
    let recorded = Recorded::read(&path)?;
    let worse = recorded.worse(&rows, TOLERANCE);
    for line in &worse {
        println!("WORSE {line}");
    }
    if worse.is_empty() {
        println!(
            "No ratio is more than {TOLERANCE} worse than recorded on {}.",
            recorded.kernel
        );
    }
    Ok(worse.is_empty())
}

/// Measures everything and writes the report.
pub fn full(lab: &Lab, args: &BenchArgs) -> Result<()> {
    lab::ensure(lab, false)?;
    build::packaged(lab)?;
    let wants = |part| args.parts.is_empty() || args.parts.contains(&part);
    let mut report = Report {
        kernel: lab.release()?,
        ..Report::default()
    };
    if wants(Part::Instructions) {
        for (name, what) in [
            ("instructions per packet", "instructions --runs 2"),
            ("the tap alone", "floor"),
            ("profiles", "profile"),
        ] {
            report.records.extend(step(name, || {
                measure(lab, "bench-icount", Some(Accel::Icount), what, FULL_LIMIT)
            })?);
        }
    }
    if wants(Part::Wallclock) {
        report.wallclock_on = format!("{:?}", accel::best(lab, Arch::Amd64, false)?);
        for (name, what) in [("throughput", "throughput"), ("latency", "latency")] {
            let what = format!("{what} --runs {}", args.runs);
            report.records.extend(step(name, || {
                measure(lab, "bench-clock", None, &what, FULL_LIMIT)
            })?);
        }
    }
    if wants(Part::Guest) {
        // Each backend twice, alternating.
        let backends = [RNET, C_VHOST, NO_VHOST, RNET, C_VHOST, NO_VHOST];
        let (outcome, guests) = step("guests", || {
            guest::run_with(lab, Flavor::Packaged, &backends, 5, &["--bench"])
        })?;
        // The report says which guest failed, and keeps the results of the others.
        outcome.check_kernel()?;
        report.guests = guests;
    }
    let out = match &args.out {
        Some(dir) => dir.clone(),
        None => build::checkout().join("target/bench"),
    };
    write(&report, &out)?;
    if args.update {
        write(&report, &build::checkout().join(CHECKED_IN))?;
    }
    println!("{}", report.markdown());
    println!("Report in {}", out.display());
    Ok(())
}

/// Writes results, tables and charts into `dir`.
fn write(report: &Report, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("report.md"), report.markdown())?;
    let mut json = serde_json::to_vec_pretty(report)?;
    json.push(b'\n');
    std::fs::write(dir.join("results.json"), json)?;
    write_charts(report, dir, &[])
}

/// Draws the charts of these names into `dir`, or all of them for no names.
fn write_charts(report: &Report, dir: &Path, names: &[&str]) -> Result<()> {
    for (name, title, bars) in report.charts() {
        let wanted = names.is_empty() || names.contains(&name);
        if wanted && !bars.is_empty() {
            chart::ratios(&dir.join(name), title, &bars)?;
        }
    }
    Ok(())
}

/// Runs `rnet-bench` with these arguments in a VM with both modules.
fn measure(
    lab: &Lab,
    name: &str,
    accel: Option<Accel>,
    arguments: &str,
    limit: Duration,
) -> Result<Vec<Record>> {
    let script = format!(
        "{LOAD}{}/artifacts/rnet-bench {arguments}\n",
        device::insmod(Flavor::Packaged)
    );
    let mut vm = Vm::new(lab, name).limit(limit).output(Output::Quiet);
    if let Some(accel) = accel {
        vm = vm.accel(accel);
    }
    let outcome = vm.run(&script)?;
    outcome.check_status()?;
    outcome.check_kernel()?;
    let records = record::parse(&outcome.stdout);
    records
        .first()
        .with_context(|| format!("no results, see {}", outcome.dir.display()))?;
    Ok(records)
}
