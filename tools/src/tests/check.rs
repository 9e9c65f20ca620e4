// SPDX-License-Identifier: GPL-2.0
//! Runs all tests and prints a summary.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::lab::build::{self, Mode};
use crate::lab::chroot::Access;
use crate::lab::flavor::Flavor;
use crate::lab::packaged_cargo;
use crate::lab::paths::Lab;
use crate::process;
use crate::steps::step;
use crate::tests::cases::{
    CONCURRENT, Cases, LONG_FOR_SMOKE, LONG_ON_DEBUG, ONLY_WITH_FAULTS, SMOKE,
};
use crate::tests::code::{circles, floors, misuse, shim, stack, unsafe_code};
use crate::tests::extent::Extent;
use crate::tests::jobs::Jobs;
use crate::tests::tally::{Tally, title};
use crate::tests::{
    arm64, conformance, dpdk, fuzz, guests, libvirt, oldest_cargo, packages, programs, refused,
};
use crate::vm::device::{self, C_VHOST, RNET};
use crate::vm::guest;
use crate::vm::level1::{Output, Vm};

/// Time limit of one cargo command that has everything to compile.
const CARGO_LIMIT: Duration = Duration::from_secs(900);

/// Time limit of the selftests on one device.
const SELFTEST_LIMIT: Duration = Duration::from_secs(1800);

/// The number of jobs at a time: a VM leaves one of two processors mostly idle.
const LANES: usize = 2;

/// Seconds of TCP each way in the guest.
const GUEST_SECONDS: u32 = 2;

/// Runs the tests on `kernels`; answers whether all of them passed, and those in `before`.
///
/// Kernels that do not exist yet are built in the background while tests run.
pub fn run(lab: &Lab, kernels: &[Flavor], extent: Extent, before: Tally) -> bool {
    let mut jobs = Jobs::new();
    if kernels.contains(&Flavor::Packaged) {
        jobs.add(None, |tally| {
            style(lab, tally);
            host_tests(lab, tally);
            linux_driver(lab, tally);
            fuzz::short_targets(lab, tally);
        });
    }
    for flavor in kernels {
        on(lab, *flavor, extent, &mut jobs);
    }
    let mut tally = before;
    tally.merge(jobs.run(LANES, |made, tally| {
        for flavor in kernels {
            let built = flavor.ensure(lab).and_then(|()| {
                step(&format!("module for the {flavor} kernel, programs"), || {
                    build::all(lab, *flavor)
                })
            });
            match built {
                Ok(()) => {
                    tally.passed += 1;
                    made(*flavor);
                }
                Err(error) => tally.failed.push(format!("{error:#}")),
            }
        }
    }));
    tally.report()
}

/// Adds the tests on a kernel to `jobs`.
fn on<'a>(lab: &'a Lab, flavor: Flavor, extent: Extent, jobs: &mut Jobs<'a, Flavor>) {
    let needs = Some(flavor);
    let all = Cases::default();
    let selftests =
        |device, cases| move |tally: &mut Tally| selftest(lab, flavor, device, cases, tally);
    match flavor {
        Flavor::Packaged => {
            jobs.add(needs, |tally| module_code(lab, tally));
            jobs.add(needs, selftests(RNET, all));
            jobs.add(needs, selftests(C_VHOST, all));
            jobs.add(needs, move |tally| with_other_programs(lab, extent, tally));
            if extent == Extent::Long {
                jobs.add(needs, |tally| libvirt::run(lab, tally));
                jobs.add(needs, |tally| packages::run(lab, tally));
            }
        }
        Flavor::Series(_) => {
            let cases = match extent {
                Extent::Short => Cases {
                    of: SMOKE,
                    without: LONG_FOR_SMOKE,
                },
                Extent::Long => all,
            };
            jobs.add(needs, move |tally| kernel_clippy(lab, flavor, tally));
            jobs.add(needs, selftests(RNET, cases));
        }
        Flavor::Arm64 => jobs.add(needs, move |tally| arm64::run(lab, extent, tally)),
        Flavor::Debug => {
            let faults = Cases {
                of: ONLY_WITH_FAULTS,
                ..all
            };
            let without = match extent {
                Extent::Short => LONG_ON_DEBUG,
                Extent::Long => &[],
            };
            jobs.add(needs, selftests(RNET, Cases { without, ..all }));
            jobs.add(needs, selftests(C_VHOST, faults));
            jobs.add(needs, move |tally| {
                fuzz::short(lab, flavor, RNET, tally);
                guest(lab, flavor, RNET, tally);
            });
        }
        Flavor::Kcsan => {
            let of = CONCURRENT;
            jobs.add(needs, selftests(RNET, Cases { of, ..all }));
        }
    }
}

