// SPDX-License-Identifier: GPL-2.0
//! Fuzzing: devices in a VM, by ioctls, IOTLB messages and a hostile guest; and
//! the coverage-guided fuzz targets of vring on the host.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use selftests::host::kmsg::Begun;

use crate::lab::build;
use crate::lab::flavor::Flavor;
use crate::lab::paths::Lab;
use crate::process::{self, shell_quote};
use crate::steps::step;
use crate::tests::tally::{Tally, title};
use crate::vm::device::{self, RNET};
use crate::vm::level1::{Outcome, Output, Vm};

/// Seconds of each of the VM's fuzzers among the tests, and of vring's targets together.
const SHORT: u64 = 20;

/// Seconds after which an input of vring's targets counts as hung. The time limit of a run is longer,
/// so that libFuzzer can save the input.
const INPUT_LIMIT: u64 = 100;

/// Time that a VM, or the build of the targets, may take in addition to the fuzzing.
const MARGIN: Duration = Duration::from_secs(900);

/// Compiler flags: the coverage instrumentation that libFuzzer needs, and debug assertions.
const COVERAGE: &str = "--cfg=fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// The part of the time, in percent, that goes to the VM.
const VM_SHARE: u64 = 60;

/// What to fuzz, and how long.
#[derive(Args)]
pub struct FuzzArgs {
    /// Minutes for all fuzzers together.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// The device they run on.
    #[arg(long, default_value = RNET)]
    device: String,
    /// The kernel of the VM; it and a module for it are built if need be. The debug kernel checks
    /// more, and tells how many places of the module calls have reached.
    #[arg(long, default_value_t)]
    kernel: Flavor,
    /// Seed of the first episode; later seeds derive from it [default: a new one each time].
    #[arg(long)]
    seed: Option<u64>,
    /// Run this many episodes of each of the VM's fuzzers instead, and nothing else.
    #[arg(long)]
    episodes: Option<u64>,
    /// Only these of the VM's fuzzers, and nothing else: guest, ioctls or messages.
    fuzzers: Vec<String>,
}

/// Runs what `args` say; answers whether nothing was found.
pub fn run(lab: &Lab, args: &FuzzArgs) -> Result<bool> {
    let mut tally = Tally::default();
    let seed = match args.seed {
        Some(seed) => seed,
        // Different runs should use different seeds.
        None => u64::from(std::process::id()) << 32 | u64::from(clock()?),
    };
    let flavor = args.kernel.resolved(lab)?;
    flavor.ensure(lab)?;
    step("module and programs", || build::all(lab, flavor))?;
    let only_vm = args.episodes.is_some() || !args.fuzzers.is_empty();
    let names: Vec<&str> = match args.fuzzers.as_slice() {
        [] => all(),
        named => named.iter().map(String::as_str).collect(),
    };
    let share = if only_vm { 100 } else { VM_SHARE };
    let seconds = args.minutes * 60 * share / 100 / names.len() as u64;
    let length = match args.episodes {
        Some(count) => Length::Episodes(count),
        None => Length::Seconds(seconds),
    };
    let name = title("fuzz", flavor, &args.device);
    let ran = step(&name, || {
        let on = (flavor, args.device.as_str());
        machine(lab, on, seed, length, &names, Output::Show)
    });
    tally.count_run(&name, ran);
    if !only_vm {
        let seconds = args.minutes * 60 * (100 - VM_SHARE) / 100;
        targets(lab, seconds, seed, &mut tally);
    }
    Ok(tally.report())
}

/// Runs vring's targets for a short while.
pub fn short_targets(lab: &Lab, tally: &mut Tally) {
    targets(lab, SHORT, 1, tally);
}

/// Runs each of the VM's fuzzers on `device` for a short while, with this kernel.
pub fn short(lab: &Lab, flavor: Flavor, device: &str, tally: &mut Tally) {
    let name = title("fuzz", flavor, device);
    let length = Length::Seconds(SHORT);
    let ran = step(&name, || {
        machine(lab, (flavor, device), 1, length, &all(), Output::Quiet)
    });
    if let Ok(outcome) = &ran {
        for line in figures(&outcome.stdout) {
            println!("{flavor} kernel, {line}");
        }
    }
    tally.count_run(&name, ran);
}

/// The lines with figures in a report of the VM's fuzzers.
fn figures(report: &str) -> impl Iterator<Item = &str> {
    report
        .lines()
        .filter(|line| line.contains(selftests::fuzz::FIGURES))
        .filter_map(|line| line.strip_prefix("# "))
}

