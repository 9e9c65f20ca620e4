// SPDX-License-Identifier: GPL-2.0
//! What the guest of libvirt goes through.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rnet_e2e::host;
use rnet_e2e::machine::{count, counters};
use rnet_e2e::shell::Shell;
use rnet_e2e::stream::{self, Counts};
use selftests::host::procfs;
use selftests::wait::Deadline;

use crate::daemon::{self, Libvirt};
use crate::domain::{self, Kind, NAME, Network, SHELL};

/// A step, with its name.
type Step = (&'static str, fn(&mut Run<'_>) -> Result<()>);

/// All steps, in order.
pub const STEPS: &[Step] = &[
    ("ethernet.start", |run| run.start(Kind::Ethernet)),
    ("ethernet.ping", |run| run.ping()),
    ("ethernet.stream", |run| run.stream()),
    ("ethernet.vhost", |run| run.vhost()),
    ("ethernet.device_list", |run| run.device_list()),
    ("ethernet.confined", |run| run.confined()),
    ("ethernet.detach", |run| run.detach()),
    ("direct.attach", |run| run.attach(Kind::Direct)),
    ("direct.ping", |run| run.ping()),
    ("direct.stream", |run| run.stream()),
    ("direct.vhost", |run| run.vhost()),
    ("direct.detach", |run| run.detach()),
    ("bridge.attach", |run| run.attach(Kind::Bridge)),
    ("bridge.ping", |run| run.ping()),
    ("bridge.stream", |run| run.stream()),
    ("bridge.vhost", |run| run.vhost()),
    ("bridge.end", |run| run.end()),
];

/// How long the guest may take to boot, and then for any one command.
const GUEST_PATIENCE: Duration = Duration::from_secs(150);

/// A guest, and what it is connected to. The guest is killed when dropped.
pub struct Run<'a> {
    device: &'a str,
    libvirt: &'a Libvirt,
    streams: &'a Receiver<Result<Counts>>,
    shell: Option<Shell>,
    network: Option<(Kind, Network)>,
    /// QEMU's process id.
    qemu: u32,
}

impl<'a> Run<'a> {
    /// Prepares to run a guest that `device` serves.
    pub fn new(
        device: &'a str,
        libvirt: &'a Libvirt,
        streams: &'a Receiver<Result<Counts>>,
    ) -> Self {
        Self {
            device,
            libvirt,
            streams,
            shell: None,
            network: None,
            qemu: 0,
        }
    }

    /// Goes through all steps; returns the result of each.
    pub fn all(&mut self) -> Vec<(&'static str, Result<(), String>)> {
        let mut results = Vec::new();
        let mut failed = None;
        for (name, step) in STEPS {
            // After a failed step the guest is in an unknown state, and later steps prove nothing.
            let result = match failed {
                Some(before) => Err(format!("not run: after {before}")),
                None => step(self).map_err(|error| format!("{error:#}")),
            };
            // The report comes at the end, and a step may take minutes.
            eprintln!("{name}: {}", if result.is_ok() { "ok" } else { "failed" });
            if result.is_err() {
                failed.get_or_insert(*name);
            }
            results.push((*name, result));
        }
        results
    }

    fn start(&mut self, kind: Kind) -> Result<()> {
        self.network = Some((kind, kind.network()?));
        let description = Description::new(&domain::domain(&kind.interface(self.device)))?;
        self.libvirt.virsh(&["create", description.path()?])?;
        self.qemu = daemon::qemu(NAME)?;
        let mut shell = connect()?;
        shell.wait()?;
        self.shell = Some(shell);
        self.connected()
    }

    fn attach(&mut self, kind: Kind) -> Result<()> {
        self.network = Some((kind, kind.network()?));
        let description = Description::new(&kind.interface(self.device))?;
        let words = ["attach-device", NAME, description.path()?, "--live"];
        self.libvirt.virsh(&words)?;
        self.sh("for i in $(seq 300); do test -e /sys/class/net/eth0 && break; sleep 0.1; done")?;
        self.connected()
    }

    /// Gives their addresses to both ends of the interface.
    fn connected(&mut self) -> Result<()> {
        let (kind, _) = self.network.as_ref().context("no network")?;
        kind.attached()?;
        let address = host::GUEST_ADDRESS;
        self.sh(&format!(
            "ip address add {address}/24 dev eth0 && ip link set eth0 up"
        ))?;
        Ok(())
    }

    fn detach(&mut self) -> Result<()> {
        let (kind, _) = self.network.as_ref().context("no network")?;
        let description = Description::new(&kind.interface(self.device))?;
        let words = ["detach-device", NAME, description.path()?, "--live"];
        self.libvirt.virsh(&words)?;
        // libvirt does not wait for long, and closes the devices once the guest has let go of its own.
        Deadline::after(GUEST_PATIENCE).until("the devices are closed", || {
            Ok(self.fds()?.is_empty() && self.workers()? == 0)
        })?;
        self.sh("! test -e /sys/class/net/eth0")?;
        self.network = None;
        Ok(())
    }

    fn ping(&mut self) -> Result<()> {
        let said = self.sh(&format!("ping -q -c 5 -i 0.1 -W 5 {}", host::ADDRESS))?;
        ensure!(said.contains("5 packets received"), "{said}");
        Ok(())
    }

    fn stream(&mut self) -> Result<()> {
        let said = self.sh(&format!("rnet-stream {}", host::ADDRESS))?;
        self.agree(&said)
    }

