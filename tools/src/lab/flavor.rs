// SPDX-License-Identifier: GPL-2.0
//! The kernels that a VM can run: packaged ones, and those that check more.
//!
//! The latter are built from the packaged source with a small configuration of
//! ours. Drivers are built in, except for modules whose use count a test reads.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail, ensure};

use crate::lab::arch::Arch;
use crate::lab::debian::Kernel;
use crate::lab::paths::{INSIDE, Lab};
use crate::lab::series::Series;
use crate::lab::{self, arm64, debian, kernel};
use crate::process;
use crate::steps::step;

/// The module's file.
pub const MODULE: &str = "vhost_rnet.ko";

/// The part of the configuration that the kernels with checks share.
const COMMON: &str = include_str!("../../kernel/common.config");

/// Their source, relative to the lab. They are built beside it.
const SOURCE: &str = "debug/source";

/// A `sed` script that lets the kernel's Rust target use the thread sanitizer, so that KCSAN checks
/// Rust code as it does C.
const ADMIT_THREAD: &str =
    r#"s/\["kcfi", "kernel-address"\]/["kcfi", "kernel-address", "thread"]/"#;

/// Time limit of building one, on a slow machine.
const LIMIT: Duration = Duration::from_secs(3600);

/// A kernel for the VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Flavor {
    /// Debian's newest package.
    #[default]
    Packaged,
    /// Debian's package of an older series.
    Series(Series),
    /// Debian's package of the newest for arm64.
    Arm64,
    /// Built with checks of memory, leaks, locks and object lifetimes.
    Debug,
    /// Built with the detector of data races.
    Kcsan,
}

impl fmt::Display for Flavor {
    /// Its name on the command line and in the lab.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packaged => f.write_str("packaged"),
            Self::Series(series) => series.fmt(f),
            Self::Arm64 => f.write_str("arm64"),
            Self::Debug => f.write_str("debug"),
            Self::Kcsan => f.write_str("kcsan"),
        }
    }
}

impl FromStr for Flavor {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "packaged" => Ok(Self::Packaged),
            "debug" => Ok(Self::Debug),
            "kcsan" => Ok(Self::Kcsan),
            _ => name
                .parse()
                .map(Self::Series)
                .context("neither packaged, debug, kcsan nor a kernel series, such as 7.3"),
        }
    }
}

impl Flavor {
    /// The package of the series before that of the newest, which is installed if need be; `None` if
    /// Debian no longer has one.
    ///
    /// # Errors
    ///
    /// Those of apt.
    pub fn previous(lab: &Lab) -> Result<Option<Self>> {
        let newest = debian::installed_kernel(lab)?.series()?;
        let previous = lab::install_series(lab, |series| series < newest)?;
        Ok(previous.map(Self::Series))
    }

    /// The kernel of this name: the newest package if its series is named.
    ///
    /// # Errors
    ///
    /// When there is no package yet, and for a series that is newer.
    pub fn resolved(self, lab: &Lab) -> Result<Self> {
        let Self::Series(series) = self else {
            return Ok(self);
        };
        let newest = debian::installed_kernel(lab)?.series()?;
        ensure!(
            series <= newest,
            "the lab's newest kernel is {newest}: `cargo xtask lab --update` looks for a newer one"
        );
        Ok(if series == newest {
            Self::Packaged
        } else {
            self
        })
    }

    /// Whether it is a package, and not built here.
    pub fn is_package(self) -> bool {
        matches!(self, Self::Packaged | Self::Series(_) | Self::Arm64)
    }

    /// Debian's newest package for `arch`.
    pub fn newest(arch: Arch) -> Self {
        match arch {
            Arch::Amd64 => Self::Packaged,
            Arch::Arm64 => Self::Arm64,
        }
    }

    /// Its architecture.
    pub fn arch(self) -> Arch {
        match self {
            Self::Arm64 => Arch::Arm64,
            _ => Arch::Amd64,
        }
    }

    /// What a VM of it finds at `/artifacts`.
    pub fn artifacts(self, lab: &Lab) -> PathBuf {
        lab.dir().join(self.arch().artifacts())
    }

