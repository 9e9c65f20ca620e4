// SPDX-License-Identifier: GPL-2.0
//! A QEMU guest on a backend.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use selftests::host::procfs;
use selftests::host::tap::{Tap, TapConfig};
use selftests::wait::Deadline;

use crate::files::{Files, GONE};
use crate::host;
use crate::pulse::{self, Pulse};
use crate::qemu::{self, FIRST_FD, Options, numbers};
use crate::qmp::Qmp;
use crate::shell::Shell;

/// `VIRTIO_F_RING_PACKED`.
pub const RING_PACKED: usize = 34;

/// How long a guest may take to boot, and then for any one command.
const PATIENCE: Duration = Duration::from_secs(150);

/// Time limit of the end of a QEMU that has begun to end.
const ENDING: Duration = Duration::from_secs(2);

/// The lowest file descriptor for queues of a tap, above those of the vhost device.
const TAP_FD: i32 = 100;

/// A running guest. Killed when dropped.
pub struct Machine {
    child: Child,
    log: PathBuf,
    finished: bool,
    backend: String,
    queues: u32,
    /// The sockets of its shell and of QMP, and the file of its pulse.
    paths: [PathBuf; 3],
    /// Its shell.
    pub shell: Shell,
    /// Its QEMU.
    pub qmp: Qmp,
}

