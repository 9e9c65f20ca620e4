// SPDX-License-Identifier: GPL-2.0

//! Uses devices for long, and fails if that leaves something behind; to be run as root in a
//! throw-away machine.

use anyhow::Result;
use clap::Parser;
use selftests::host::{census, tap};
use selftests::soak;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Uses, changes and replaces devices, and compares what the kernel holds before and after.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The device node.
    #[arg(long, default_value = "/dev/vhost-rnet")]
    device: PathBuf,
    /// For how long.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Seed of all content and of what is changed when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<()> {
    /// Time between two reports.
    const PAUSE: Duration = Duration::from_secs(60);

    let options = Options::parse();
    tap::private_network()?;
    let (start, mut told) = (Instant::now(), Duration::ZERO);
    let report = soak::run(&options.device, options.seed, |period, report| {
        let passed = start.elapsed();
        if passed >= told + PAUSE {
            told = passed;
            let (minutes, changes) = (passed.as_secs() / 60, report.changes);
            println!("{minutes} minutes: {changes} changes since the last count");
        }
        passed < Duration::from_secs(60 * options.minutes * (period + 1) / census::PERIODS)
    })?;
    println!(
        "{}: {} changes, {} frames, nothing left behind ({} KiB less than before; seed {})",
        options.device.display(),
        report.changes,
        report.frames,
        report.lost,
        options.seed
    );
    Ok(())
}
