// SPDX-License-Identifier: GPL-2.0
//! The lab: a directory with everything that is built once.
//!
//! [`ensure`] builds it in steps. A step is skipped when its output is complete,
//! so that an interrupted run resumes where it stopped, and a lab made by other
//! means is used as it is. An output that could look complete too early is made
//! under a temporary name, or the file that marks it complete is written last.

pub mod arch;
pub mod arm64;
pub mod build;
pub mod chroot;
mod cpio;
pub mod debian;
pub mod flavor;
pub mod initramfs;
pub mod kernel;
pub mod layers;
pub mod packaged_cargo;
pub mod packages;
pub mod paths;
pub mod series;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::lab::paths::Lab;
use crate::lab::series::Series;
use crate::process;
use crate::steps::step;

/// Host commands the lab needs, and the Debian packages that have them.
const HOST_TOOLS: &[(&str, &str)] = &[
    ("mmdebstrap", "mmdebstrap"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
    ("xz", "xz-utils"),
    ("unzstd", "zstd"),
    ("cc", "build-essential"),
];

/// What the Debian system and the packaged kernel's tree take, in MiB.
const ROOM: u64 = 6000;

/// Builds what is missing; with `update`, also takes newer packages.
pub fn ensure(lab: &Lab, update: bool) -> Result<()> {
    std::fs::create_dir_all(lab.dir())
        .with_context(|| format!("creating the lab, {}", lab.dir().display()))?;
    let lock = lab.lock("lab.lock")?;
    std::fs::create_dir_all(lab.logs())?;
    host_tools(lab)?;
    if !lab.rootfs().exists() {
        chroot::check()?;
        room(lab)?;
        step("Debian rootfs", || {
            debian::bootstrap(lab, debian::host_mirror())
        })?;
    }
    if update || !debian::complete(lab) {
        step("package lists", || debian::refresh(lab))?;
        // A missing tool does not call for a newer kernel.
        let version = match debian::installed_kernel(lab) {
            Ok(version) if !update => version,
            _ => step("packaged kernel", || debian::install_kernel(lab, |_| true))?,
        };
        step(
            &format!("toolchain and QEMU for {}", version.release),
            || debian::install_tools(lab, &version),
        )?;
    }
    let version = debian::installed_kernel(lab)?;
    kernel::ensure(lab, kernel::TREE, &version)?;
    drop(lock);
    Ok(())
}

/// Installs the newest packaged kernel of the series that are `wanted`, unless one is installed, and
/// returns its series; `None` if Debian has none of them.
///
/// # Errors
///
/// Those of apt, and when none will do.
pub fn install_series(lab: &Lab, wanted: impl Fn(Series) -> bool) -> Result<Option<Series>> {
    let lock = lab.lock("lab.lock")?;
    for kernel in debian::installed_kernels(lab)? {
        let series = kernel.series()?;
        if wanted(series) {
            return Ok(Some(series));
        }
    }
    step("package lists", || debian::refresh(lab))?;
    if !debian::offers_kernel(lab, &wanted)? {
        return Ok(None);
    }
    let kernel = step("another packaged kernel", || {
        debian::install_kernel(lab, wanted)
    })?;
    step(&format!("toolchain for {}", kernel.release), || {
        debian::install_tools(lab, &kernel)
    })?;
    drop(lock);
    kernel.series().map(Some)
}

/// Fails unless the disk has room for the Debian system and the packaged kernel's tree.
///
/// # Errors
///
/// One that says where there is too little.
fn room(lab: &Lab) -> Result<()> {
    let disk = rustix::fs::statvfs(lab.dir())?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize) >> 20;
    if free < ROOM {
        bail!(
            "{} has {free} MiB free of the {ROOM} that the lab needs: free some, or set RNET_LAB to \
             another directory",
            lab.dir().display()
        );
    }
    Ok(())
}

/// Installs missing tools of the host as root; as another user, fails with the command to run.
fn host_tools(lab: &Lab) -> Result<()> {
    let mut packages: Vec<&str> = HOST_TOOLS
        .iter()
        .filter(|(tool, _)| !in_path(tool))
        .map(|(_, package)| *package)
        .collect();
    if !chroot::is_root() && !in_path("newuidmap") {
        packages.push("uidmap");
    }
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let line = format!(
        "apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    );
    if !chroot::is_root() {
        bail!("this host lacks tools; as root, run: {line}");
    }
    if !in_path("apt-get") {
        bail!(
            "this host lacks tools, and apt-get to install them: {}",
            packages.join(" ")
        );
    }
    step(&format!("host packages ({})", packages.join(" ")), || {
        let log = lab.logs().join("host-packages.log");
        let script = format!("export DEBIAN_FRONTEND=noninteractive; apt-get update && {line}");
        process::run_logged(
            Command::new("sh").args(["-c", &script]),
            &log,
            Duration::from_secs(600),
        )
    })
}

/// Tells whether the host has a program called `tool`.
fn in_path(tool: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path)
            .chain([
                Path::new("/usr/sbin").to_owned(),
                Path::new("/sbin").to_owned(),
            ])
            .any(|dir| dir.join(tool).is_file())
    })
}
