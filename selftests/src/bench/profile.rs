// SPDX-License-Identifier: GPL-2.0

//! Which share of a worker's run time is its own, by profile.
//!
//! `perf` samples call chains while a case runs. What runs below the tap's send and receive calls
//! is the tap's and the network stack's: no vhost can go below that. Notifications and the
//! scheduler are a share of their own, since a batch pays them once. The rest is vhost's own.

use super::record::Share;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Nanoseconds between samples, and so instructions under `-icount shift=0`.
const PERIOD: &str = "20000";
/// What vhost calls of a tap.
const TAP: &[&str] = &["tun_sendmsg", "tun_recvmsg"];
/// What wakes a guest or puts the worker to sleep.
const NOTIFY: &[&str] = &[
    "schedule",
    "__schedule",
    "preempt_schedule",
    "preempt_schedule_common",
    "preempt_schedule_irq",
    "try_to_wake_up",
    "eventfd_signal",
    "eventfd_signal_mask",
];

/// Samples by where they were taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    /// Below the tap's calls.
    pub tap: u64,
    /// In notifications and the scheduler.
    pub notify: u64,
    /// Elsewhere in the worker.
    pub own: u64,
}

impl Samples {
    fn add(&mut self, chain: &[&str]) {
        let any = |names: &[&str]| chain.iter().any(|symbol| names.contains(symbol));
        if any(TAP) {
            self.tap += 1;
        } else if any(NOTIFY) {
            self.notify += 1;
        } else {
            self.own += 1;
        }
    }

    /// Counts the workers' samples in what `perf script -F comm,pid,tid,ip,sym` prints: for each
    /// sample a line with the thread, its call chain from the inside out, and an empty line.
    #[must_use]
    pub fn read(script: &str) -> Self {
        let mut samples = Self::default();
        let mut chain: Option<Vec<&str>> = None;
        for line in script.lines().chain([""]) {
            if line.trim().is_empty() {
                if let Some(chain) = chain.take() {
                    samples.add(&chain);
                }
            } else if !line.starts_with(char::is_whitespace) {
                chain = is_worker(line).then(Vec::new);
            } else if let (Some(chain), Some(symbol)) = (&mut chain, line.split_whitespace().nth(1))
            {
                chain.push(symbol);
            }
        }
        samples
    }
}

/// Tells a worker by its being a thread of this program, which has no other beside its first: the
/// name that `perf` knows may be that of before the worker got its own.
fn is_worker(line: &str) -> bool {
    let ours = ["rnet-bench", "vhost-"];
    let ids = line.split_whitespace().last();
    ours.iter().any(|name| line.starts_with(name))
        && ids
            .and_then(|ids| ids.split_once('/'))
            .is_some_and(|(process, thread)| process != thread)
}

fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("start {:?}", command.get_program()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{:?}: {}: {said}", command.get_program(), output.status);
    }
    Ok(output.stdout)
}

/// Profiles the case called `case` on the device at `path`, with this program as its driver.
///
/// # Errors
///
/// When `perf` is missing, or sees no worker.
pub fn measure(path: &Path, case: &str, packets: u64) -> Result<Share> {
    fs::write("/proc/sys/kernel/kptr_restrict", "0").context("let perf see symbols")?;
    let data = std::env::temp_dir().join(format!("rnet-bench-{}.perf", std::process::id()));
    let program = std::env::current_exe().context("this program")?;
    let mut record = Command::new("perf");
    record
        .args(["record", "-q", "-a", "-g", "-e", "cpu-clock", "-c", PERIOD])
        .arg("-o")
        .arg(&data)
        .arg("--")
        .arg(program)
        .args(["instructions", "--packets", &packets.to_string()])
        .arg("--device")
        .arg(path)
        .arg(format!("{case}$"));
    run(&mut record)?;
    let mut script = Command::new("perf");
    script
        .args(["script", "-F", "comm,pid,tid,ip,sym", "-i"])
        .arg(&data);
    let text = run(&mut script);
    fs::remove_file(&data).context("remove the profile")?;
    let samples = Samples::read(&String::from_utf8_lossy(&text?));
    let total = samples.tap + samples.notify + samples.own;
    if total == 0 {
        bail!("no sample of the worker");
    }
    let share = |count: u64| count as f64 / total as f64;
    Ok(Share {
        case: case.to_owned(),
        device: path.display().to_string(),
        samples: total,
        tap: share(samples.tap),
        notify: share(samples.notify),
        own: share(samples.own),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_told_apart_by_their_chain() {
        let script = "\
vhost-12   11/12   \n\
\tffffffff81 memcpy\n\
\tffffffff82 tun_get_user\n\
\tffffffff83 tun_sendmsg\n\
\n\
rnet-bench    11/11   \n\
\tffffffff83 tun_sendmsg\n\
\n\
rnet-bench   11/12   \n\
\tffffffff84 vhost_get_vq_desc\n\
\n\
vhost-12   11/12   \n\
\tffffffff85 __schedule\n\
\tffffffff86 schedule\n\
\n\
vhost-12   11/12   \n\
\tffffffff87 [unknown]\n";
        let expected = Samples {
            tap: 1,
            notify: 1,
            own: 2,
        };
        assert_eq!(Samples::read(script), expected);
        assert_eq!(Samples::read(""), Samples::default());
    }
}
