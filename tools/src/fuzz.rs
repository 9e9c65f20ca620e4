// SPDX-License-Identifier: GPL-2.0
//! Fuzzing: devices in a VM by calls and by a hostile guest, and vring's own
//! targets, guided by coverage, on the host.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::check::{Tally, title};
use crate::flavor::Flavor;
use crate::paths::Lab;
use crate::steps::step;
use crate::vm::{Outcome, Output, Vm, shell_quote};
use crate::{build, build_all, demo, lab as lab_steps, process};

/// Seconds of each fuzzer among the tests.
const SHORT: u64 = 20;

/// What a VM, or a target's build, takes beside the fuzzing.
const MARGIN: Duration = Duration::from_secs(900);

/// The part of the time, in percent, that goes to the VM.
const VM_SHARE: u64 = 60;

/// What to fuzz, and how long.
#[derive(Args)]
pub struct FuzzArgs {
    /// Minutes for all fuzzers together.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// The device they run on.
    #[arg(long, default_value = demo::RNET)]
    device: String,
    /// Seed of the first episode; the others' follow [default: another one each time].
    #[arg(long)]
    seed: Option<u64>,
    /// Runs so many episodes of each of the VM's fuzzers instead, and nothing else.
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
        // Seeds of many runs should not meet.
        None => u64::from(std::process::id()) << 32 | u64::from(clock()?),
    };
    build_all(lab)?;
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
    let name = format!("fuzz {}", args.device);
    let ran = step(&name, || {
        let on = (Flavor::Packaged, args.device.as_str());
        machine(lab, on, seed, length, &names, Output::Show)
    });
    tally.count_run(&name, ran);
    if !only_vm {
        targets(lab, args.minutes * 60 * (100 - VM_SHARE) / 100, &mut tally);
    }
    Ok(tally.report())
}

/// Runs each of the VM's fuzzers on `device` for a short while, with this kernel.
pub fn short(lab: &Lab, flavor: Flavor, device: &str, tally: &mut Tally) {
    let name = title("fuzz", flavor, device);
    let length = Length::Seconds(SHORT);
    let ran = step(&name, || {
        machine(lab, (flavor, device), 1, length, &all(), Output::Quiet)
    });
    tally.count_run(&name, ran);
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
    /// So many seconds each.
    Seconds(u64),
    /// So many episodes each.
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
        // As slow as an episode may be.
        Length::Episodes(count) => ("--episodes", count, Duration::from_secs(240 * count)),
    };
    let (number, seed) = (number.to_string(), seed.to_string());
    let mut words = vec!["--device", device, "--seed", &seed, option, &number];
    words.extend(fuzzers);
    let (load, unload) = if device == demo::RNET {
        (demo::insmod(flavor), "rmmod vhost_rnet || exit 1\n")
    } else {
        (String::new(), "")
    };
    // Closing a device waits for RCU.
    let script = format!(
        "echo 1 > /sys/kernel/rcu_expedited\n{load}\
         /artifacts/rnet-fuzz {}\nstatus=$?\n{unload}exit $status\n",
        shell_quote(&words)
    );
    let name = title("fuzz", flavor, device).replace(" /dev/", "-");
    Vm::new(lab, &name.replace(' ', "-"))
        .flavor(flavor)
        .limit(limit + MARGIN)
        .output(output)
        .run(&script)
}

/// Runs vring's targets for `seconds` together.
fn targets(lab: &Lab, seconds: u64, tally: &mut Tally) {
    let names = match step("cargo-fuzz", || prepare(lab)) {
        Ok(names) => names,
        Err(error) => {
            tally.count("cargo-fuzz", Err(error));
            return;
        }
    };
    let each = seconds / names.len().max(1) as u64;
    for name in names {
        let result = step(&format!("fuzz target {name}"), || target(lab, &name, each));
        if let Ok(done) = &result {
            println!("{name}: {done}");
        }
        tally.count(&format!("fuzz target {name}"), result.map(drop));
    }
}

/// Installs cargo-fuzz if it is missing; returns the names of all targets.
fn prepare(lab: &Lab) -> Result<Vec<String>> {
    let _lock = lab_steps::lock(lab, "cargo-fuzz.lock")?;
    let root = lab.dir().join("cargo");
    if !root.join("bin/cargo-fuzz").exists() {
        let log = lab.logs().join("cargo-fuzz.log");
        std::fs::write(&log, "")?;
        let mut install = build::cargo();
        install
            .args(["install", "--quiet", "--locked", "cargo-fuzz", "--root"])
            .arg(&root);
        process::run_logged(&mut install, &log, MARGIN)?;
    }
    let dir = build::checkout().join("src/vring/fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("listing {}", dir.display()))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|stem| stem.display().to_string()));
    }
    names.sort();
    ensure!(!names.is_empty(), "no targets in {}", dir.display());
    Ok(names)
}

/// Runs one target; answers what it did.
fn target(lab: &Lab, name: &str, seconds: u64) -> Result<String> {
    let own = lab.dir().join("fuzz");
    let corpus = own.join("corpus").join(name);
    let artifacts = own.join("artifacts").join(name);
    for dir in [&corpus, &artifacts] {
        std::fs::create_dir_all(dir)?;
    }
    let log = lab.logs().join(format!("fuzz-{name}.log"));
    std::fs::write(&log, "")?;
    let vring = build::checkout().join("src/vring");
    let mut fuzz = Command::new(lab.dir().join("cargo/bin/cargo-fuzz"));
    fuzz.current_dir(&vring)
        .env("RUSTUP_TOOLCHAIN", "nightly")
        // Those of the toolchain that runs us.
        .env_remove("CARGO")
        .env_remove("RUSTC")
        .args(["fuzz", "run", "-s", "none", "--target-dir"])
        .arg(own.join("target"))
        .arg(name)
        // New inputs go to the first, and the others are where it begins.
        .arg(&corpus)
        .arg(vring.join("fuzz/corpus").join(name))
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()));
    process::run_logged(&mut fuzz, &log, Duration::from_secs(seconds) + MARGIN)?;
    progress(&log)
}

/// What libFuzzer's log says at its end.
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

/// Seconds that differ from those of runs long ago.
fn clock() -> Result<u32> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(now.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::summary;

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
