// SPDX-License-Identifier: GPL-2.0

//! What the operator sees of a device in debugfs.

use crate::case::Skip;
use crate::cases::common::check;
use crate::driver::vhost::Vhost;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where debugfs is mounted.
const DEBUGFS: &str = "/sys/kernel/debug";

/// Keys and values of a file, by key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Keys(BTreeMap<String, String>);

impl Keys {
    /// Those of a text of lines `key:\tvalue`.
    pub(crate) fn of(text: &str) -> Result<Self> {
        let pair = |line: &str| {
            let pair = line
                .split_once(":\t")
                .map(|(key, value)| (key.to_owned(), value.to_owned()));
            pair.with_context(|| format!("`{line}` is no key and value"))
        };
        Ok(Self(text.lines().map(pair).collect::<Result<_>>()?))
    }

    /// The value of a key, if there is one.
    pub(crate) fn find(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Result<&str> {
        self.find(key)
            .with_context(|| format!("no `{key}` in {self:?}"))
    }

    /// A value that is a number.
    pub(crate) fn number(&self, key: &str) -> Result<u64> {
        self.get(key)?.parse().with_context(|| format!("`{key}`"))
    }

    /// The keys.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// The first of some keys whose value is another one, if there is one.
    pub(crate) fn differs(&self, wanted: &[(&str, &str)]) -> Option<String> {
        let wrong = wanted
            .iter()
            .find(|(key, value)| self.find(key) != Some(value));
        wrong.map(|(key, value)| format!("{key}: {:?}, not `{value}`", self.find(key)))
    }
}

/// The directory of a device.
#[derive(Debug)]
pub(crate) struct View(pub(crate) PathBuf);

/// Mounts debugfs unless it is.
///
/// Skips the case in a kernel without it.
pub(crate) fn mount() -> Result<()> {
    // Other parts of the kernel have entries, too.
    if fs::read_dir(DEBUGFS).context(DEBUGFS)?.next().is_some() {
        return Ok(());
    }
    let mut mount = Command::new("mount");
    let out = mount.args(["-t", "debugfs", "none", DEBUGFS]).output();
    let out = out.context("mount debugfs")?;
    match out.status.success() {
        true => Ok(()),
        false => Err(Skip("the kernel has no debugfs".to_owned()).into()),
    }
}

/// What fdinfo shows of a device.
pub(crate) fn fdinfo(vhost: &Vhost) -> Result<String> {
    let path = format!("/proc/self/fdinfo/{}", vhost.as_fd().as_raw_fd());
    fs::read_to_string(&path).context(path)
}

/// The number of a device, by fdinfo.
pub(crate) fn number(vhost: &Vhost) -> Result<u64> {
    let text = fdinfo(vhost)?;
    let number = text.lines().find_map(|line| line.strip_prefix("device:\t"));
    Ok(number.context("no number of the device")?.parse()?)
}

impl View {
    /// The directory of a device of this process, whether or not it exists.
    pub(crate) fn of(vhost: &Vhost) -> Result<Self> {
        mount()?;
        let name = format!("{}-{}", std::process::id(), number(vhost)?);
        Ok(Self(Path::new(DEBUGFS).join("vhost_rnet").join(name)))
    }

    /// Whether it exists.
    pub(crate) fn exists(&self) -> Result<bool> {
        Ok(fs::exists(&self.0)?)
    }

    /// A file in it.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    /// What a file shows.
    pub(crate) fn read(&self, file: &str) -> Result<Keys> {
        let text = fs::read_to_string(self.path(file)).with_context(|| file.to_owned())?;
        Keys::of(&text)
    }

    /// What a queue is like while no round has it.
    pub(crate) fn at_rest(&self, queue: &str) -> Result<Keys> {
        let file = format!("{queue}/state");
        let mut keys = None;
        Deadline::patient().until("a queue between rounds", || {
            let read = self.read(&file)?;
            let running = read.get("running")? == "yes";
            keys = Some(read);
            Ok(!running)
        })?;
        keys.context("no state")
    }

    /// Waits until a queue is as it should be.
    pub(crate) fn until(&self, queue: &str, wanted: &[(&str, &str)]) -> Result<Keys> {
        let mut last = None;
        let waited = Deadline::patient().until("the state of a queue", || {
            let keys = self.at_rest(queue)?;
            let differs = keys.differs(wanted);
            let done = differs.is_none();
            last = Some((keys, differs));
            Ok(done)
        });
        let (keys, differs) = last.context("no state")?;
        check(differs.is_none(), || {
            format!("{queue}: {}: {keys:?}", differs.unwrap_or_default())
        })?;
        waited.map(|()| keys)
    }

    /// Lets a queue look for work.
    pub(crate) fn wake(&self, queue: &str) -> Result<()> {
        let path = self.path(&format!("{queue}/wake"));
        fs::write(&path, "1").with_context(|| path.display().to_string())
    }
}