    /// The configuration that it has beside the common one.
    fn config(self) -> &'static str {
        match self {
            Self::Packaged | Self::Series(_) | Self::Arm64 => "",
            Self::Debug => include_str!("../../kernel/debug.config"),
            Self::Kcsan => include_str!("../../kernel/kcsan.config"),
        }
    }

    /// Its options for the kernel command line.
    pub fn command_line(self) -> &'static str {
        match self {
            Self::Packaged | Self::Series(_) | Self::Arm64 => "",
            // KASAN goes on after its first report, since a later one may explain it. KVM is built
            // in and uses the TSC's early calibration as its rate. On a loaded machine that is off by
            // more than the default tolerance; KVM would then scale the clocks of its guests, which
            // stand still.
            Self::Debug => "kasan_multi_shot kvm.tsc_tolerance_ppm=100000",
            // KCSAN watches one access in this many. With the default, it hardly ever sees a race.
            Self::Kcsan => "kcsan.skip_watch=1000",
        }
    }

    /// Whether it has the drivers of the network cards that the selftests use.
    pub fn has_card_drivers(self) -> bool {
        self.is_package()
    }

    /// The factor by which time limits are multiplied.
    pub fn patience(self) -> u32 {
        match self {
            Self::Packaged | Self::Series(_) => 1,
            // Always emulated.
            Self::Arm64 => 2,
            Self::Debug | Self::Kcsan => 8,
        }
    }

    /// The module for it, relative to the artifacts.
    pub fn module(self) -> String {
        match self {
            Self::Packaged | Self::Arm64 => MODULE.to_owned(),
            _ => format!("{self}/{MODULE}"),
        }
    }

    /// The tree that modules are built against, relative to the lab.
    pub fn tree(self) -> String {
        match self {
            Self::Packaged => kernel::TREE.to_owned(),
            Self::Series(series) => format!("{}-{series}", kernel::TREE),
            Self::Arm64 => arm64::TREE.to_owned(),
            Self::Debug | Self::Kcsan => format!("debug/{self}"),
        }
    }

    /// The C compiler.
    pub fn compiler(self, lab: &Lab) -> Result<String> {
        match self {
            // Rust and C share an address sanitizer only if both are LLVM's.
            Self::Debug => Ok("clang".to_owned()),
            // Both compilers instrument for KCSAN alike, and this one is faster.
            Self::Packaged | Self::Series(_) | Self::Arm64 | Self::Kcsan => {
                self.package(lab)?.compiler(lab)
            }
        }
    }

    /// The installed package that it is, or from whose source it is built.
    fn package(self, lab: &Lab) -> Result<Kernel> {
        let series = match self {
            Self::Series(series) => series,
            Self::Arm64 => return arm64::kernel(lab),
            _ => return debian::installed_kernel(lab),
        };
        let kernels = debian::installed_kernels(lab)?.into_iter();
        let mut of_series =
            kernels.filter(|kernel| kernel.series().is_ok_and(|other| other == series));
        of_series.next().with_context(|| {
            format!("no kernel {series}: run `cargo xtask build --kernel {series}`")
        })
    }

    /// Flags for the Rust code of modules, where the tree's own do not do.
    pub fn rust_flags(self) -> &'static str {
        match self {
            Self::Packaged | Self::Series(_) | Self::Arm64 | Self::Debug => "",
            // The same as `scripts/Makefile.kcsan` sets for C.
            Self::Kcsan => {
                "-Zsanitizer=thread -Cllvm-args=-tsan-distinguish-volatile=1 \
                 -Cllvm-args=-tsan-compound-read-before-write=1"
            }
        }
    }

    /// The image to boot, relative to the lab.
    pub fn image(self, lab: &Lab) -> Result<String> {
        match self.is_package() {
            true => kernel::image(lab, &self.tree()),
            false => Ok(format!("{}/vmlinux", self.tree())),
        }
    }

    /// Makes sure that modules can be built for the kernel, and that it can be booted.
    ///
    /// # Errors
    ///
    /// Those of apt and of its build.
    pub fn ensure(self, lab: &Lab) -> Result<()> {
        match self {
            // `lab::ensure()` has done that.
            Self::Packaged => Ok(()),
            Self::Series(series) => {
                lab::install_series(lab, |other| other == series)?
                    .with_context(|| format!("Debian has no kernel {series}"))?;
                let _lock = lab.lock("series.lock")?;
                kernel::ensure(lab, &self.tree(), &self.package(lab)?)
            }
            Self::Arm64 => arm64::ensure(lab),
            Self::Debug | Self::Kcsan => self.ensure_built(lab),
        }
    }

    /// Builds the kernel unless it was built before, at a low priority, since tests may be running.
    fn ensure_built(self, lab: &Lab) -> Result<()> {
        let _lock = lab.lock("debug.lock")?;
        let kernel = debian::installed_kernel(lab)?;
        let mut hasher = DefaultHasher::new();
        let config = format!("{COMMON}{}", self.config());
        (&config, &kernel.package_version, ADMIT_THREAD).hash(&mut hasher);
        let stamp = format!("{:016x}\n", hasher.finish());
        let tree = lab.dir().join(self.tree());
        let stamped = tree.join(".rnet-built");
        if std::fs::read_to_string(&stamped).is_ok_and(|old| old == stamp) {
            return Ok(());
        }
        if !kernel::unpacked(lab, SOURCE, &kernel)? {
            step("source of the debug kernels", || {
                kernel::unpack(lab, SOURCE, &kernel)
            })?;
        }
        step(&format!("{self} kernel"), || {
            if stamped.exists() {
                std::fs::remove_file(&stamped)?;
            } else if tree.exists() {
                // Interrupted: a tool that was killed may leave half a file, which make would
                // take for a whole one.
                std::fs::remove_dir_all(&tree)?;
            }
            std::fs::create_dir_all(&tree)?;
            std::fs::write(tree.join("wanted.config"), &config)?;
            self.make(
                lab,
                "configure",
                &format!(
                    "sed -i '{ADMIT_THREAD}' {INSIDE}/{SOURCE}/scripts/generate_rust_target.rs\n\
                 grep -q '\"thread\"' {INSIDE}/{SOURCE}/scripts/generate_rust_target.rs\n\
                 $make KCONFIG_ALLCONFIG=wanted.config allnoconfig\n"
                ),
            )?;
            let path = tree.join(".config");
            let found = std::fs::read_to_string(&path)
                .with_context(|| format!("reading {}", path.display()))?;
            let lost = lost(&config, &found);
            if !lost.is_empty() {
                bail!(
                    "not granted by the kernel's configuration:\n{}",
                    lost.join("\n")
                );
            }
            std::fs::create_dir_all(lab.artifacts())?;
            self.make(
                lab,
                "build",
                &format!(
                    "$make vmlinux modules\n\
                 $make INSTALL_MOD_PATH={INSIDE}/artifacts modules_install\n"
                ),
            )?;
            std::fs::write(&stamped, stamp)?;
            Ok(())
        })
    }

    /// Runs `script`, in which `$make` builds this kernel.
    fn make(self, lab: &Lab, what: &str, script: &str) -> Result<()> {
        let jobs = std::thread::available_parallelism()?;
        let log = log_path(lab, &format!("{self}-kernel-{what}"));
        let script = format!(
            "cd {INSIDE}/{tree}\n\
             make='nice -n 5 make -C {INSIDE}/{SOURCE} O={INSIDE}/{tree} CC={} LOCALVERSION= KCFLAGS=-w -j{jobs}'\n\
             {script}",
            self.compiler(lab)?,
            tree = self.tree(),
        );
        let mut command = lab.chroot().command(&["sh", "-exc", &script]);
        process::run_logged_anew(&mut command, &log, LIMIT)
    }
}

