// SPDX-License-Identifier: GPL-2.0

//! Compares two vhost-net devices call by call and reports in KTAP; to be run as root in a
//! throw-away machine.

use anyhow::Result;
use clap::Parser;
use selftests::conformance::random::{self, Depth, Pool};
use selftests::conformance::{Pair, differences, states, table};
use selftests::host::tap;
use selftests::sys;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Seconds after which a state, or all sequences, count as hung.
const LIMIT: u32 = 600;

/// Compares a vhost-net device with the in-tree one.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The in-tree device.
    #[arg(long, default_value = "/dev/vhost-net")]
    reference: PathBuf,
    /// The device to compare with it.
    #[arg(long, default_value = "/dev/vhost-rnet")]
    device: PathBuf,
    /// Seed of the first random sequence; the others' follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of random sequences.
    #[arg(long, default_value_t = 300)]
    sequences: u64,
    /// Steps of each.
    #[arg(long, default_value_t = 60)]
    length: usize,
    /// Takes the calls of the table in states whose name contains this; "none" for no state.
    #[arg(long)]
    state: Option<String>,
    /// Prints every random step before it is taken.
    #[arg(long)]
    verbose: bool,
}

/// The report, line by line.
struct Tap {
    number: usize,
    failed: usize,
}

impl Tap {
    fn result(&mut self, name: &str, wrong: &[String]) {
        self.number += 1;
        for line in wrong.iter().flat_map(|text| text.lines()) {
            println!("# {line}");
        }
        if wrong.is_empty() {
            println!("ok {} {name}", self.number);
        } else {
            self.failed += 1;
            println!("not ok {} {name}", self.number);
        }
    }
}

/// Makes all calls in all states.
fn tables(
    pair: &mut Pair,
    options: &Options,
    tap: &mut Tap,
    chosen: &[states::State],
) -> Result<()> {
    let mut seen = vec![(0, String::new()); differences::ALL.len()];
    for state in chosen {
        sys::process::alarm(LIMIT);
        let start = Instant::now();
        println!("# state: {}", state.name);
        let report = table(pair, state)?;
        println!(
            "# {} calls compared, in a state made {} times",
            report.compared, report.made
        );
        for ((count, example), (more, text)) in seen.iter_mut().zip(&report.expected) {
            *count += more;
            if *more > 0 {
                example.clone_from(text);
            }
        }
        println!("# took {} ms", start.elapsed().as_millis());
        tap.result(&format!("table: {}", state.name), &report.failures());
    }
    let mut unseen = Vec::new();
    for (difference, (count, example)) in differences::ALL.iter().zip(seen) {
        println!("# meant, {count} times: {}", difference.reason);
        println!("#   such as: {example}");
        if count == 0 {
            unseen.push(format!("never seen: {}", difference.reason));
        }
    }
    // Some states have no differences of some kind.
    if options.state.is_none() {
        tap.result("table: every difference is real", &unseen);
    }
    Ok(())
}

/// Takes random sequences.
fn sequences(pair: &mut Pair, options: &Options, tap: &mut Tap) -> Result<()> {
    let pool = Pool::new();
    let mut wrong = Vec::new();
    let mut depth = Depth::default();
    println!(
        "# {} sequences of {} steps from seed {}",
        options.sequences, options.length, options.seed
    );
    sys::process::alarm(LIMIT);
    for seed in (options.seed..).take(usize::try_from(options.sequences)?) {
        let steps = pool.sequence(seed, options.length);
        if options.verbose {
            steps.iter().for_each(|step| println!("# {step}"));
        }
        if let Some(finding) = random::check(pair, &steps, &mut depth)? {
            let mut text = format!(
                "seed {seed}; again: cargo xtask conformance --state none --sequences 1 \
                 --length {} --seed {seed}\n",
                options.length
            );
            for step in &finding.steps {
                text.push_str(&format!("  {step}\n"));
            }
            if let Some(step) = finding.steps.last() {
                text.push_str(&format!("differ: {}", finding.last.tell(step)));
            }
            wrong.push(text);
            // What follows would mostly be the same again.
            if wrong.len() >= 10 {
                break;
            }
        }
    }
    println!(
        "# {} of {} steps succeeded, {} of them bound a queue",
        depth.succeeded, depth.steps, depth.bound
    );
    // A replay is what it is; many that never get a queue to run would show little.
    if options.sequences > 1 && depth.bound == 0 {
        wrong.push("no queue was ever bound".to_owned());
    }
    tap.result("random sequences", &wrong);
    Ok(())
}

fn run(options: &Options) -> Result<bool> {
    tap::private_network()?;
    let mut chosen = states::all();
    if let Some(name) = &options.state {
        chosen.retain(|state| state.name.contains(name.as_str()));
    }
    let random = options.sequences > 0;
    let plan = chosen.len() + usize::from(options.state.is_none()) + usize::from(random);
    println!("KTAP version 1\n1..{plan}");
    let mut pair = Pair::open(&options.reference, &options.device)?;
    let mut tap = Tap {
        number: 0,
        failed: 0,
    };
    if !chosen.is_empty() {
        tables(&mut pair, options, &mut tap, &chosen)?;
    }
    if random {
        sequences(&mut pair, options, &mut tap)?;
    }
    println!(
        "# {} passed, {} failed",
        tap.number - tap.failed,
        tap.failed
    );
    Ok(tap.failed == 0)
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("# {error:#}");
            ExitCode::FAILURE
        }
    }
}
