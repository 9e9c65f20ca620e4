// SPDX-License-Identifier: GPL-2.0
//! The architectures of kernels. Only an emulated processor runs one that is not the lab's own.

use clap::ValueEnum;

use crate::lab::paths::INSIDE;

/// An architecture, by Debian's name of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Arch {
    /// The lab's own.
    Amd64,
    /// Its kernel, module and programs come from cross compilers.
    Arm64,
}

impl Arch {
    /// That of the packaged kernel `release`, with which its name ends.
    pub fn of_release(release: &str) -> Self {
        match release.ends_with("-arm64") {
            true => Self::Arm64,
            false => Self::Amd64,
        }
    }

    /// The Rust target of programs.
    pub fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Begin of the names of its compilers.
    pub fn tool_prefix(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu-",
            Self::Arm64 => "aarch64-linux-gnu-",
        }
    }

    /// Name of the directory with its libraries below `/usr/lib`.
    pub fn libraries(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu",
            Self::Arm64 => "aarch64-linux-gnu",
        }
    }

    /// What the kernel's build system has to be told.
    pub fn make_options(self) -> &'static str {
        match self {
            Self::Amd64 => "",
            Self::Arm64 => "ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu-",
        }
    }

    /// The Debian system that has the kernel and is the root file system of VMs, relative to the lab.
    pub fn rootfs(self) -> &'static str {
        match self {
            Self::Amd64 => "rootfs",
            Self::Arm64 => "arm64/rootfs",
        }
    }

    /// That system, as programs in the chroot see it.
    pub fn rootfs_inside(self) -> String {
        match self {
            Self::Amd64 => String::new(),
            Self::Arm64 => format!("{INSIDE}/{}", self.rootfs()),
        }
    }

    /// What a VM finds at `/artifacts`, relative to the lab.
    pub fn artifacts(self) -> &'static str {
        match self {
            Self::Amd64 => "artifacts",
            Self::Arm64 => "arm64/artifacts",
        }
    }

    /// Options of the kernel command line: the serial console of QEMU's machine, and what a loaded host
    /// would disturb.
    pub fn command_line(self) -> &'static str {
        match self {
            Self::Amd64 => "console=ttyS0 tsc=reliable nmi_watchdog=0",
            Self::Arm64 => "console=ttyAMA0",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Arch;

    #[test]
    fn releases_end_with_the_architecture() {
        assert_eq!(Arch::of_release("7.3.4+deb13-arm64"), Arch::Arm64);
        assert_eq!(Arch::of_release("7.3.4+deb13-amd64"), Arch::Amd64);
    }
}