/// The names of the VM's fuzzers.
fn all() -> Vec<&'static str> {
    selftests::fuzz::ALL
        .iter()
        .map(|fuzzer| fuzzer.name)
        .collect()
}

/// How long the VM's fuzzers run.
#[derive(Clone, Copy)]
enum Length {
    /// This many seconds each.
    Seconds(u64),
    /// This many episodes each.
    Episodes(u64),
}

/// Runs fuzzers on a device in a VM with a kernel of that flavor.
fn machine(
    lab: &Lab,
    (flavor, device): (Flavor, &str),
    seed: u64,
    length: Length,
    fuzzers: &[&str],
    output: Output,
) -> Result<Outcome> {
    let (option, number, limit) = match length {
        Length::Seconds(seconds) => (
            "--seconds",
            seconds,
            Duration::from_secs(seconds * fuzzers.len() as u64),
        ),
        // The time limit of one episode.
        Length::Episodes(count) => ("--episodes", count, Duration::from_secs(240 * count)),
    };
    let (number, seed) = (number.to_string(), seed.to_string());
    let (kernel, patience) = (flavor.to_string(), flavor.patience().to_string());
    let mut words = vec!["--device", device, "--patience", &patience];
    words.extend(["--kernel", &kernel, "--seed", &seed, option, &number]);
    words.extend(fuzzers);
    let program = format!("/artifacts/rnet-fuzz {}", shell_quote(&words));
    // Closing a device waits for an RCU grace period.
    let script = format!(
        "echo 1 > /sys/kernel/rcu_expedited\n{}",
        device::script(flavor, device == RNET, &program)
    );
    Vm::new(lab, &title("fuzz", flavor, device))
        .flavor(flavor)
        .limit(limit + MARGIN)
        .output(output)
        .again(|begun| again(flavor, device, begun))
        .run(&script)
}

/// The command that repeats an episode whose start the kernel's log records.
fn again(flavor: Flavor, device: &str, begun: &Begun) -> Option<String> {
    match begun {
        Begun::Episode { fuzzer, seed } => {
            let kernel = flavor.to_string();
            let device = Path::new(device);
            Some(selftests::fuzz::again(Some(&kernel), device, *seed, fuzzer))
        }
        Begun::Case(_) => None,
    }
}

/// Runs vring's targets for `seconds` together, from this seed.
fn targets(lab: &Lab, seconds: u64, seed: u64, tally: &mut Tally) {
    let targets = match step("fuzz targets", || build_targets(lab)) {
        Ok(targets) => targets,
        Err(error) => {
            tally.count("fuzz targets", Err(error));
            return;
        }
    };
    let each = seconds / targets.len().max(1) as u64;
    for (name, program) in targets {
        let title = format!("fuzz target {name}");
        let result = step(&title, || target(lab, &name, &program, each, seed));
        if let Ok(done) = &result {
            println!("{name}: {done}");
        }
        tally.count(&title, result.map(drop));
    }
}

