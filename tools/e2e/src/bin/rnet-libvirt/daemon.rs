// SPDX-License-Identifier: GPL-2.0
//! libvirt's daemons, started without an init system.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use selftests::wait::Deadline;

/// How long `libvirtd` may take to look at its QEMU.
const PATIENCE: Duration = Duration::from_secs(240);

/// The directories that an init system or a package would have made.
const OWN: &[&str] = &[
    "/run/libvirt",
    "/var/lib/libvirt",
    "/var/cache/libvirt",
    "/var/log/libvirt",
];

/// `libvirtd` with its `virtlogd`. Both are killed when dropped.
pub struct Libvirt {
    children: Vec<Child>,
}

impl Libvirt {
    /// Starts the daemons as Debian configures them, with output to files in `logs`.
    ///
    /// # Errors
    ///
    /// When they do not start.
    pub fn start(logs: &Path) -> Result<Self> {
        for dir in OWN {
            fs::create_dir_all(dir)?;
        }
        let mut this = Self {
            children: Vec::new(),
        };
        for program in ["virtlogd", "libvirtd"] {
            let path = logs.join(format!("{program}.log"));
            let log = File::create(&path).with_context(|| path.display().to_string())?;
            let child = Command::new(program)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .with_context(|| format!("starting {program}"))?;
            this.children.push(child);
        }
        Deadline::after(PATIENCE).until("libvirtd answers", || {
            for child in &mut this.children {
                let ended = child.try_wait()?;
                ensure!(ended.is_none(), "a daemon ended, see {}", logs.display());
            }
            Ok(this.virsh(&["version"]).is_ok())
        })?;
        Ok(this)
    }

    /// Runs a command of `virsh`; answers what it printed.
    ///
    /// # Errors
    ///
    /// What it says when it fails.
    pub fn virsh(&self, words: &[&str]) -> Result<String> {
        let output = Command::new("virsh")
            .args(["-q", "-c", "qemu:///system"])
            .args(words)
            .stdin(Stdio::null())
            .output()
            .context("starting virsh")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "virsh {words:?}: {}", said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // An error means that it has already ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The process id of the QEMU of the domain `name`.
///
/// # Errors
///
/// When there is none.
pub fn qemu(name: &str) -> Result<u32> {
    let path = format!("/run/libvirt/qemu/{name}.pid");
    let text = fs::read_to_string(&path).context(path)?;
    Ok(text.trim().parse()?)
}
