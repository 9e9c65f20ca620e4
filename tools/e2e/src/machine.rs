// SPDX-License-Identifier: GPL-2.0
//! A QEMU guest on a backend.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use selftests::host::procfs;
use selftests::host::tap::{Tap, TapConfig};
use selftests::wait::Deadline;

use crate::emulation;
use crate::host;
use crate::pulse::{self, Pulse};
use crate::qmp::Qmp;
use crate::shell::{self, Shell};

/// The backend without a vhost device: QEMU serves the rings.
pub const NO_VHOST: &str = "off";

/// `VIRTIO_F_RING_PACKED`.
pub const RING_PACKED: usize = 34;

/// How long a guest may take to boot, and then for any one command.
const PATIENCE: Duration = Duration::from_secs(150);

/// The number of attempts to run a guest on an emulated processor that fails.
const ATTEMPTS: u32 = 3;

/// Time limit of the end of a QEMU that has begun to end.
const ENDING: Duration = Duration::from_secs(2);

/// The message in the log of a QEMU that ended by itself because its guest has reset.
const GONE: &str = "QEMU ended by itself";

/// The number of the first file descriptor of the vhost device; there is one per queue pair.
const FIRST_FD: i32 = 3;

/// The lowest file descriptor for queues of a tap, above those of the vhost device.
const TAP_FD: i32 = 100;

/// The files that guests boot from, and the directory of their logs.
#[derive(Args, Clone, Debug)]
pub struct Files {
    /// The guest's kernel.
    #[arg(long)]
    pub kernel: PathBuf,
    /// The guest's initial file system.
    #[arg(long)]
    pub initramfs: PathBuf,
    /// Directory for the guests' logs.
    #[arg(long)]
    pub logs: PathBuf,
}

impl Files {
    /// Calls `attempt`, which runs guests with these names; repeats it if the processor was at fault.
    ///
    /// QEMU's emulation of SVM sometimes keeps an event pending that it has already delivered. KVM
    /// then sees an access to a device during the delivery of an event, and stops the guest for good
    /// with an "internal error". Or the guest ends by a triple fault, without a panic on its console
    /// or with the one panic that this causes. Or an interrupt is lost, the timer's for one, and the
    /// guest stands still: not only its network, but every program in it. None of these says anything
    /// about the device under test. A real processor has no such bug, so that there one attempt
    /// decides.
    pub fn attempt<T>(&self, names: &[&str], mut attempt: impl FnMut() -> T) -> T {
        for _ in 1..ATTEMPTS {
            let result = attempt();
            let Some(name) = names.iter().find(|name| self.processor_failed(name)) else {
                return result;
            };
            eprintln!("{name}: the emulated processor failed; once more");
        }
        attempt()
    }

    fn processor_failed(&self, name: &str) -> bool {
        host::emulated()
            && std::fs::read_to_string(self.log(name)).is_ok_and(|log| {
                let excused = |said: Vec<u8>| {
                    said.is_empty() || emulation::killed(&String::from_utf8_lossy(&said))
                };
                let gone = || std::fs::read(self.console(name)).is_ok_and(excused);
                [shell::STOPPED, shell::STILL]
                    .iter()
                    .any(|sign| log.contains(sign))
                    || (log.contains(GONE) && gone())
            })
    }

    /// The log of the guest's console.
    fn console(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}-console.log"))
    }

    /// The log of QEMU, which has KVM's errors too.
    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }
}

/// How a guest differs from the usual one; all strings are parts of QEMU's options.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether the guest's firmware fetches the kernel over the network, and QEMU does not load it.
    pub firmware: bool,
    /// Queue pairs.
    pub queues: u32,
    /// Memory, for `-m`.
    pub memory: &'static str,
    /// Properties of the machine, each with a comma before it.
    pub machine: &'static str,
    /// Properties of the tap's netdev, likewise.
    pub netdev: &'static str,
    /// Properties of the guest's network device, likewise.
    pub nic: &'static str,
    /// More options.
    pub extra: &'static str,
    /// More of the kernel's command line.
    pub append: &'static str,
}

impl Options {
    /// A guest with nothing special.
    pub const USUAL: Self = Self {
        firmware: false,
        queues: 1,
        memory: "512M",
        machine: "",
        netdev: "",
        nic: "",
        extra: "",
        append: "",
    };

    /// The command line of the guest's kernel.
    #[must_use]
    pub fn kernel_line(&self) -> String {
        // Under emulated SVM, each access to a device register takes almost a
        // millisecond: the guest gets few devices and skips self-tests.
        let mut line = format!(
            "console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable no_timer_check \
             8250.nr_uarts=1 cryptomgr.notests initcall_blacklist=load_system_certificate_list {}",
            self.append
        );
        if host::emulated() {
            // Emulated SVM does not restore all of the extended state.
            line.push_str(" noxsave");
        }
        line
    }
}

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
        let mut command = command(files, name, backend, &tap, options);
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
        if self.backend.ends_with("vhost-rnet") {
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

/// Formats file descriptors as QEMU's options expect them.
fn numbers(fds: impl Iterator<Item = i32>) -> String {
    fds.map(|fd| fd.to_string()).collect::<Vec<_>>().join(":")
}

/// The command that starts QEMU, whose tap is described by `tap`.
fn command(files: &Files, name: &str, backend: &str, tap: &str, options: &Options) -> Command {
    let Options {
        firmware,
        queues,
        memory,
        machine,
        netdev,
        nic,
        extra,
        append: _,
    } = options;
    // Without graphics the firmware's messages are on the console, too.
    let (rom, graphics) = match firmware {
        true => ("bootindex=1", ",graphics=off"),
        false => ("romfile=", ""),
    };
    let fds: Vec<i32> = (FIRST_FD..).take(*queues as usize).collect();
    let vhost = match (backend, queues) {
        (NO_VHOST, _) => "vhost=off".to_owned(),
        (_, 1) => format!("vhost=on,vhostfd={FIRST_FD}"),
        _ => format!("vhost=on,vhostfds={}", numbers(fds.iter().copied())),
    };
    let words = format!(
        "qemu-system-x86_64 -accel kvm -cpu host \
         -M q35,i8042=off,hpet=off,sata=off,smbus=off{graphics}{machine} \
         -smp 1 -m {memory} -nodefaults -no-user-config -display none -no-reboot \
         -serial file:{logs}/{name}-console.log {extra} \
         -netdev tap,id=net,{tap},{vhost}{netdev} \
         -device virtio-net-pci,netdev=net,{rom},mac=52:54:00:12:34:56{nic} \
         -mon chardev=qmp,mode=control \
         -device virtio-serial-pci -device virtserialport,chardev=shell,name=shell \
         -device virtserialport,chardev={pulse},name={pulse}",
        pulse = pulse::PORT,
        logs = files.logs.display(),
    );
    // The shell opens the device and passes it to QEMU, as a management program does.
    let open: String = match backend {
        NO_VHOST => String::new(),
        _ => fds
            .iter()
            .map(|fd| format!("exec {fd}<>\"$1\" || exit 1\n"))
            .collect(),
    };
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            &format!("{open}shift; exec \"$@\""),
            "launch",
            backend,
        ])
        .args(words.split_whitespace());
    if !firmware {
        command.arg("-kernel").arg(&files.kernel);
        command.arg("-initrd").arg(&files.initramfs);
        command.args(["-append", &options.kernel_line()]);
    }
    command
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
