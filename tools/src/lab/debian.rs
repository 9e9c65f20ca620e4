// SPDX-License-Identifier: GPL-2.0
//! The lab's Debian system: its creation, its packages, its kernel.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::lab::arch::Arch;
use crate::lab::chroot;
use crate::lab::paths::Lab;
use crate::lab::series::Series;
use crate::process;

/// The release that provides the toolchain.
const SUITE: &str = "trixie";
/// The suite that provides newer kernels for it, built with its toolchain.
pub const KERNELS: &str = "trixie-backports";

/// Only the kernel may come from backports: its Rust code must be compiled by
/// exactly the compiler that the release has.
const PINS: &str = "Package: linux-* linux-base\n\
                    Pin: release n=trixie-backports\n\
                    Pin-Priority: 990\n";

/// What the kernel build, the VMs and their tests need.
const TOOLS: &[&str] = &[
    "bc",
    "bindgen",
    "bison",
    "busybox-static",
    "cargo",
    "clang",
    "cpio",
    "dpdk-dev",
    "ethtool",
    "flex",
    "gdb-minimal",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "kmod",
    "libdw-dev",
    "libelf-dev",
    "libssl-dev",
    "libzstd-dev",
    "linux-perf",
    "make",
    "nftables",
    "pahole",
    "perl",
    "procps",
    "python3",
    "qemu-system-x86",
    "rsync",
    "rust-clippy",
    "rust-src",
    "rustc",
    "rustfmt",
    "socat",
    "strace",
    "tcpdump",
    "xz-utils",
    "zlib1g-dev",
];

/// Time limit of one apt run, over a slow network.
const LIMIT: Duration = Duration::from_secs(1800);

/// A packaged kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What `uname -r` says in it, such as `7.3.4+deb13-amd64`.
    pub release: String,
    /// The version of its packages, such as `7.3.4-1~bpo13+1`.
    pub package_version: String,
}

impl Kernel {
    /// The series, after which the source package is named.
    ///
    /// # Errors
    ///
    /// For a release that is no version.
    pub fn series(&self) -> Result<Series> {
        Series::of_version(self.upstream())
            .with_context(|| format!("{}: not a kernel's version", self.release))
    }

    /// The package with its source.
    pub fn source_package(&self) -> Result<String> {
        Ok(format!("linux-source-{}", self.series()?))
    }

    /// The upstream version, such as `7.3.4`.
    pub fn upstream(&self) -> &str {
        let end = self.release.find(|c: char| c != '.' && !c.is_ascii_digit());
        self.release
            .get(..end.unwrap_or(self.release.len()))
            .unwrap_or_default()
    }

    /// The architecture.
    pub fn arch(&self) -> Arch {
        Arch::of_release(&self.release)
    }

    fn numbers(&self) -> Vec<u64> {
        self.upstream()
            .split('.')
            .map_while(|part| part.parse().ok())
            .collect()
    }

    /// The value of `key` in the packaged configuration, quotes removed.
    pub fn config(&self, lab: &Lab, key: &str) -> Result<Option<String>> {
        let rootfs = lab.dir().join(self.arch().rootfs());
        let path = rootfs.join(format!("boot/config-{}", self.release));
        let config = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        Ok(config
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned()))
    }

    /// The C compiler that built the kernel, such as `x86_64-linux-gnu-gcc-14`.
    pub fn compiler(&self, lab: &Lab) -> Result<String> {
        let text = self
            .config(lab, "CONFIG_CC_VERSION_TEXT")?
            .unwrap_or_default();
        let name = text.split_whitespace().next();
        Ok(name
            .context("the packaged configuration names no compiler")?
            .to_owned())
    }
}

