// SPDX-License-Identifier: GPL-2.0
//! The host's files, below a root that tests put elsewhere.

pub mod process;

use std::io;
use std::path::{Path, PathBuf};

/// Where `/proc`, `/sys` and `/dev` are.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// The host whose folders are below `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// A path below `/proc`.
    #[must_use]
    pub fn proc(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join("proc").join(path)
    }

    /// A path below `/sys`.
    #[must_use]
    pub fn sys(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join("sys").join(path)
    }

    /// A path below `/dev`.
    #[must_use]
    pub fn dev(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join("dev").join(path)
    }

    /// The module's folder in debugfs.
    #[must_use]
    pub fn debugfs(&self) -> PathBuf {
        self.sys("kernel/debug/vhost_rnet")
    }

    /// Whether the module is loaded.
    #[must_use]
    pub fn has_module(&self) -> bool {
        self.sys("module/vhost_rnet").exists()
    }
}

/// The names in a folder; those that are no UTF-8 are passed over, since none of `/proc`, `/sys`
/// that is looked for here is.
///
/// # Errors
///
/// Those of reading the folder.
pub fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in folder.read_dir()? {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

/// The names in a folder that are numbers, in their order.
///
/// # Errors
///
/// Those of reading the folder.
pub fn numbers(folder: &Path) -> io::Result<Vec<i32>> {
    let names = names(folder)?;
    let mut numbers: Vec<i32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}