impl Machine {
    /// Starts a guest called `name` with `backend` on the tap `tap`; with `incoming`, one that waits
    /// for a migration from that socket, and then for `cont`.
    ///
    /// # Errors
    ///
    /// When there is no such backend, or QEMU does not start.
    pub fn start(
        files: &Files,
        name: &str,
        backend: &str,
        tap: &str,
        options: &Options,
        incoming: Option<&Path>,
    ) -> Result<Self> {
        let paths = ["shell", "qmp", pulse::PORT].map(|kind| format!("/tmp/{name}.{kind}"));
        let paths = paths.map(PathBuf::from);
        let [shell, qmp, pulse] = &paths;
        let queues = match options.queues {
            1 => Vec::new(),
            _ => tap_queues(tap, options.queues)?,
        };
        let tap = match queues.as_slice() {
            [] => format!("ifname={tap},script=no,downscript=no"),
            _ => format!("fds={}", numbers(queues.iter().map(AsRawFd::as_raw_fd))),
        };
        let mut command = qemu::command(files, name, backend, &tap, options);
        for (id, socket) in [("shell", shell), ("qmp", qmp)] {
            let socket = socket.display();
            command.arg("-chardev");
            command.arg(format!("socket,id={id},path={socket},server=on,wait=off"));
        }
        if let Some(socket) = incoming {
            command
                .arg("-incoming")
                .arg(format!("unix:{}", socket.display()))
                .arg("-S");
        }
        let port = pulse::PORT;
        command.arg("-chardev");
        command.arg(format!("file,id={port},path={}", pulse.display()));
        let log_path = files.log(name);
        let log =
            std::fs::File::create(&log_path).with_context(|| log_path.display().to_string())?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting QEMU")?;
        let connected = Qmp::connect(qmp).and_then(|qmp| {
            let pulse = Some(Pulse::new(pulse.clone()));
            Ok((qmp, Shell::connect(shell, &log_path, pulse, PATIENCE)?))
        });
        match connected {
            Ok((qmp, shell)) => Ok(Self {
                child,
                log: log_path,
                finished: false,
                backend: backend.to_owned(),
                queues: options.queues,
                paths,
                shell,
                qmp,
            }),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// Waits for the guest, and gives its network device the usual address.
    ///
    /// # Errors
    ///
    /// When it does not boot.
    pub fn boot(&mut self) -> Result<()> {
        self.shell.wait()?;
        self.address()
    }

    /// Gives the guest's network device the usual address.
    ///
    /// # Errors
    ///
    /// When it has no such device.
    pub fn address(&mut self) -> Result<()> {
        let address = host::GUEST_ADDRESS;
        self.shell.run(&format!(
            "ip address add {address}/24 dev eth0 && ip link set eth0 up"
        ))?;
        Ok(())
    }

    /// Whether the guest's network driver and its device have agreed on a feature bit.
    ///
    /// # Errors
    ///
    /// When the guest has no such device.
    pub fn negotiated(&mut self, bit: usize) -> Result<bool> {
        let bits = self.shell.run("cat /sys/class/net/eth0/device/features")?;
        Ok(bits.as_bytes().get(bit) == Some(&b'1'))
    }

    /// The number of QEMU's threads that are vhost workers.
    ///
    /// # Errors
    ///
    /// When QEMU is gone.
    pub fn workers(&self) -> Result<usize> {
        let worker = format!("vhost-{}", self.child.id());
        let threads = procfs::threads(self.child.id())?;
        Ok(threads
            .iter()
            .filter(|thread| thread.name == worker)
            .count())
    }

    /// The counters of each vhost device, in the order of queue pairs, from the `rx:` and `tx:` lines
    /// of its `fdinfo`, as `rx.name` and `tx.name`. Maps are empty if the device has no counters.
    ///
    /// # Errors
    ///
    /// When QEMU is gone, or a line cannot be read.
    pub fn counters(&self) -> Result<Vec<BTreeMap<String, String>>> {
        (FIRST_FD..)
            .take(self.queues as usize)
            .map(|fd| {
                let path = format!("/proc/{}/fdinfo/{fd}", self.child.id());
                let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
                Ok(counters(&text))
            })
            .collect()
    }

    /// Whether the guest runs on our device.
    pub fn is_on_rnet(&self) -> bool {
        self.backend.ends_with("vhost-rnet")
    }

    /// Fails unless the guest's packets went through vhost: there is a worker for each device, and a
    /// device that counts has seen packets both ways and no fault.
    ///
    /// # Errors
    ///
    /// As said.
    pub fn used_vhost(&self) -> Result<()> {
        let workers = self.workers()?;
        ensure!(workers == self.queues as usize, "{workers} workers");
        let all = self.counters()?;
        for counted in &all {
            for queue in ["rx", "tx"] {
                let faults = counted.get(&format!("{queue}.faults"));
                ensure!(faults.is_none_or(|n| n == "0"), "{counted:?}");
            }
        }
        // Only our device has counters.
        if self.is_on_rnet() {
            for queue in ["rx", "tx"] {
                let packets = |c: &BTreeMap<String, String>| count(c, &format!("{queue}.packets"));
                let packets = all.iter().map(packets).sum::<u64>();
                ensure!(packets > 0, "no {queue} packets: {all:?}");
            }
        }
        Ok(())
    }

    /// Ends the guest in an orderly way.
    ///
    /// # Errors
    ///
    /// When QEMU fails, or does not end in time.
    pub fn finish(mut self) -> Result<()> {
        self.qmp.run("quit", &serde_json::json!({}))?;
        self.finished = true;
        let status = Deadline::after(PATIENCE).ended(&mut self.child)?;
        let status = status.context("QEMU does not end")?;
        ensure!(status.success(), "QEMU ended with {status}");
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The guest's console closes shortly before QEMU ends.
        let mut ended = || {
            let deadline = Deadline::after(ENDING);
            deadline.ended(&mut self.child).ok().flatten()
        };
        if !self.finished && ended().is_some_and(|status| status.success()) {
            // Without this line, whoever reads the log takes the end for a failure.
            let log = std::fs::File::options().append(true).open(&self.log);
            let _ = log.and_then(|mut log| writeln!(log, "{GONE}"));
        }
        end(&mut self.child);
        for path in &self.paths {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A counter of [`Machine::counters`]; zero if there is no such.
pub fn count(counted: &BTreeMap<String, String>, name: &str) -> u64 {
    counted.get(name).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn end(child: &mut Child) {
    // An error means that it has already ended.
    let _ = child.kill();
    let _ = child.wait();
}

/// Opens `count` queues of a tap, for a child to inherit.
fn tap_queues(tap: &str, count: u32) -> Result<Vec<OwnedFd>> {
    const CONFIG: TapConfig = TapConfig {
        header: 12,
        offloads: 0,
        multiqueue: true,
    };
    let queues = (0..count).map(|_| {
        let queue = Tap::new(tap, CONFIG)?;
        let fd = fcntl_dupfd_cloexec(&queue, TAP_FD)?;
        fcntl_setfd(&fd, FdFlags::empty())?;
        Ok(fd)
    });
    let queues = queues.collect::<Result<_>>()?;
    host::run("ip", &["link", "set", tap, "mtu", "1500"])?;
    Ok(queues)
}

/// Reads lines like "rx: rounds 812 packets 51200 ..." of a vhost device's `fdinfo`.
pub fn counters(text: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let Some((queue @ ("rx" | "tx"), rest)) = line.split_once(':') else {
            continue;
        };
        let mut words = rest.split_whitespace();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            all.insert(format!("{queue}.{name}"), value.to_owned());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::{count, counters};

    #[test]
    fn counters_are_read() {
        let all = counters(
            "pos:\t0\nflags:\t02\n\
             rx:\trounds 8 packets 5 faults 0 last_fault none\n\
             tx:\trounds 3 packets 7 faults 1 last_fault short_header\n",
        );
        assert_eq!(count(&all, "rx.packets"), 5);
        assert_eq!(count(&all, "tx.packets"), 7);
        assert_eq!(all["tx.last_fault"], "short_header");
        assert_eq!(count(&all, "tx.nothing"), 0);
    }
}