/// Creates the minimal rootfs from `mirror`, or else from the usual one.
///
/// # Errors
///
/// Those of mmdebstrap. No rootfs is there then, and the next call starts anew.
pub fn bootstrap(lab: &Lab, mirror: Option<String>) -> Result<()> {
    let temporary = lab.dir().join("rootfs.new");
    // mmdebstrap needs an empty directory, and an interrupted run leaves this one.
    if temporary.exists() {
        chroot::remove(&temporary)?;
    }
    let mut command = chroot::namespaced();
    command
        .args([
            "mmdebstrap",
            "--mode=root",
            "--variant=minbase",
            "--skip=check/qemu",
            SUITE,
        ])
        .arg(&temporary);
    if let Some(mirror) = &mirror {
        command.arg(format!("deb {mirror} {SUITE} main"));
    }
    process::run_logged(&mut command, &lab.logs().join("rootfs.log"), LIMIT)?;

    let sources = temporary.join("etc/apt/sources.list");
    let listed = std::fs::read_to_string(&sources)?;
    let mirror = mirror
        .or_else(|| {
            listed
                .split_whitespace()
                .find(|word| word.contains("://"))
                .map(str::to_owned)
        })
        .context("mmdebstrap left no mirror in sources.list")?;
    std::fs::write(
        &sources,
        format!("deb {mirror} {SUITE} main\ndeb {mirror} {KERNELS} main\n"),
    )?;
    std::fs::write(temporary.join("etc/apt/preferences.d/kernel"), PINS)?;
    std::fs::rename(&temporary, lab.rootfs())?;
    Ok(())
}

/// Returns the Debian mirror that the host itself uses, which is the one most likely to be reachable.
pub fn host_mirror() -> Option<String> {
    if let Ok(mirror) = std::env::var("RNET_MIRROR") {
        return Some(mirror);
    }
    let format = "$(ORIGIN) $(LABEL) $(REPO_URI)";
    let targets = process::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        format,
        "Created-By: Packages",
    ]))
    .ok()?;
    targets
        .lines()
        .find_map(|line| line.strip_prefix("Debian Debian "))
        .map(str::to_owned)
}

/// Brings the package lists up to date.
pub fn refresh(lab: &Lab) -> Result<()> {
    // Else apt takes it for a success if it reaches no mirror.
    apt(lab, &["update", "--error-on=any"])
}

/// Whether the package lists have a kernel of the series that are `wanted`.
pub fn offers_kernel(lab: &Lab, wanted: impl Fn(Series) -> bool) -> Result<bool> {
    Ok(!image_releases(&image_packages(lab)?, wanted).is_empty())
}

/// Searches the package lists for kernels.
fn image_packages(lab: &Lab) -> Result<String> {
    process::output(&mut lab.chroot().command(&[
        "apt-cache",
        "search",
        "--names-only",
        "^linux-image-[0-9].*-amd64$",
    ]))
}

/// Installs the newest kernel that has Rust, of the series that are `wanted`, and its headers and
/// source.
pub fn install_kernel(lab: &Lab, wanted: impl Fn(Series) -> bool) -> Result<Kernel> {
    let names = image_packages(lab)?;
    let mut kernels: Vec<Kernel> = Vec::new();
    for release in image_releases(&names, wanted) {
        let package_version = candidate(lab, &format!("linux-image-{release}"))?;
        kernels.extend(package_version.map(|package_version| Kernel {
            release,
            package_version,
        }));
    }
    kernels.sort_by(newest_first);
    let mut rejected = Vec::new();
    for kernel in kernels {
        let headers = format!("linux-headers-{}", kernel.release);
        let source = kernel.source_package()?;
        let same = Some(&kernel.package_version);
        if candidate(lab, &headers)?.as_ref() != same || candidate(lab, &source)?.as_ref() != same {
            rejected.push(format!(
                "{}: no headers or source of its version",
                kernel.release
            ));
            continue;
        }
        let image = format!("linux-image-{}", kernel.release);
        install(lab, &[&image, &headers, &source, "rustc"])?;
        match unfit(lab, &kernel)? {
            None => return Ok(kernel),
            Some(why) => rejected.push(format!("{}: {why}", kernel.release)),
        }
    }
    bail!("no kernel of {KERNELS} will do:\n{}", rejected.join("\n"))
}

/// Returns why modules in Rust can't be built for an installed kernel.
pub fn unfit(lab: &Lab, kernel: &Kernel) -> Result<Option<String>> {
    if kernel.config(lab, "CONFIG_RUST")?.as_deref() != Some("y") {
        return Ok(Some("built without CONFIG_RUST".to_owned()));
    }
    let wanted = kernel
        .config(lab, "CONFIG_RUSTC_VERSION_TEXT")?
        .unwrap_or_default();
    let found = process::output(&mut lab.chroot().command(&["rustc", "--version"]))?;
    Ok((wanted != found.trim()).then(|| format!("built with {wanted}, here is {}", found.trim())))
}

