// SPDX-License-Identifier: GPL-2.0

//! Tests of a vhost-net device, reported in KTAP; to be run as root in a throw-away machine.

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use selftests::case::{Case, Context, Kind};
use selftests::driver::node::Node;
use selftests::driver::ring::Format;
use selftests::host::tap;
use selftests::{cases, history, runner, sys, wait};
use std::path::PathBuf;
use std::process::ExitCode;

/// Tests a vhost-net device from the driver's side.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The device node.
    #[arg(long, default_value = "/dev/vhost-rnet")]
    device: PathBuf,
    /// Which driver that is (`c` or `rnet`), where the name of the node does not tell.
    #[arg(long)]
    kind: Option<Kind>,
    /// The file of the module behind it, if that is not installed.
    #[arg(long)]
    module: Option<PathBuf>,
    /// Seed of all frame content.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Repeats what shows only after many times so many times as often.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    factor: u64,
    /// Multiplies all time limits.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    patience: u32,
    /// Has cases of network cards, too: the machine has the cards that they need.
    #[arg(long)]
    cards: bool,
    /// Lists the cases and ends.
    #[arg(long)]
    list: bool,
    /// Lists the bugs that such code has had, with the cases for each, and ends.
    #[arg(long)]
    history: bool,
    /// Leaves out cases whose name contains this; may be given several times.
    #[arg(long, value_name = "PART")]
    without: Vec<String>,
    /// Runs only cases whose name contains one of these.
    filter: Vec<String>,
    /// Runs one case in this process.
    #[arg(long, hide = true)]
    case: Option<String>,
    /// Plays a part in a case.
    #[arg(long, hide = true)]
    role: Option<String>,
    /// Plays it on packed rings.
    #[arg(long, hide = true)]
    packed: bool,
    /// A number for the part.
    #[arg(long, hide = true, default_value_t = 0)]
    argument: u64,
}

fn find<T: Copy>(all: Vec<T>, name: &str, of: fn(&T) -> String) -> Result<T> {
    let found = all.into_iter().find(|one| of(one) == name);
    found.with_context(|| format!("there is no `{name}`"))
}

fn run(options: Options) -> Result<ExitCode> {
    if options.history {
        history::ALL.iter().for_each(|bug| println!("{bug}"));
        return Ok(ExitCode::SUCCESS);
    }
    let format = if options.packed {
        Format::Packed
    } else {
        Format::Split
    };
    let context = Context {
        kind: options.kind.unwrap_or(Kind::of(&options.device)),
        device: Node {
            path: options.device,
            format,
        },
        case: "",
        module: options.module,
        seed: options.seed,
        argument: options.argument,
        factor: options.factor,
        patience: options.patience,
    };
    wait::be_patient(options.patience);
    if let Some(name) = options.role {
        let role = find(cases::roles(), &name, |role| role.name.to_owned())?;
        sys::process::die_with_parent()?;
        return Ok(runner::run_here(role.run, &context));
    }
    if let Some(name) = options.case {
        let case = find(cases::all(), &name, Case::full_name)?;
        tap::private_network()?;
        return Ok(runner::run_case(&case, &context));
    }
    let mut chosen = cases::all();
    chosen.retain(|case| options.cards || !case.cards);
    let named = |case: &Case, parts: &[String]| {
        let name = case.full_name();
        parts.iter().any(|part| name.contains(part))
    };
    chosen.retain(|case| options.filter.is_empty() || named(case, &options.filter));
    chosen.retain(|case| !named(case, &options.without));
    if chosen.is_empty() {
        bail!("no case has such a name");
    }
    if options.list {
        for case in chosen {
            println!("{}", case.full_name());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let passed = runner::run_all(&chosen, &context, &mut std::io::stdout().lock())?;
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn main() -> ExitCode {
    run(Options::parse()).unwrap_or_else(|error| {
        println!("{error:#}");
        ExitCode::FAILURE
    })
}