fn log_path(lab: &Lab, name: &str) -> PathBuf {
    lab.logs().join(format!("{name}.log"))
}

/// Returns the lines of the wanted configuration that the found one does not have.
fn lost<'a>(wanted: &'a str, found: &str) -> Vec<&'a str> {
    let granted = |line: &str| match line
        .strip_prefix("# ")
        .and_then(|line| line.strip_suffix(" is not set"))
    {
        Some(option) => !found
            .lines()
            .any(|line| line.split_once('=').is_some_and(|(name, _)| name == option)),
        None => found.lines().any(|other| other == line),
    };
    wanted
        .lines()
        .filter(|line| line.starts_with("CONFIG_") || line.starts_with("# CONFIG_"))
        .filter(|line| !granted(line))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Flavor, lost};

    #[test]
    fn lost_options_are_found() {
        let wanted = "# About A.\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_C=40\n\
                      # CONFIG_D is not set\n# CONFIG_E is not set\n# CONFIG_F is not set\n";
        let found = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=400\n\
                     # CONFIG_D is not set\nCONFIG_E=y\nCONFIG_F_F=y\n";
        assert_eq!(
            lost(wanted, found),
            ["CONFIG_B=y", "CONFIG_C=40", "# CONFIG_E is not set"]
        );
    }

    #[test]
    fn flavors_share_no_files() {
        let mut all = ["packaged", "7.2", "7.20", "debug", "kcsan"]
            .map(|name| {
                let flavor: Flavor = name.parse().unwrap();
                assert_eq!(flavor.to_string(), name);
                flavor
            })
            .to_vec();
        all.push(Flavor::Arm64);
        let distinct = |of: fn(Flavor) -> String| {
            all.iter()
                .map(|flavor| of(*flavor))
                .collect::<BTreeSet<_>>()
                .len()
        };
        let module = |flavor: Flavor| format!("{}/{}", flavor.arch().artifacts(), flavor.module());
        assert_eq!(distinct(module), all.len());
        assert_eq!(distinct(Flavor::tree), all.len());
        assert!("7".parse::<Flavor>().is_err());
    }
}
