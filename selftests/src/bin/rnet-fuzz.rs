// SPDX-License-Identifier: GPL-2.0

//! Fuzzes a vhost-net device and reports in KTAP; to be run as root in a throw-away machine.

use anyhow::{Context as _, Result};
use clap::Parser;
use selftests::case::{Context, Kind};
use selftests::driver::node::Node;
use selftests::fuzz::{self, Fuzzer, Length};
use selftests::wait;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Fuzzes a vhost-net device.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The device node.
    #[arg(long, default_value = "/dev/vhost-rnet")]
    device: PathBuf,
    /// Which driver that is (`c` or `rnet`), where the name of the node does not tell.
    #[arg(long)]
    kind: Option<Kind>,
    /// Seed of the first episode; the others' follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds after which no more episodes of a fuzzer begin.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Number of episodes, instead of a time.
    #[arg(long)]
    episodes: Option<u64>,
    /// Multiplies all time limits.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    patience: u32,
    /// The kernel's name in `cargo xtask fuzz --kernel`, for the command that repeats an episode.
    #[arg(long)]
    kernel: Option<String>,
    /// For cases that repeat more; episodes have no use for it.
    #[arg(long, hide = true, default_value_t = 1)]
    factor: u64,
    /// Runs one episode of a fuzzer in this process.
    #[arg(long, hide = true)]
    episode: Option<String>,
    /// Names of fuzzers, by default all, one after the other.
    fuzzers: Vec<String>,
}

fn find(name: &str) -> Result<Fuzzer> {
    let found = fuzz::ALL.iter().find(|fuzzer| fuzzer.name == name);
    let names: Vec<_> = fuzz::ALL.iter().map(|fuzzer| fuzzer.name).collect();
    found
        .copied()
        .with_context(|| format!("there is no `{name}`, but {}", names.join(", ")))
}

fn run(options: Options) -> Result<bool> {
    let context = Context {
        kind: options.kind.unwrap_or(Kind::of(&options.device)),
        device: Node::split(&options.device),
        seed: options.seed,
        argument: 0,
        patience: options.patience,
        factor: options.factor,
        case: "",
        module: None,
    };
    wait::be_patient(options.patience);
    if let Some(name) = options.episode {
        fuzz::run_here(find(&name)?, &context)?;
        return Ok(true);
    }
    let length = match options.episodes {
        Some(count) => Length::Episodes(count),
        None => Length::Time(Duration::from_secs(options.seconds)),
    };
    let mut fuzzers = fuzz::ALL.to_vec();
    if !options.fuzzers.is_empty() {
        let named = options.fuzzers.iter().map(|name| find(name));
        fuzzers = named.collect::<Result<_>>()?;
    }
    let kernel = options.kernel.as_deref();
    let to = &mut std::io::stdout().lock();
    fuzz::run_all(&fuzzers, &context, length, kernel, to)
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
