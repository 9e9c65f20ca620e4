// SPDX-License-Identifier: GPL-2.0

//! Control groups.

use crate::wait::Deadline;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A control group, in a mount of the hierarchy of its own.
#[derive(Debug)]
pub struct Group {
    mount: PathBuf,
    path: PathBuf,
}

impl Group {
    /// Makes a group `name` below the root.
    ///
    /// # Errors
    ///
    /// Without the privilege to do so.
    pub fn new(name: &str) -> Result<Self> {
        let mount = std::env::temp_dir().join(format!("cgroup-{}", std::process::id()));
        fs::create_dir(&mount)?;
        run(Command::new("mount")
            .args(["-t", "cgroup2", "none"])
            .arg(&mount))?;
        let group = Self {
            path: mount.join(name),
            mount,
        };
        fs::create_dir(&group.path).context("new group")?;
        Ok(group)
    }

    /// Whether groups can limit `controller`.
    ///
    /// # Errors
    ///
    /// When the hierarchy does not tell.
    pub fn has(&self, controller: &str) -> Result<bool> {
        let all = fs::read_to_string(self.mount.join("cgroup.controllers"))?;
        Ok(all.split_whitespace().any(|word| word == controller))
    }

    /// Lets the group limit `controller`.
    ///
    /// # Errors
    ///
    /// When it cannot.
    pub fn enable(&self, controller: &str) -> Result<()> {
        let path = self.mount.join("cgroup.subtree_control");
        fs::write(path, format!("+{controller}")).context("cgroup.subtree_control")
    }

    /// Sets one of the group's values.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        fs::write(self.path.join(name), value).with_context(|| format!("{name} to {value}"))
    }

    /// One of the group's values.
    ///
    /// # Errors
    ///
    /// When there is no such value.
    pub fn get(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.path.join(name)).with_context(|| name.to_owned())
    }

    /// Moves this process into the group.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn enter(&self) -> Result<()> {
        enter(&self.path)
    }

    /// Moves this process back to the root.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn leave(&self) -> Result<()> {
        enter(&self.mount)
    }

    /// Ends the group, which has to be empty soon.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub fn remove(self) -> Result<()> {
        // A thread that has ended leaves its group a moment later.
        Deadline::patient().until("the group to be empty", || {
            Ok(fs::remove_dir(&self.path).is_ok())
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What is left goes with the machine.
        let _ = fs::remove_dir(&self.path);
        let _ = run(Command::new("umount").arg("-l").arg(&self.mount));
        let _ = fs::remove_dir(&self.mount);
    }
}

fn enter(group: &Path) -> Result<()> {
    fs::write(group.join("cgroup.procs"), "0").context("enter a group")
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
