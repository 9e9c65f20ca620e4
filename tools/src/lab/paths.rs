// SPDX-License-Identifier: GPL-2.0
//! The lab's directories, and its locks.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;

use crate::lab::chroot::{Access, Chroot};

/// The lab's directory as programs in the chroot see it.
///
/// Generated files of the prepared kernel tree contain it.
pub const INSIDE: &str = "/lab";

/// The lab: a directory outside the checkout that holds everything built once.
#[derive(Clone)]
pub struct Lab {
    dir: PathBuf,
}

impl Lab {
    /// Finds the lab's place: `$RNET_LAB`, else in the user's cache folder.
    pub fn locate() -> Result<Self> {
        let dir = if let Some(dir) = std::env::var_os("RNET_LAB").filter(|dir| !dir.is_empty()) {
            PathBuf::from(dir)
        } else {
            let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty());
            match (cache, std::env::var_os("HOME")) {
                (Some(cache), _) => PathBuf::from(cache),
                (None, Some(home)) => PathBuf::from(home).join(".cache"),
                (None, None) => bail!("neither RNET_LAB nor HOME is set: no place for the lab"),
            }
            .join("vhost-rnet")
        };
        Ok(Self::at(std::path::absolute(dir)?))
    }

    /// The lab in `dir`, an absolute path.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The lab's own directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The Debian system with toolchain, packaged kernel and QEMU.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// The kernel tree that modules are built against.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("kernel")
    }

    /// The logs of the steps that built the lab.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// What a VM finds at `/artifacts`.
    pub fn artifacts(&self) -> PathBuf {
        self.dir.join("artifacts")
    }

    /// One directory per VM run, with its logs.
    pub fn runs(&self) -> PathBuf {
        self.dir.join("runs")
    }

    /// The release of the packaged kernel, such as `7.3.4+deb13-amd64`.
    pub fn release(&self) -> Result<String> {
        self.release_of("kernel")
    }

    /// The release of the kernel whose prepared tree is in `tree`, relative to the lab.
    pub fn release_of(&self, tree: &str) -> Result<String> {
        let path = self.dir.join(tree).join("include/config/kernel.release");
        let release = std::fs::read_to_string(&path)
            .with_context(|| format!("no prepared kernel ({}): run `make lab`", path.display()))?;
        Ok(release.trim().to_owned())
    }

    /// The rootfs, with the lab at [`INSIDE`].
    pub fn chroot(&self) -> Chroot {
        Chroot::new(&self.rootfs()).bind(&self.dir, INSIDE, Access::ReadWrite)
    }

    /// Takes the lock called `name`; waits if another process holds it.
    pub fn lock(&self, name: &str) -> Result<File> {
        let path = self.dir.join(name);
        let file = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            eprintln!("Waiting for {}, which is taken", path.display());
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        }
        Ok(file)
    }

    /// Creates a fresh directory for the logs of one run called `name`.
    pub fn new_run(&self, name: &str) -> Result<PathBuf> {
        let runs = self.runs();
        std::fs::create_dir_all(&runs)?;
        // Numbers increase, so that the newest run is the last one in a listing.
        for number in 1..u32::MAX {
            let prefix = format!("{number:04}-");
            let taken = std::fs::read_dir(&runs)?
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
            if taken {
                continue;
            }
            let dir = runs.join(format!("{prefix}{name}"));
            match std::fs::create_dir(&dir) {
                Ok(()) => return Ok(dir),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("no free name in {}", runs.display())
    }
}