/// Installs the toolchain for `kernel` and everything else.
pub fn install_tools(lab: &Lab, kernel: &Kernel) -> Result<()> {
    let compiler = compiler_package(&kernel.compiler(lab)?);
    let mut packages = TOOLS.to_vec();
    packages.push(&compiler);
    install(lab, &packages)?;
    process::run_logged(
        &mut lab.chroot().command(&["depmod", &kernel.release]),
        &lab.logs().join("apt.log"),
        LIMIT,
    )?;
    apt(lab, &["clean"])
}

/// Returns whether all packages are installed.
pub fn complete(lab: &Lab) -> bool {
    let Ok(installed) = installed_packages(lab) else {
        return false;
    };
    let Ok(kernel) = installed_kernel(lab) else {
        return false;
    };
    let Ok(compiler) = kernel.compiler(lab) else {
        return false;
    };
    let modules = lab.rootfs().join("usr/lib/modules").join(&kernel.release);
    modules.join("modules.dep").exists()
        && TOOLS
            .iter()
            .copied()
            .chain([compiler_package(&compiler).as_str()])
            .all(|tool| installed.contains(tool))
}

/// Returns the newest installed kernel that has its headers and source.
pub fn installed_kernel(lab: &Lab) -> Result<Kernel> {
    let newest = installed_kernels(lab)?.into_iter().next();
    newest.context("the lab has no kernel with Rust, headers and source")
}

/// Returns the installed kernels that have their headers and source, from the newest on.
pub fn installed_kernels(lab: &Lab) -> Result<Vec<Kernel>> {
    let status = dpkg_status(lab)?;
    let installed = installed_in(&status);
    let mut kernels: Vec<Kernel> = installed
        .iter()
        .filter_map(|(package, version)| {
            let release = package.strip_prefix("linux-image-")?;
            Some(Kernel {
                release: release.to_owned(),
                package_version: (*version).to_owned(),
            })
        })
        .filter(|kernel| {
            let version = kernel.package_version.as_str();
            let headers = format!("linux-headers-{}", kernel.release);
            let packaged = |name: &str| installed.contains(&(name, version));
            packaged(&headers)
                && kernel.source_package().is_ok_and(|name| packaged(&name))
                && matches!(kernel.config(lab, "CONFIG_RUST"), Ok(Some(value)) if value == "y")
        })
        .collect();
    kernels.sort_by(newest_first);
    Ok(kernels)
}

fn newest_first(a: &Kernel, b: &Kernel) -> Ordering {
    // Of the same upstream version, the later rebuild.
    (b.numbers(), &b.package_version).cmp(&(a.numbers(), &a.package_version))
}

/// Picks the plain kernels (no cloud, no RT) that are new enough, and of a series that is `wanted`,
/// from a search.
fn image_releases(search: &str, wanted: impl Fn(Series) -> bool) -> Vec<String> {
    search
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.strip_prefix("linux-image-"))
        .filter(|release| release.matches('-').count() == 1)
        .filter(|release| {
            let kernel = Kernel {
                release: (*release).to_owned(),
                package_version: String::new(),
            };
            let series = kernel.series();
            series.is_ok_and(|series| series >= Series::OLDEST && wanted(series))
        })
        .map(str::to_owned)
        .collect()
}

/// Returns the Debian package that has a compiler.
fn compiler_package(compiler: &str) -> String {
    let prefix = Arch::Amd64.tool_prefix();
    compiler.trim_start_matches(prefix).to_owned()
}

/// Returns the version of `package` that apt would install.
fn candidate(lab: &Lab, package: &str) -> Result<Option<String>> {
    let policy = process::output(&mut lab.chroot().command(&["apt-cache", "policy", package]))?;
    Ok(policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .map(str::to_owned))
}

/// Installs packages.
pub fn install(lab: &Lab, packages: &[&str]) -> Result<()> {
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend(packages);
    apt(lab, &args)
}