/// Builds vring's targets; returns their names and programs.
///
/// Like `cargo fuzz build`, but with any toolchain: the flags of the instrumentation are given here.
fn build_targets(lab: &Lab) -> Result<Vec<(String, PathBuf)>> {
    let dir = build::checkout().join("src/vring/fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("listing {}", dir.display()))? {
        let path = entry?.path();
        names.extend(
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    ensure!(!names.is_empty(), "no targets in {}", dir.display());
    let host = host()?;
    let into = lab.dir().join("fuzz/target");
    let log = lab.logs().join("fuzz-targets.log");
    let mut cargo = process::cargo();
    cargo
        .args(["build", "--release", "--locked", "--manifest-path"])
        .arg(build::checkout().join("src/vring/fuzz/Cargo.toml"))
        .arg("--target-dir")
        .arg(&into)
        // With `--target`, build scripts and macros are not instrumented.
        .args(["--target", &host])
        .env("RUSTFLAGS", COVERAGE);
    process::run_logged_anew(&mut cargo, &log, MARGIN)?;
    let programs = into.join(host).join("release");
    let program = |name: String| (name.clone(), programs.join(name));
    Ok(names.into_iter().map(program).collect())
}

/// The toolchain's name for the machine that it runs on.
fn host() -> Result<String> {
    let said = Command::new("rustc")
        .args(["--print", "host-tuple"])
        .output()
        .context("starting rustc")?;
    ensure!(said.status.success(), "rustc does not know its host");
    Ok(String::from_utf8(said.stdout)?.trim().to_owned())
}

/// Runs one target; answers what it did.
fn target(lab: &Lab, name: &str, program: &Path, seconds: u64, seed: u64) -> Result<String> {
    let own = lab.dir().join("fuzz");
    let corpus = own.join("corpus").join(name);
    let artifacts = own.join("artifacts").join(name);
    for dir in [&corpus, &artifacts] {
        std::fs::create_dir_all(dir)?;
    }
    let log = lab.logs().join(format!("fuzz-{name}.log"));
    let mut fuzz = Command::new(program);
    fuzz
        // libFuzzer writes new inputs to the first directory, and only reads the others.
        .arg(&corpus)
        .arg(build::checkout().join("src/vring/fuzz/corpus").join(name))
        .arg(format!("-max_total_time={seconds}"))
        // libFuzzer takes 32 bits, and picks a random seed for zero.
        .arg(format!("-seed={}", seed as u32 | 1))
        .arg(format!("-timeout={INPUT_LIMIT}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()));
    let ran = process::run_logged_anew(&mut fuzz, &log, Duration::from_secs(seconds) + MARGIN);
    match (ran, replay(program, &log)?) {
        (Err(error), Some(command)) => return Err(error.context(format!("again: {command}"))),
        (ran, _) => ran?,
    }
    progress(&log)
}

/// The command that runs the input again that failed last in a target's log, if one did.
fn replay(program: &Path, log: &Path) -> Result<Option<String>> {
    let text = std::fs::read(log)?;
    let text = String::from_utf8_lossy(&text);
    let input = kept(&text);
    Ok(input.map(|input| shell_quote(&[&*program.to_string_lossy(), input])))
}

/// The file in which libFuzzer has left the last input that failed.
fn kept(text: &str) -> Option<&str> {
    let lines = text.lines().rev();
    lines
        .filter_map(|line| line.split_once("; Test unit written to "))
        .map(|(_, path)| path)
        .next()
}

/// The summary at the end of libFuzzer's log.
fn progress(log: &Path) -> Result<String> {
    let text = std::fs::read_to_string(log)?;
    summary(&text).with_context(|| format!("no summary in {}", log.display()))
}

/// The number of runs, and the coverage that they reached.
fn summary(text: &str) -> Option<String> {
    let done = text.lines().rev().find(|line| line.starts_with("Done "))?;
    let reached = text.lines().rev().find_map(|line| {
        let from = line.find("cov: ")?;
        let to = line.find(" exec/s").unwrap_or(line.len());
        line.get(from..to)
    })?;
    Some(format!("{done}, {reached}"))
}

/// The nanoseconds of the current time, as a part of a seed.
fn clock() -> Result<u32> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(now.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::{figures, kept, summary};

    #[test]
    fn figures_are_found() {
        let text = "KTAP version 1\n1..2\n\
                    # guest on /dev/vhost-rnet: 2 episodes from seed 1 in 2 s: 7 stops\n\
                    ok 1 guest\n\
                    # ioctls on /dev/vhost-rnet: 1 episodes from seed 1 in 2 s: 5 forks; \
                    9 places of the kernel reached\n\
                    # again: cargo xtask fuzz --seed 1\n\
                    not ok 2 ioctls\n";
        let found: Vec<&str> = figures(text).collect();
        assert_eq!(
            found,
            [
                "guest on /dev/vhost-rnet: 2 episodes from seed 1 in 2 s: 7 stops",
                "ioctls on /dev/vhost-rnet: 1 episodes from seed 1 in 2 s: 5 forks; \
                 9 places of the kernel reached",
            ]
        );
    }

    #[test]
    fn a_failed_input_is_found() {
        let text = "#9\tNEW    cov: 10 ft: 11\n\
                    artifact_prefix='/lab/a b/'; Test unit written to /lab/a b/slow-unit-1\n\
                    ==1== ERROR: libFuzzer: deadly signal\n\
                    artifact_prefix='/lab/a b/'; Test unit written to /lab/a b/crash-2\n\
                    Base64: AA==\n";
        assert_eq!(kept(text), Some("/lab/a b/crash-2"));
        assert_eq!(kept("Done 90 runs in 2 second(s)\n"), None);
    }

    #[test]
    fn runs_and_coverage_are_found() {
        let text = "#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 30Mb\n\
                    #90\tDONE   cov: 410 ft: 1200 corp: 80/2kb lim: 4 exec/s: 45 rss: 40Mb\n\
                    Done 90 runs in 2 second(s)\n";
        let told = summary(text).unwrap();
        assert!(told.starts_with("Done 90 runs in 2 second(s), cov: 410 ft: 1200"));
        assert_eq!(summary("error: could not compile"), None);
    }
}