/// Tests of the built module's code.
fn module_code(lab: &Lab, tally: &mut Tally) {
    let name = "stack frames";
    tally.count(name, step(name, || stack::check(lab)));
    let name = "misuse";
    let root = build::checkout();
    tally.count(name, step(name, || misuse::check(lab, &root)));
}

/// Tests with programs of others, on the packaged kernel.
fn with_other_programs(lab: &Lab, extent: Extent, tally: &mut Tally) {
    conformance::run(lab, tally);
    fuzz::short(lab, Flavor::Packaged, RNET, tally);
    programs::run(lab, tally);
    dpdk::run(lab, tally);
    for device in [C_VHOST, RNET] {
        guest(lab, Flavor::Packaged, device, tally);
    }
    guests::run(lab, extent, tally);
}

/// Runs only the tests of the kernel, of rust-vmm and of DPDK; returns whether all of them passed.
pub fn run_programs(lab: &Lab) -> bool {
    let mut tally = Tally::default();
    programs::run(lab, &mut tally);
    dpdk::run(lab, &mut tally);
    tally.report()
}

/// Runs only the tests of the Debian packages; returns whether all of them passed.
pub fn run_packages(lab: &Lab) -> bool {
    let mut tally = Tally::default();
    packages::run(lab, &mut tally);
    tally.report()
}

/// Formatting and lints, of host and kernel code.
fn style(lab: &Lab, tally: &mut Tally) {
    let cargo_job =
        |name: &str, args: &[&str]| step(name, || logged(lab, name, cargo().args(args)));
    tally.count(
        "cargo fmt",
        cargo_job("cargo fmt", &["fmt", "--all", "--check"]),
    );
    for manifest in &packaged_cargo::MANIFESTS[1..] {
        let folder = manifest.rsplit('/').nth(1).unwrap_or(manifest);
        let name = format!("cargo fmt {folder}");
        let args = ["fmt", "--check", "--manifest-path", manifest];
        tally.count(&name, cargo_job(&name, &args));
    }
    tally.count(
        "kernel fmt",
        step("kernel fmt", || {
            // The formatter that comes with the kernel's compiler. It finds other
            // files by the `mod` lines of the root.
            let source = build::checkout();
            let mut rustfmt = lab
                .chroot()
                .bind(&source, "/src", Access::ReadOnly)
                .command(&[
                    "rustfmt",
                    "--check",
                    "--edition",
                    "2021",
                    "/src/src/main.rs",
                ]);
            logged(lab, "kernel fmt", &mut rustfmt)
        }),
    );
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    tally.count("cargo clippy", cargo_job("cargo clippy", &clippy));
    kernel_clippy(lab, Flavor::Packaged, tally);
    let name = "refused kernels";
    tally.count(name, step(name, || refused::check(lab)));
    let name = "unsafe code";
    tally.count(name, step(name, || unsafe_code::check(&build::checkout())));
    let name = "shim declarations";
    tally.count(name, step(name, || shim::check(&build::checkout())));
    let name = "floors";
    tally.count(name, step(name, || floors::check(&build::checkout())));
    let name = "circles of imports";
    tally.count(name, step(name, || circles::check(&build::checkout())));
}

/// Lints of the module's code for a kernel.
fn kernel_clippy(lab: &Lab, flavor: Flavor, tally: &mut Tally) {
    let name = match flavor {
        Flavor::Packaged => "kernel clippy".to_owned(),
        _ => format!("{flavor} kernel clippy"),
    };
    let ran = step(&name, || {
        build::module(lab, &build::checkout(), flavor, Mode::Strict).map(drop)
    });
    tally.count(&name, ran);
}

/// The tests that need no kernel.
fn host_tests(lab: &Lab, tally: &mut Tally) {
    let mut all = cargo();
    all.args(["test", "--workspace", "--no-fail-fast"]);
    cargo_tests(lab, "host tests", &mut all, tally);
    // The models are a separate workspace, and take many times longer without optimisation.
    let mut models = cargo();
    models
        .args(["test", "--release", "--locked", "--no-fail-fast"])
        .args(["--manifest-path", "src/vring/loom/Cargo.toml"])
        .args(["--target-dir", "target/loom"]);
    cargo_tests(lab, "ring models", &mut models, tally);
    let name = "oldest cargo";
    let root = build::checkout();
    tally.count(name, step(name, || oldest_cargo::check(lab, &root)));
}