fn apt(lab: &Lab, args: &[&str]) -> Result<()> {
    // An interrupted dpkg must be finished before apt does anything else, and cannot be as long as
    // dependencies of what is unpacked are not.
    let script = "dpkg --configure -a || apt-get install -y --fix-broken --no-install-recommends\n\
                  exec apt-get \"$@\"";
    let mut command = vec!["sh", "-c", script, "apt-get"];
    command.extend(args);
    process::run_logged(
        &mut lab.chroot().command(&command),
        &lab.logs().join("apt.log"),
        LIMIT,
    )
}

fn dpkg_status(lab: &Lab) -> Result<String> {
    let path = lab.rootfs().join("var/lib/dpkg/status");
    std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

fn installed_packages(lab: &Lab) -> Result<BTreeSet<String>> {
    let status = dpkg_status(lab)?;
    Ok(installed_in(&status)
        .into_iter()
        .map(|(name, _)| name.to_owned())
        .collect())
}

/// Returns the version of an installed package.
///
/// # Errors
///
/// When it is not installed.
pub fn installed_version(lab: &Lab, package: &str) -> Result<String> {
    let status = dpkg_status(lab)?;
    let mut installed = installed_in(&status).into_iter();
    let (_, version) = installed
        .find(|(name, _)| *name == package)
        .with_context(|| format!("{package} is not installed"))?;
    Ok(version.to_owned())
}

/// Returns the packages and versions that a dpkg status file tells installed.
fn installed_in(status: &str) -> BTreeSet<(&str, &str)> {
    status
        .split("\n\n")
        .filter(|stanza| stanza.contains("\nStatus: install ok installed\n"))
        .filter_map(|stanza| Some((field(stanza, "Package")?, field(stanza, "Version")?)))
        .collect()
}

/// Returns the value of a one-line field.
fn field<'a>(stanza: &'a str, key: &str) -> Option<&'a str> {
    stanza
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_new_kernels_are_taken() {
        let search = "linux-image-6.19.14+deb13-amd64 - Linux 6.19\n\
                      linux-image-7.1.13+deb13-amd64 - Linux 7.1\n\
                      linux-image-7.3.4+deb13-cloud-amd64 - Linux 7.3\n\
                      linux-image-7.3.4+deb13-amd64 - Linux 7.3\n\
                      linux-image-7.10.1+deb13-amd64 - Linux 7.10\n\
                      linux-image-8.0+deb14-amd64 - Linux 8.0\n";
        let mut kernels: Vec<Kernel> = image_releases(search, |_| true)
            .into_iter()
            .map(|release| Kernel {
                release,
                package_version: "1".to_owned(),
            })
            .collect();
        kernels.sort_by(newest_first);
        let releases: Vec<&str> = kernels
            .iter()
            .map(|kernel| kernel.release.as_str())
            .collect();
        assert_eq!(
            releases,
            ["8.0+deb14-amd64", "7.10.1+deb13-amd64", "7.3.4+deb13-amd64"]
        );
        let before = "7.10".parse().unwrap();
        let older = image_releases(search, |series| series < before);
        assert_eq!(older, ["7.3.4+deb13-amd64"]);
    }

    #[test]
    fn versions_are_taken_apart() {
        let kernel = Kernel {
            release: "7.3.4+deb13-amd64".to_owned(),
            package_version: "7.3.4-1~bpo13+1".to_owned(),
        };
        assert_eq!(
            (kernel.source_package().unwrap().as_str(), kernel.upstream()),
            ("linux-source-7.3", "7.3.4")
        );
        assert_eq!(compiler_package("x86_64-linux-gnu-gcc-14"), "gcc-14");
    }

    #[test]
    fn half_installed_packages_do_not_count() {
        let status = "Package: a\nStatus: install ok installed\nVersion: 1\n\n\
                      Package: b\nStatus: install ok half-configured\nVersion: 2\n\n\
                      Package: c\nStatus: install ok installed\nArchitecture: all\nVersion: 3\n";
        assert_eq!(
            Vec::from_iter(installed_in(status)),
            [("a", "1"), ("c", "3")]
        );
    }
}
