// SPDX-License-Identifier: GPL-2.0
//! Third-party tests of `/dev/vhost-net`, run on both devices.
//!
//! They are the kernel's own `tools/virtio/vhost_net_test`, built from the lab's
//! kernel source, and the tests of rust-vmm's `vhost` crate, fetched by cargo.
//! Both open `/dev/vhost-net` by name; a bind mount puts another device there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::lab::arch::Arch;
use crate::lab::flavor::Flavor;
use crate::lab::paths::{INSIDE, Lab};
use crate::lab::{build, debian};
use crate::process::{self, shell_quote};
use crate::steps::step;
use crate::tests::tally::Tally;
use crate::vm::device::{self, C_VHOST, RNET};
use crate::vm::level1::Vm;

/// Where the programs are built, in the lab.
const DIR: &str = "programs";

/// The kernel's program, and its name among the artifacts.
const NET_TEST: &str = "vhost_net_test";

/// The crate's tests among the artifacts.
const CRATE_TESTS: &str = "vhost-crate-tests";

/// The crate's tests that open `/dev/vhost-net`.
const CRATE_MODULE: &str = "vhost_kern::net::tests::";

/// Buffers that `vhost_net_test` moves each way: its default of 2^20 takes
/// minutes on emulated processors.
const BUFFERS: u32 = 20_000;

/// Options of `vhost_net_test`, one run each.
///
/// Of its other options, `--no-virtio-1` is run nowhere: the ring then has
/// headers of 10 bytes and the test keeps its 12, so that it waits forever on
/// the kernel's device too. `--event-idx`, `--indirect`, `--virtio-1` and
/// `--no-delayed-interrupt` are named in its table but end in an assertion.
const OPTIONS: &[&[&str]] = &[
    &[],
    &["--no-event-idx"],
    &["--no-indirect"],
    &["--delayed-interrupt"],
    &["--no-event-idx", "--no-indirect", "--delayed-interrupt"],
];

/// Time limit of building a program, downloads included.
const BUILD_LIMIT: Duration = Duration::from_secs(900);

/// Seconds after which a program in the VM counts as hung.
const SECONDS: u32 = 120;

/// Time limit of the VM.
const VM_LIMIT: Duration = Duration::from_secs(900);

/// Builds `vhost_net_test` with the kernel's own rules.
///
/// They expect headers in `usr/include` of the tree, which is empty unless they
/// were installed there. Those of the C library serve instead, except for
/// `linux/device-id`, which is not part of the user-space API. A tree of links
/// adds it, and the kernel tree stays clean.
const BUILD_NET_TEST: &str = r#"
kernel=$1 compiler=$2 out=$3
tree=/tmp/tree
mkdir -p "$tree/tools" "$tree/usr/include/linux"
cp -r "$kernel/tools/virtio" "$tree/tools/"
ln -s "$kernel/tools/include" "$tree/tools/"
ln -s "$kernel/drivers" "$kernel/include" "$tree/"
ln -s "$kernel/include/linux/device-id" "$tree/usr/include/linux/"
make -C "$tree/tools/virtio" CC="$compiler" vhost_net_test
cp "$tree/tools/virtio/vhost_net_test" "$out"
"#;

/// Runs one program per call of `check NAME COMMAND...` and reports in KTAP.
const CHECK: &str = r##"
number=0
said=$(mktemp)
failed=0
check() {
    name=$1
    shift
    number=$((number + 1))
    if timeout -k 5 "$limit" "$@" > "$said" 2>&1; then
        echo "ok $number $name"
    else
        echo "# ended with $?"
        sed 's/^/# /' "$said"
        echo "not ok $number $name"
        failed=1
    fi
}
"##;

/// Manifest of a package that depends on the crate, to have cargo fetch it.
const FETCH: &str = r#"[package]
name = "fetch"
version = "0.0.0"
edition = "2021"

[lib]
path = "fetch.rs"

[dependencies]
vhost = "*"

[workspace]
"#;

/// A program with its arguments, and what the report calls it.
struct Run {
    name: String,
    command: Vec<String>,
}

