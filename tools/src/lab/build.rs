// SPDX-License-Identifier: GPL-2.0
//! Building the module and the programs that run in the VM.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

use crate::lab::arch::Arch;
use crate::lab::chroot::Access;
use crate::lab::flavor::{Flavor, MODULE};
use crate::lab::packaged_cargo;
use crate::lab::paths::{INSIDE, Lab};
use crate::process;
use crate::steps::step;

/// Where the checkout is seen inside the chroot.
pub const SOURCE: &str = "/src";

/// Time limit of a build.
const LIMIT: Duration = Duration::from_secs(900);

/// How the kernel's build system is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As a user builds the module.
    Normal,
    /// With every warning an error, through clippy.
    Strict,
}

/// The checkout that this program was built from.
pub fn checkout() -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR"));
    tools.parent().unwrap_or(tools).to_owned()
}

/// Builds everything that a VM of this kernel needs, into the artifacts directory.
pub fn all(lab: &Lab, flavor: Flavor) -> Result<()> {
    // Programs first: they also run on vhost-net, if building the module fails.
    programs(lab, flavor.arch())?;
    let _lock = lab.lock("build.lock")?;
    let module = module(lab, &checkout(), flavor, Mode::Normal)?;
    publish(&module, &flavor.artifacts(lab).join(flavor.module()))
}

/// Builds everything for the packaged kernel, as a step on show.
pub fn packaged(lab: &Lab) -> Result<()> {
    step("module and programs", || all(lab, Flavor::Packaged))
}

/// The directory of a build's output, relative to the lab.
pub fn output_name(flavor: Flavor, mode: Mode) -> String {
    let name = match mode {
        Mode::Normal => "build",
        Mode::Strict => "build-strict",
    };
    match flavor {
        Flavor::Packaged => name.to_owned(),
        _ => format!("{name}-{flavor}"),
    }
}

/// Builds the module from `source` for a kernel; returns its file.
///
/// All output goes to a directory of the lab, so the checkout stays clean.
pub fn module(lab: &Lab, source: &Path, flavor: Flavor, mode: Mode) -> Result<PathBuf> {
    let flags = match mode {
        Mode::Normal => "",
        Mode::Strict => "CLIPPY=1 W=e",
    };
    let name = output_name(flavor, mode);
    let output = lab.dir().join(&name);
    std::fs::create_dir_all(&output)?;
    let compiler = flavor.compiler(lab)?;
    let tree = flavor.tree();
    let arch = flavor.arch().make_options();
    let jobs = std::thread::available_parallelism()?;
    let words = format!(
        "make -C {INSIDE}/{tree} M={SOURCE} MO={INSIDE}/{name} CC={compiler} {arch} {flags} -j{jobs} modules"
    );
    let rust_flags = format!("KRUSTFLAGS={}", flavor.rust_flags());
    let mut args: Vec<&str> = words.split_whitespace().collect();
    args.push(&rust_flags);
    let log = lab.logs().join(format!("{name}.log"));
    let mut make = lab
        .chroot()
        .bind(source, SOURCE, Access::ReadOnly)
        .command(&args);
    let built = process::run_logged_anew(&mut make, &log, LIMIT);
    let text = std::fs::read_to_string(&log)?;
    // Warnings don't fail a normal build, but nobody should miss them; and a
    // compiler's first error is rarely in the log's tail.
    if built.is_err() || text.contains("warning") {
        eprintln!("{text}");
    }
    built.map_err(|_| anyhow!("building the module failed, see {}", log.display()))?;
    Ok(output.join(MODULE))
}

/// The fields of a JSON message from cargo that are read here.
#[derive(Deserialize)]
struct CargoMessage {
    executable: Option<PathBuf>,
}

/// A cargo whose programs for amd64 are linked statically, since the VM's
/// C library is not the host's.
pub fn static_cargo() -> Command {
    let mut cargo = process::cargo();
    cargo.env(
        "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
        "-C target-feature=+crt-static",
    );
    cargo
}

/// Builds the Rust programs that run in VMs of `arch`.
pub fn programs(lab: &Lab, arch: Arch) -> Result<()> {
    let _lock = lab.lock("programs.lock")?;
    let to = lab.dir().join(arch.artifacts());
    std::fs::create_dir_all(&to)?;
    let build = |more: &[&str]| {
        let mut args = vec!["build", "--release", "--target", arch.target()];
        args.extend(["-p", "selftests", "-p", "rnet-e2e", "-p", "rnetctl"]);
        args.extend(more);
        match arch {
            Arch::Amd64 => {
                let mut cargo = static_cargo();
                cargo.current_dir(checkout()).args(args);
                Ok(cargo)
            }
            Arch::Arm64 => cross_cargo(lab, &args),
        }
    };
    let log = lab.logs().join(format!("programs-{}.log", arch.target()));
    if process::run_logged_anew(&mut build(&[])?, &log, LIMIT).is_err() {
        eprintln!("{}", process::text(&log));
        bail!("building the VM's programs failed, see {}", log.display());
    }
    // Nothing is left to do but to name them.
    let mut listing = build(&["--quiet", "--message-format=json"])?;
    for path in executables(&process::output(&mut listing)?)? {
        let name = path.file_name().context("an executable without a name")?;
        let path = match arch {
            Arch::Amd64 => path.clone(),
            // Cargo ran in the chroot.
            Arch::Arm64 => lab.dir().join(path.strip_prefix(INSIDE)?),
        };
        publish(&path, &to.join(name))?;
    }
    Ok(())
}

/// The lab's own cargo with `args`, linking programs for arm64: the host's toolchain need not have a
/// standard library for it.
fn cross_cargo(lab: &Lab, args: &[&str]) -> Result<Command> {
    let arch = Arch::Arm64;
    packaged_cargo::fetch(lab, &checkout())?;
    let libraries = format!("usr/lib/rustlib/{}", arch.target());
    let unpacked = lab.dir().join(arch.rootfs()).join(&libraries);
    let chroot = lab
        .chroot()
        .bind(&checkout(), SOURCE, Access::ReadOnly)
        .bind(&unpacked, format!("/{libraries}"), Access::ReadOnly);
    let mut args = args.to_vec();
    let manifest = format!("{SOURCE}/Cargo.toml");
    args.extend(["--manifest-path", &manifest]);
    let mut cargo = packaged_cargo::command(&chroot, &args);
    cargo
        .env("CARGO_TARGET_DIR", format!("{INSIDE}/arm64/target"))
        .env(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER",
            Flavor::Arm64.compiler(lab)?,
        )
        .env(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "-C target-feature=+crt-static",
        );
    Ok(cargo)
}

/// The executables that cargo has built, by its JSON messages.
pub fn executables(messages: &str) -> Result<Vec<PathBuf>> {
    let executable = |line| Ok(serde_json::from_str::<CargoMessage>(line)?.executable);
    let found = messages.lines().map(executable);
    found.filter_map(Result::transpose).collect()
}

/// Replaces `to` by a copy of `from` atomically, and only if it differs: a VM may be reading it.
pub fn publish(from: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if std::fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let dir = to.parent().context("no directory to publish into")?;
    std::fs::create_dir_all(dir)?;
    let temporary = tempfile::Builder::new().tempfile_in(dir)?;
    std::fs::write(temporary.path(), bytes)?;
    std::fs::set_permissions(temporary.path(), std::fs::metadata(from)?.permissions())?;
    temporary.persist(to)?;
    Ok(())
}
