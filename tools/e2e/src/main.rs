// SPDX-License-Identifier: GPL-2.0
//! The agent in the level 1 VM: runs a QEMU guest on each backend asked for
//! and prints a report of each.

mod guest;
mod parse;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use rnet_e2e::files::Files;
use rnet_e2e::{REPORT_MARK, host, stream};

/// Runs a guest on vhost devices.
#[derive(Parser)]
pub struct Cli {
    /// A vhost device, or "off" to leave the rings to QEMU. May be repeated.
    #[arg(long = "backend", required = true)]
    backends: Vec<String>,
    /// Seconds of TCP traffic each way.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Also measure UDP each way and round trips.
    #[arg(long)]
    bench: bool,
    #[command(flatten)]
    files: Files,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a report of each backend; returns whether all of them worked.
fn run(cli: &Cli) -> Result<bool> {
    let _kvm = host::load_kvm()?;
    let streams = stream::serve()?;
    let mut all_well = true;
    for backend in &cli.backends {
        eprintln!("guest on {backend}");
        let name = guest::name(backend);
        let report = cli
            .files
            .attempt(&[name], || guest::report(cli, backend, &streams));
        all_well &= report.error.is_none();
        println!("{REPORT_MARK}{}", serde_json::to_string(&report)?);
    }
    Ok(all_well)
}