/// Builds the programs and runs them on both devices.
pub fn run(lab: &Lab, tally: &mut Tally) {
    let runs = match step("programs of others", || prepare(lab)) {
        Ok(runs) => runs,
        Err(error) => {
            tally.count("programs of others", Err(error));
            return;
        }
    };
    for device in [C_VHOST, RNET] {
        let name = format!("programs {device}");
        let ran = step(&name, || {
            Vm::new(lab, &name)
                .limit(VM_LIMIT)
                .run(&script(&runs, device))
        });
        tally.count_run(&name, ran);
    }
}

/// Builds everything; returns what is to be run.
fn prepare(lab: &Lab) -> Result<Vec<Run>> {
    let _lock = lab.lock("others.lock")?;
    let dir = lab.dir().join(DIR);
    std::fs::create_dir_all(&dir)?;
    std::fs::create_dir_all(lab.artifacts())?;
    build_net_test(lab, &dir)?;
    let mut runs: Vec<Run> = OPTIONS.iter().map(|options| net_test(options)).collect();
    let tests = build_crate_tests(lab, &dir)?;
    runs.extend(tests.into_iter().map(crate_test));
    Ok(runs)
}

/// The run of `vhost_net_test` with `options`.
fn net_test(options: &[&str]) -> Run {
    let mut command = vec![
        format!("/artifacts/{NET_TEST}"),
        format!("--buf-num={BUFFERS}"),
    ];
    command.extend(options.iter().map(|&option| option.to_owned()));
    Run {
        name: [&[NET_TEST], options].concat().join(" "),
        command,
    }
}

/// The run of the crate's test called `test`.
fn crate_test(test: String) -> Run {
    Run {
        name: format!("vhost crate {test}"),
        command: vec![format!("/artifacts/{CRATE_TESTS}"), "--exact".into(), test],
    }
}

/// The VM's script: all of `runs` with `device` at `/dev/vhost-net`.
fn script(runs: &[Run], device: &str) -> String {
    let ours = device == RNET;
    let mut script = format!("{CHECK}limit={SECONDS}\n");
    if ours {
        script.push_str(&device::insmod(Flavor::Packaged));
        script.push_str(&format!(
            "mount --bind {device} {c} && test {device} -ef {c} || exit 1\n",
            c = C_VHOST
        ));
    }
    script.push_str(&format!("echo 'KTAP version 1'\necho 1..{}\n", runs.len()));
    for run in runs {
        script.push_str(&format!(
            "check {} {}\n",
            shell_quote(&[&run.name]),
            shell_quote(&run.command)
        ));
    }
    if ours {
        script.push_str(&format!(
            "umount {} && rmmod vhost_rnet || exit 1\n",
            C_VHOST
        ));
    }
    script.push_str("exit $failed\n");
    script
}

/// Builds `vhost_net_test` into the artifacts.
fn build_net_test(lab: &Lab, dir: &Path) -> Result<()> {
    let compiler = debian::installed_kernel(lab)?.compiler(lab)?;
    let kernel = format!("{INSIDE}/kernel");
    let out = format!("{INSIDE}/{DIR}/{NET_TEST}");
    let mut command = lab.chroot().command(&[
        "sh",
        "-ec",
        BUILD_NET_TEST,
        "build",
        &kernel,
        &compiler,
        &out,
    ]);
    logged(lab, NET_TEST, &mut command)?;
    build::publish(&dir.join(NET_TEST), &lab.artifacts().join(NET_TEST))
}

/// The fields of the output of `cargo metadata` that are read here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// A package that cargo fetched.
#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    manifest_path: PathBuf,
}

