// SPDX-License-Identifier: GPL-2.0
//! Packages that only some tests need, each set in a layer over the rootfs.
//!
//! A layer is good for the rootfs that it was made over. It is made anew after that has changed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use crate::lab::chroot::{self, Chroot};
use crate::lab::debian::KERNELS;
use crate::lab::paths::{INSIDE, Lab};
use crate::process;
use crate::steps::step;

/// Time limit of an installation, over a slow network.
const LIMIT: Duration = Duration::from_secs(1800);

/// A layer, by what it adds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Layer {
    /// Debian's packaging tools.
    Packaging,
    /// libvirt of the release.
    Libvirt,
    /// QEMU of the suite that the kernels are from, which is newer than that of the release.
    NewerQemu,
}

impl Layer {
    /// The name of its directory in the lab.
    fn name(self) -> &'static str {
        match self {
            Self::Packaging => "packaging",
            Self::Libvirt => "libvirt",
            Self::NewerQemu => "newer-qemu",
        }
    }

    /// Its packages, which bring those that they depend on.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Packaging => &[
                "debhelper",
                "dh-dkms",
                "dkms",
                "lintian",
                "man-db",
                "openssl",
            ],
            Self::Libvirt => &[
                "apparmor",
                "libvirt-clients",
                "libvirt-daemon",
                "libvirt-daemon-driver-qemu",
            ],
            Self::NewerQemu => &["qemu-system-x86"],
        }
    }

    /// Options for apt, each with a space behind it.
    fn options(self) -> String {
        match self {
            Self::Packaging | Self::Libvirt => String::new(),
            Self::NewerQemu => format!("-t {KERNELS} "),
        }
    }

    /// Its directory.
    pub fn dir(self, lab: &Lab) -> PathBuf {
        lab.dir().join(self.name())
    }

    /// The directory with its files, as programs in the chroot see it.
    pub fn inside(self) -> String {
        format!("{INSIDE}/{}/upper", self.name())
    }

    /// The rootfs with the layer; to be written to only in one more layer.
    pub fn chroot(self, lab: &Lab) -> Chroot {
        lab.chroot().layer(&self.dir(lab))
    }

    /// Makes the layer, as a step on show, unless it is there for this rootfs.
    ///
    /// # Errors
    ///
    /// Those of apt.
    pub fn ensure(self, lab: &Lab) -> Result<()> {
        let name = self.name();
        step(&format!("{name} packages"), || self.make(lab))
    }

    fn make(self, lab: &Lab) -> Result<()> {
        let name = self.name();
        let _lock = lab.lock(&format!("{name}.lock"))?;
        let dir = self.dir(lab);
        // A layer is only good for the very files that it was made over.
        let below = std::fs::read(lab.rootfs().join("var/lib/dpkg/status"))?;
        let mut hasher = DefaultHasher::new();
        (self.packages(), self.options(), below).hash(&mut hasher);
        let stamp = format!("{:016x}\n", hasher.finish());
        let stamped = dir.join("stamp");
        if std::fs::read_to_string(&stamped).is_ok_and(|old| old == stamp) {
            return Ok(());
        }
        chroot::remove(&dir)?;
        std::fs::create_dir_all(&dir)?;
        let script = format!(
            "apt-get update --error-on=any\n\
             apt-get install -y --no-install-recommends {}{}\n\
             apt-get clean\n",
            self.options(),
            self.packages().join(" ")
        );
        let mut command = self.chroot(lab).command(&["sh", "-exc", &script]);
        process::run_logged_anew(&mut command, &lab.logs().join(format!("{name}.log")), LIMIT)?;
        std::fs::write(stamped, stamp)?;
        Ok(())
    }
}