/// The rings against the driver side of the packaged kernel's source, which is there from the start.
fn linux_driver(lab: &Lab, tally: &mut Tally) {
    let mut exchanges = cargo();
    exchanges
        .args(["test", "--release", "--locked", "--no-fail-fast"])
        .args(["--manifest-path", "tools/linux-driver/Cargo.toml"])
        .args(["--target-dir", "target/linux-driver"])
        .env("KERNEL_SOURCE", lab.kernel());
    cargo_tests(lab, "Linux driver", &mut exchanges, tally);
}

/// Runs `command`, some `cargo test`, and counts its tests.
fn cargo_tests(lab: &Lab, name: &str, command: &mut Command, tally: &mut Tally) {
    let result = step(name, || logged(lab, name, command));
    let text = std::fs::read_to_string(log_path(lab, name)).unwrap_or_default();
    let (passed, failed) = cargo_results(&text);
    tally.passed += passed;
    if let Err(error) = result {
        // If no test failed, the build did.
        if failed.is_empty() {
            tally.failed.push(format!("{error:#}"));
        } else {
            tally.failed.extend(
                failed
                    .into_iter()
                    .map(|test| format!("{name}: {test}, see {}", log_path(lab, name).display())),
            );
        }
    } else if passed == 0 {
        tally.failed.push(format!("{name}: none ran"));
    }
}

/// Reads the output of `cargo test`: the number of passed tests, failed names.
fn cargo_results(text: &str) -> (usize, Vec<String>) {
    let mut passed = 0;
    let mut failed = Vec::new();
    for line in text.lines() {
        if let Some(result) = line.strip_prefix("test result: ") {
            passed += result
                .split([' ', ';'])
                .zip(result.split([' ', ';']).skip(1))
                .find(|(_, word)| *word == "passed")
                .and_then(|(count, _)| count.parse::<usize>().ok())
                .unwrap_or(0);
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|line| line.strip_suffix(" ... FAILED"))
        {
            failed.push(name.to_owned());
        }
    }
    (passed, failed)
}

/// Runs selftests on `device`.
fn selftest(lab: &Lab, flavor: Flavor, device: &str, cases: Cases, tally: &mut Tally) {
    let name = title("selftest", flavor, device);
    let ran = step(&name, || {
        let mut options = format!("--device {device}");
        if flavor.has_card_drivers() {
            options.push_str(" --cards");
        }
        if device == RNET {
            options.push_str(&format!(" --module /artifacts/{}", flavor.module()));
        }
        for part in cases.without {
            options.push_str(&format!(" --without {part}"));
        }
        let program = format!(
            "/artifacts/rnet-selftest {options} --patience {} {}",
            flavor.patience(),
            cases.of.join(" ")
        );
        Vm::new(lab, &name)
            .flavor(flavor)
            .cards(flavor.has_card_drivers())
            .limit(SELFTEST_LIMIT)
            .output(Output::Quiet)
            .run(&device::script(flavor, device == RNET, &program))
    });
    let skipped = tally.skipped.len();
    tally.count_run(&name, ran);
    // Kernels that are built for the tests have everything that cases need: none may be skipped.
    if !flavor.is_package() && device == RNET {
        let lacking = tally.skipped.split_off(skipped).into_iter();
        tally
            .failed
            .extend(lacking.map(|case| format!("{case}: skipped")));
    }
}

/// Runs a QEMU guest on `device`.
fn guest(lab: &Lab, flavor: Flavor, device: &str, tally: &mut Tally) {
    let name = title("guest", flavor, device);
    let ran = step(&name, || {
        guest::run_with(lab, flavor, &[device], GUEST_SECONDS, &[])
    });
    match ran {
        Ok((outcome, reports)) => {
            tally.count(&name, guest::verdict(&outcome, &reports, 1));
            tally.count_kernel(&name, &outcome);
        }
        Err(error) => tally.failed.push(format!("{error:#}")),
    }
}

fn cargo() -> Command {
    let mut cargo = process::cargo();
    cargo.current_dir(build::checkout());
    cargo
}

fn log_path(lab: &Lab, name: &str) -> PathBuf {
    lab.logs()
        .join(format!("check-{}.log", name.replace(' ', "-")))
}

/// Runs `command` with a new log.
fn logged(lab: &Lab, name: &str, command: &mut Command) -> Result<()> {
    let log = log_path(lab, name);
    process::run_logged_anew(command, &log, CARGO_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::cargo_results;

    #[test]
    fn cargo_output_is_summed() {
        let text = "running 2 tests\n\
                    test a::b ... ok\n\
                    test a::c ... FAILED\n\
                    test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured\n\
                    running 3 tests\n\
                    test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured\n";
        assert_eq!(cargo_results(text), (4, vec!["a::c".to_owned()]));
    }
}