/// Builds the tests of the newest `vhost` crate into the artifacts; returns the
/// names of those in [`CRATE_MODULE`].
fn build_crate_tests(lab: &Lab, dir: &Path) -> Result<Vec<String>> {
    let package = fetch(&dir.join("fetch"))?;
    let from = package.manifest_path.parent().context("no package")?;
    let source = dir.join(format!("{}-{}", package.name, package.version));
    if !source.exists() {
        // The copy in cargo's registry must not be changed.
        let new = dir.join("crate.new");
        let mut copy = Command::new("sh");
        copy.args(["-ec", "rm -rf \"$2\"; cp -r \"$1\" \"$2\"", "copy"]);
        logged(lab, "vhost crate copy", copy.arg(from).arg(&new))?;
        std::fs::rename(new, &source)?;
    }
    let report = process::output(
        build::static_cargo()
            .current_dir(&source)
            .args(["test", "--quiet", "--no-run", "--lib"])
            .args(["--features", "vhost-net", "--target", Arch::Amd64.target()])
            .arg("--message-format=json-render-diagnostics")
            .env("CARGO_TARGET_DIR", dir.join("target")),
    )
    .context("building the vhost crate's tests")?;
    let tests = build::executables(&report)?.pop();
    let tests = tests.context("cargo built no tests of the vhost crate")?;
    build::publish(&tests, &lab.artifacts().join(CRATE_TESTS))?;
    let listed = process::output(Command::new(&tests).args(["--list", "--format", "terse"]))?;
    let names = test_names(&listed);
    ensure!(
        !names.is_empty(),
        "the vhost crate has no tests in {CRATE_MODULE}"
    );
    Ok(names)
}

/// Fetches the newest `vhost` crate; without a network, what cargo has of it.
fn fetch(dir: &Path) -> Result<Package> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("Cargo.toml"), FETCH)?;
    std::fs::write(dir.join("fetch.rs"), "")?;
    // A lock file would pin an older version.
    match std::fs::remove_file(dir.join("Cargo.lock")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let metadata = |options: &[&str]| {
        let mut cargo = process::cargo();
        cargo.current_dir(dir);
        process::output(
            cargo
                .args(["metadata", "--quiet", "--format-version=1"])
                .args(options),
        )
    };
    let text = metadata(&[]).or_else(|error| {
        metadata(&["--offline"]).map_err(|_| error.context("fetching the vhost crate"))
    })?;
    let metadata: Metadata = serde_json::from_str(&text)?;
    let mut packages = metadata.packages.into_iter();
    match packages.find(|package| package.name == "vhost") {
        Some(package) => Ok(package),
        None => bail!("cargo fetched no vhost crate"),
    }
}

/// The names of the tests of [`CRATE_MODULE`] in a test program's list.
fn test_names(list: &str) -> Vec<String> {
    list.lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .filter(|name| name.starts_with(CRATE_MODULE))
        .map(str::to_owned)
        .collect()
}

/// Runs `command` with a new log.
fn logged(lab: &Lab, name: &str, command: &mut Command) -> Result<()> {
    let log = lab
        .logs()
        .join(format!("program-{}.log", name.replace(' ', "-")));
    process::run_logged_anew(command, &log, BUILD_LIMIT).with_context(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{net_test, script, test_names};
    use crate::tests::ktap;
    use crate::vm::device::C_VHOST;

    #[test]
    fn only_net_tests_are_taken() {
        let list = "backend::tests::a: test\n\
                    vhost_kern::net::tests::b: test\n\
                    vhost_kern::net::tests::c: benchmark\n";
        assert_eq!(test_names(list), ["vhost_kern::net::tests::b"]);
    }

    #[test]
    fn runs_are_named_by_their_options() {
        let run = net_test(&["--no-indirect"]);
        assert_eq!(run.name, "vhost_net_test --no-indirect");
        assert!(run.command.contains(&"--no-indirect".to_owned()));
    }

    #[test]
    fn the_script_reports_ends_and_hangs() {
        let run = |name: &str, command: &[&str]| super::Run {
            name: name.to_owned(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
        };
        let runs = [
            run("good", &["true"]),
            run("bad", &["sh", "-c", "echo why; exit 3"]),
            run("hung", &["sleep", "60"]),
        ];
        let script = script(&runs, C_VHOST).replace("limit=120", "limit=2");
        let out = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .unwrap();
        let results = ktap::parse(&String::from_utf8(out.stdout).unwrap());
        assert_eq!(results.passed, ["good"]);
        assert_eq!(
            results.failed,
            [
                "bad\n      ended with 3\n      why",
                "hung\n      ended with 124"
            ]
        );
        assert_eq!(out.status.code(), Some(1));
    }
}
