// SPDX-License-Identifier: GPL-2.0

//! `rnetctl` on devices whose state is known.

pub(crate) mod commands;
pub(crate) mod explain;

use crate::cases::common::{Context, Kind, check};
use crate::driver::vhost::Vhost;
use crate::runner;
use crate::wait::Deadline;
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::Duration;

/// The time that a command may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Shows the program the interfaces of this network namespace, and debugfs if `$debugfs` says so.
const VIEW: &str = r#"
mount -t sysfs sysfs /sys
test "$debugfs" = no || mount -t debugfs debugfs /sys/kernel/debug
exec "$0" "$@"
"#;

/// How the program is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum As {
    /// By the administrator.
    Root,
    /// By the administrator of a host without debugfs.
    WithoutDebugfs,
    /// By another user.
    Other,
}

/// What it wrote, on either output, and its exit status.
struct Said {
    text: String,
    status: i32,
}

impl Said {
    /// Fails unless the exit status is `status`, and each of `parts` is in the text.
    fn expect(self, status: i32, parts: &[&str]) -> Result<String> {
        let missing = parts.iter().find(|part| !self.text.contains(**part));
        check(self.status == status && missing.is_none(), || {
            format!(
                "ended with {}, not {status}, or without {missing:?}:\n{}",
                self.status, self.text
            )
        })?;
        Ok(self.text)
    }
}

/// Runs the program that is beside this one.
fn rnetctl(view: As, words: &[&str]) -> Result<Said> {
    let program = std::env::current_exe()?.with_file_name("rnetctl");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", VIEW]);
    if view == As::Other {
        command.args([
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ]);
    }
    command.arg(program).args(words).env(
        "debugfs",
        if view == As::WithoutDebugfs {
            "no"
        } else {
            "yes"
        },
    );
    let (text, status) = runner::run(&mut command, Deadline::after(LIMIT))?;
    let status = status.with_context(|| format!("rnetctl {words:?} does not end"))?;
    Ok(Said { text, status })
}

/// How `rnetctl` names the device that this process has open.
fn id(vhost: &Vhost) -> String {
    format!("{}:{}", std::process::id(), vhost.as_fd().as_raw_fd())
}

/// The JSON that the program wrote.
fn json(words: &[&str]) -> Result<Value> {
    let text = rnetctl(As::Root, words)?.expect(0, &[])?;
    serde_json::from_str(&text).with_context(|| text)
}

/// The entry of a device in a JSON listing.
fn entry<'a>(devices: &'a Value, id: &str) -> Result<&'a Value> {
    let all = devices.as_array().context("no list of devices")?;
    let found = all.iter().find(|device| device["device"] == *id);
    found.with_context(|| format!("{id} is not in {devices:#}"))
}

/// Whether the device is C, of which nothing but its processes and threads is known; `refused` is
/// then a command that has to say so and end with 4.
fn is_c(ctx: &Context, refused: &[&str]) -> Result<bool> {
    if ctx.kind == Kind::Rnet {
        return Ok(false);
    }
    if !crate::cases::common::lets_c_off(ctx)? {
        bail!("C is not let off");
    }
    rnetctl(As::Root, refused)?.expect(4, &["is a vhost-net device"])?;
    Ok(true)
}
