// SPDX-License-Identifier: GPL-2.0
//! The packaged kernel of arm64 and what a VM of it needs: installed only when it is asked for.
//!
//! Packages of arm64 are unpacked into a directory of their own and not configured, so none of their
//! programs has to run here. Cross compilers and QEMU are in the rootfs.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::lab::arch::Arch;
use crate::lab::debian::{self, Kernel};
use crate::lab::kernel;
use crate::lab::paths::{INSIDE, Lab};
use crate::process;
use crate::steps::step;

/// The tree that modules are built against, relative to the lab.
pub const TREE: &str = "arm64/kernel";

/// What the VM runs from, beside the kernel, with what its guests have of it.
const SYSTEM: &[&str] = &[
    "base-files",
    "bash",
    "busybox-static",
    "coreutils",
    "dash",
    "ethtool",
    "hostname",
    "iperf3",
    "iproute2",
    "kmod",
    "mount",
    "nftables",
    "procps",
    "qemu-system-arm",
    "util-linux",
];

/// What the rootfs needs in addition, beside the C compiler.
const TOOLS: &[&str] = &["libc6-dev-arm64-cross", "qemu-system-arm"];

/// The Rust standard library, of whose package the compiler's version is needed.
const LIBSTD: &str = "libstd-rust-dev";

/// Time limit of installing, over a slow network.
const LIMIT: Duration = Duration::from_secs(1800);

/// The kernel: of the same version as the lab's newest, so that its source is here.
///
/// # Errors
///
/// When the lab has no kernel yet.
pub fn kernel(lab: &Lab) -> Result<Kernel> {
    let own = debian::installed_kernel(lab)?;
    let version = own.release.strip_suffix("-amd64");
    let version = version.with_context(|| format!("{}: not of amd64", own.release))?;
    Ok(Kernel {
        release: format!("{version}-arm64"),
        package_version: own.package_version,
    })
}

/// Installs the kernel with a root file system, the cross compilers and QEMU, unless they are there.
///
/// # Errors
///
/// Those of apt, and when the mirrors have another version of the kernel by now.
pub fn install(lab: &Lab) -> Result<()> {
    let _lock = lab.lock("lab.lock")?;
    let kernel = kernel(lab)?;
    let libstd = debian::installed_version(lab, LIBSTD)?;
    let mut hasher = DefaultHasher::new();
    (SYSTEM, &kernel.release, &kernel.package_version, &libstd).hash(&mut hasher);
    let stamp = format!("{:016x}\n", hasher.finish());
    let stamped = lab.dir().join("arm64/installed");
    if std::fs::read_to_string(&stamped).is_ok_and(|old| old == stamp) {
        return Ok(());
    }
    step(&format!("packages of {}", kernel.release), || {
        unpack(lab, &kernel, &libstd)
            .context("if the mirror has a newer kernel, `cargo xtask lab --update` takes it")
    })?;
    if let Some(why) = debian::unfit(lab, &kernel)? {
        bail!("{}: {why}", kernel.release);
    }
    let compiler = kernel.compiler(lab)?;
    let compiler = compiler.strip_prefix(Arch::Arm64.tool_prefix());
    let compiler = compiler.context("the packaged kernel is not from a compiler of arm64")?;
    let compiler = format!("{compiler}-aarch64-linux-gnu");
    let tools: Vec<&str> = [compiler.as_str()]
        .into_iter()
        .chain(TOOLS.iter().copied())
        .collect();
    step("cross compilers and QEMU for arm64", || {
        debian::refresh(lab)?;
        debian::install(lab, &tools)
    })?;
    std::fs::write(stamped, stamp)?;
    Ok(())
}

/// Makes sure that modules can be built for the kernel, and that it can be booted.
///
/// # Errors
///
/// Those of apt, and of the tree's build.
pub fn ensure(lab: &Lab) -> Result<()> {
    install(lab)?;
    let _lock = lab.lock("arm64.lock")?;
    kernel::ensure(lab, TREE, &kernel(lab)?)
}

/// Unpacks all packages into a new root file system.
fn unpack(lab: &Lab, kernel: &Kernel, libstd: &str) -> Result<()> {
    // Packages that others depend on are found by an apt that knows only arm64 and has none installed.
    // The kernel's files are put where its scripts would put them.
    let script = format!(
        "cd {INSIDE}/arm64\n\
         rm -rf apt rootfs.new installed\n\
         mkdir -p apt/lists/partial apt/archives/partial rootfs.new\n\
         : > apt/status\n\
         export APT_CONFIG=$PWD/apt/conf\n\
         cat > apt/conf <<END\n\
         APT::Architecture \"arm64\";\n\
         APT::Architectures {{ \"arm64\"; }};\n\
         APT::Sandbox::User \"root\";\n\
         Dir::State \"$PWD/apt\";\n\
         Dir::State::status \"$PWD/apt/status\";\n\
         Dir::Cache \"$PWD/apt\";\n\
         END\n\
         apt-get update\n\
         apt-get install -y --download-only --no-install-recommends {packages} \\\n    \
         linux-image-{release}={version}\n\
         cd apt/archives\n\
         apt-get download linux-headers-{release}={version} {LIBSTD}={libstd}\n\
         cd ../../rootfs.new\n\
         for package in ../apt/archives/base-files_*.deb ../apt/archives/*.deb; do\n    \
         dpkg-deb --extract \"$package\" .\n\
         done\n\
         mv usr/lib/modules/{release}/vmlinuz boot/vmlinuz-{release}\n\
         mv usr/lib/modules/{release}/config boot/config-{release}\n\
         depmod -b . {release}\n\
         cd ..\n\
         rm -rf apt rootfs\n\
         mv rootfs.new rootfs\n",
        packages = SYSTEM.join(" "),
        release = kernel.release,
        version = kernel.package_version,
    );
    std::fs::create_dir_all(lab.dir().join("arm64"))?;
    let mut command = lab.chroot().command(&["sh", "-exc", &script]);
    process::run_logged_anew(&mut command, &lab.logs().join("arm64-packages.log"), LIMIT)
}