    /// Compares the counts that the guest's end of a connection printed with those of the other end.
    fn agree(&self, said: &str) -> Result<()> {
        let counts: Counts = serde_json::from_str(said).with_context(|| said.to_owned())?;
        stream::agree(counts, stream::next(self.streams, stream::PATIENCE)?)
    }

    /// The interface has a vhost device for each queue pair, each with a worker named after QEMU, and
    /// those that count have seen packets both ways and no fault.
    fn vhost(&mut self) -> Result<()> {
        let (kind, _) = self.network.as_ref().context("no network")?;
        let fds = self.fds()?;
        ensure!(fds.len() == kind.queues(), "{} devices", fds.len());
        let workers = self.workers()?;
        ensure!(workers == fds.len(), "{workers} workers");
        if !self.device.ends_with("vhost-rnet") {
            // The other device has no counters.
            return Ok(());
        }
        let mut packets = [0, 0];
        for fd in fds {
            let path = format!("/proc/{}/fdinfo/{fd}", self.qemu);
            let counted = counters(&fs::read_to_string(&path).context(path)?);
            for (sum, queue) in packets.iter_mut().zip(["rx", "tx"]) {
                let faults = count(&counted, &format!("{queue}.faults"));
                ensure!(faults == 0, "{counted:?}");
                *sum += count(&counted, &format!("{queue}.packets"));
            }
        }
        ensure!(!packets.contains(&0), "packets both ways: {packets:?}");
        Ok(())
    }

    /// The list of devices that libvirt's domains may open (`cgroup_device_acl`) does not have the vhost
    /// device, and need not: libvirt opens it.
    fn device_list(&mut self) -> Result<()> {
        let path = format!("/proc/{}/cgroup", self.qemu);
        let text = fs::read_to_string(&path).context(path)?;
        let group = text.lines().find_map(|line| line.strip_prefix("0::"));
        let group = group.with_context(|| format!("no control group: {text}"))?;
        // QEMU's own is one for its threads; a process is added to the one above.
        let group = group.strip_suffix("/emulator").unwrap_or(group);
        ensure!(group.contains(NAME), "QEMU is in control group {group}");
        let opens = |node: &str| -> Result<bool> {
            let script = "echo $$ > \"$1/cgroup.procs\" || exit 3; exec 3<> \"$2\"";
            let output = Command::new("sh")
                .args(["-c", script, "open"])
                .args([&format!("/sys/fs/cgroup{group}"), node])
                .output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            match output.status.code() {
                Some(0) => Ok(true),
                Some(2) if said.contains("Operation not permitted") => Ok(false),
                _ => bail!("opening {node} in {group}: {} {said}", output.status),
            }
        };
        ensure!(opens("/dev/null")?, "/dev/null is not in the list");
        ensure!(!opens(self.device)?, "{} is in the list", self.device);
        Ok(())
    }

    /// AppArmor confines QEMU by a profile of its own, which would refuse what it does not list.
    fn confined(&mut self) -> Result<()> {
        let path = format!("/proc/{}/attr/apparmor/current", self.qemu);
        let profile = fs::read_to_string(&path).context(path)?;
        let enforced = profile.starts_with("libvirt-") && profile.contains("(enforce)");
        ensure!(enforced, "QEMU's profile is {profile}");
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.shell = None;
        self.libvirt.virsh(&["destroy", NAME])?;
        Deadline::patient().until("QEMU has ended", || Ok(procfs::threads(self.qemu).is_err()))
    }

    fn sh(&mut self, line: &str) -> Result<String> {
        self.shell.as_mut().context("no guest")?.run(line)
    }

    /// The number of QEMU's threads that are vhost workers.
    fn workers(&self) -> Result<usize> {
        let name = format!("vhost-{}", self.qemu);
        let threads = procfs::threads(self.qemu)?;
        Ok(threads.iter().filter(|thread| thread.name == name).count())
    }

    /// QEMU's file descriptors of the vhost device.
    fn fds(&self) -> Result<Vec<u32>> {
        let mut found = Vec::new();
        let dir = format!("/proc/{}/fd", self.qemu);
        for entry in fs::read_dir(&dir).context(dir)? {
            let entry = entry?;
            // A descriptor may be closed between the listing and the look at it.
            if fs::read_link(entry.path()).is_ok_and(|target| target == Path::new(self.device)) {
                let name = entry.file_name();
                let number = name.to_str().context("a descriptor is a number")?;
                found.push(number.parse()?);
            }
        }
        Ok(found)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        // An error means that the guest has ended.
        let _ = self.libvirt.virsh(&["destroy", NAME]);
    }
}

/// Connects to the guest's shell.
fn connect() -> Result<Shell> {
    let log = Path::new(domain::QEMU_LOG);
    Shell::connect(Path::new(SHELL), log, None, GUEST_PATIENCE)
}

/// A description in a file, as `virsh` takes it. Removed when dropped.
struct Description(PathBuf);

impl Description {
    fn new(text: &str) -> Result<Self> {
        let this = Self("/tmp/libvirt.xml".into());
        fs::write(&this.0, text)?;
        Ok(this)
    }

    fn path(&self) -> Result<&str> {
        self.0.to_str().context("a path that is text")
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // It is written anew for the next step.
        let _ = fs::remove_file(&self.0);
    }
}
