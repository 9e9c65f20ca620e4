// SPDX-License-Identifier: GPL-2.0
//! The kernels that a VM can run: the packaged one, and those that check more.
//!
//! The latter are built from the packaged source with a small configuration of
//! ours. Drivers are built in, except for modules whose use count a test reads.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::lab::paths::{INSIDE, Lab};
use crate::lab::{debian, kernel};
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Flavor {
    /// Debian's package.
    #[default]
    Packaged,
    /// Built with checks of memory, leaks, locks and object lifetimes.
    Debug,
    /// Built with the detector of data races.
    Kcsan,
}

impl Flavor {
    /// Its name on the command line and in the lab.
    pub fn name(self) -> &'static str {
        match self {
            Self::Packaged => "packaged",
            Self::Debug => "debug",
            Self::Kcsan => "kcsan",
        }
    }

    /// The configuration that it has beside the common one.
    fn config(self) -> &'static str {
        match self {
            Self::Packaged => "",
            Self::Debug => include_str!("../../kernel/debug.config"),
            Self::Kcsan => include_str!("../../kernel/kcsan.config"),
        }
    }

    /// Its options for the kernel command line.
    pub fn command_line(self) -> &'static str {
        match self {
            Self::Packaged => "",
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
        self == Self::Packaged
    }

    /// The factor by which time limits are multiplied.
    pub fn patience(self) -> u32 {
        match self {
            Self::Packaged => 1,
            Self::Debug | Self::Kcsan => 8,
        }
    }

    /// The module for it, relative to the artifacts.
    pub fn module(self) -> String {
        match self {
            Self::Packaged => MODULE.to_owned(),
            _ => format!("{}/{}", self.name(), MODULE),
        }
    }

    /// The tree that modules are built against, relative to the lab.
    pub fn tree(self) -> String {
        match self {
            Self::Packaged => "kernel".to_owned(),
            _ => format!("debug/{}", self.name()),
        }
    }

    /// The C compiler.
    pub fn compiler(self, lab: &Lab) -> Result<String> {
        match self {
            // Rust and C share an address sanitizer only if both are LLVM's.
            Self::Debug => Ok("clang".to_owned()),
            // Both compilers instrument for KCSAN alike, and this one is faster.
            Self::Packaged | Self::Kcsan => debian::installed_kernel(lab)?.compiler(lab),
        }
    }

    /// Flags for the Rust code of modules, where the tree's own do not do.
    pub fn rust_flags(self) -> &'static str {
        match self {
            Self::Packaged | Self::Debug => "",
            // The same as `scripts/Makefile.kcsan` sets for C.
            Self::Kcsan => {
                "-Zsanitizer=thread -Cllvm-args=-tsan-distinguish-volatile=1 \
                 -Cllvm-args=-tsan-compound-read-before-write=1"
            }
        }
    }

    /// The image to boot, relative to the lab.
    pub fn image(self, lab: &Lab) -> Result<String> {
        match self {
            Self::Packaged => kernel::image(lab),
            _ => Ok(format!("{}/vmlinux", self.tree())),
        }
    }

    /// Builds the kernel unless it was built before, at a low priority, since tests may be running.
    pub fn ensure(self, lab: &Lab) -> Result<()> {
        if self == Self::Packaged {
            return Ok(());
        }
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
        step(&format!("{} kernel", self.name()), || {
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
        let log = log_path(lab, &format!("{}-kernel-{what}", self.name()));
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
        let all = [Flavor::Packaged, Flavor::Debug, Flavor::Kcsan];
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            assert_ne!(all[a].module(), all[b].module());
            assert_ne!(all[a].tree(), all[b].tree());
        }
    }
}
