// SPDX-License-Identifier: GPL-2.0
//! Guests of every kind on vhost devices, reported in KTAP.

mod scenarios;
mod steps;

use std::process::ExitCode;
use std::sync::mpsc::Receiver;

use anyhow::{Context, Result};
use clap::Parser;
use rnet_e2e::files::Files;
use rnet_e2e::host::{self, Tap};
use rnet_e2e::machine::Machine;
use rnet_e2e::netboot::Netboot;
use rnet_e2e::stream::{self, Counts};

use scenarios::{Format, Scenario};
use steps::Run;

/// Runs guests on a vhost device.
#[derive(Parser)]
struct Cli {
    /// The device.
    #[arg(long)]
    device: String,
    #[command(flatten)]
    files: Files,
    /// Leave out the scenarios whose options other scenarios have too, put together otherwise.
    #[arg(long)]
    short: bool,
    /// Only scenarios whose name contains one of these.
    filter: Vec<String>,
}

impl Cli {
    /// Whether the device has packed rings: only ours does.
    fn offers_packed(&self) -> bool {
        self.device.ends_with("vhost-rnet")
    }
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let _kvm = host::load_kvm()?;
    let streams = stream::serve()?;
    let wanted = |scenario: &&Scenario| {
        let named = |part: &String| scenario.name.contains(part.as_str());
        let chosen = cli.filter.is_empty() || cli.filter.iter().any(named);
        chosen && scenario.suits(cli.offers_packed()) && !(cli.short && scenario.long)
    };
    let chosen: Vec<&Scenario> = scenarios::ALL.iter().filter(wanted).collect();
    let plan: usize = chosen.iter().map(|scenario| scenario.steps().count()).sum();
    println!("KTAP version 1\n1..{plan}");
    let mut number = 0;
    let mut failed = 0;
    for scenario in chosen {
        let started = std::time::Instant::now();
        let results = cli.files.attempt(&[scenario.name], || {
            steps(start(&cli, scenario, &streams), scenario)
        });
        for (name, result) in results {
            number += 1;
            if let Err(error) = result {
                failed += 1;
                for line in error.lines() {
                    println!("# {line}");
                }
                print!("not ");
            }
            println!("ok {number} {}.{name}", scenario.name);
        }
        eprintln!("{} took {} s", scenario.name, started.elapsed().as_secs());
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs a scenario's steps; returns the result of each.
fn steps(
    mut run: Result<Run<'_>, String>,
    scenario: &Scenario,
) -> Vec<(&'static str, Result<(), String>)> {
    let mut results = Vec::new();
    for (name, step) in scenario.steps() {
        // After a failed step the guest is in an unknown state, and later steps prove nothing.
        let result = run.as_mut().map_err(|error| format!("not run: {error}"));
        let result = result.and_then(|run| step(run).map_err(|error| format!("{error:#}")));
        if result.is_err() {
            run = Err(format!("after {name}"));
        }
        results.push((name, result));
    }
    results
}

/// Boots a scenario's guest.
fn start<'a>(
    cli: &Cli,
    scenario: &Scenario,
    streams: &'a Receiver<Result<Counts>>,
) -> Result<Run<'a>, String> {
    // Results of an earlier guest must not count for this one.
    while streams.try_recv().is_ok() {}
    let boot = || {
        let tap = Tap::new(scenario.options.queues)?;
        let mut guest = Machine::start(
            &cli.files,
            scenario.name,
            &cli.device,
            host::TAP,
            &scenario.options,
            None,
        )?;
        if scenario.options.firmware {
            Netboot::new()?
                .boot(
                    &mut guest,
                    &cli.files.initramfs,
                    &scenario.options.kernel_line(),
                )
                .context("the firmware")?;
            guest.used_vhost().context("the firmware")?;
        }
        guest.boot()?;
        Ok::<_, anyhow::Error>(Run {
            guest: Some(guest),
            tap,
            features: scenario.features,
            packed: scenario.format == Format::Packed,
            queues: scenario.options.queues,
            streams,
        })
    };
    boot().map_err(|error| format!("{error:#}"))
}
