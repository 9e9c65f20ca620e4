// SPDX-License-Identifier: GPL-2.0
//! One pass over the host's processes, which finds every open device.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::PathBuf;

use crate::debugfs::{self, DeviceState, QueueState};
use crate::device::{Device, Direction, Kind, Queue};
use crate::exit::Error;
use crate::fdinfo::{self, FdInfo};
use crate::host::process::{self, Process, Task, Worker};
use crate::host::{self, Host};

/// What was found, and what could not be looked at.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// The devices, in the order of processes and descriptors.
    pub devices: Vec<Device>,
    /// Processes of other users whose files this user may not see.
    pub hidden_processes: usize,
    /// Whether `/proc` may leave out whole processes (its option `hidepid`).
    pub hidden_pids: bool,
    /// How debugfs could be read.
    pub debugfs: DebugFs,
    /// Whether the module is loaded.
    pub module: bool,
}

/// How the module's part of debugfs could be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DebugFs {
    /// Its folder was found.
    #[default]
    Read,
    /// The user may not look.
    Denied,
    /// There is none: not mounted, or a module without one.
    Missing,
}

impl Scan {
    /// What could not be seen, as sentences for standard error.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        match self.hidden_processes {
            0 => {}
            1 => notes.push("1 process of another user could not be looked at; run as root".into()),
            n => notes.push(format!(
                "{n} processes of other users could not be looked at; run as root"
            )),
        }
        if self.hidden_pids {
            notes.push("/proc hides processes of other users (hidepid); run as root".into());
        }
        let rnet = self.devices.iter().any(|device| device.kind == Kind::Rnet);
        if rnet && self.debugfs == DebugFs::Denied {
            notes.push(
                "debugfs could not be read, so states of queues are unknown; run as root".into(),
            );
        }
        if rnet && self.debugfs == DebugFs::Missing {
            notes.push(
                "the module shows nothing in /sys/kernel/debug/vhost_rnet, so states of queues are \
                 unknown; mount debugfs there, or load a newer module"
                    .into(),
            );
        }
        notes
    }

    /// What to say where no device was found.
    #[must_use]
    pub fn nothing(&self) -> &'static str {
        if self.module {
            "no device is open"
        } else {
            "no device is open, and the module vhost_rnet is not loaded"
        }
    }
}

/// Looks at every process.
///
/// # Errors
///
/// When there is no `/proc`. A process that ends meanwhile is left out.
pub fn scan(host: &Host) -> Result<Scan, Error> {
    let folder = host.proc("");
    let pids = host::numbers(&folder).map_err(|e| Error::system("reading /proc", &e))?;
    let (folders, debugfs) = folders(host);
    let mut scan = Scan {
        hidden_pids: !pids.contains(&1),
        debugfs,
        module: host.has_module(),
        ..Scan::default()
    };
    // Workers that are threads of the kernel, by the thread that they serve.
    let mut kernel_workers: BTreeMap<i32, Vec<Worker>> = BTreeMap::new();
    let mut taps = Taps::new(host);
    for pid in pids {
        let task = || {
            let status = std::fs::read(host.proc(format!("{pid}/status")));
            status.map(|status| Task::parse(&status))
        };
        match process::files(host, pid) {
            Ok(files) if files.is_empty() => {
                let comm = std::fs::read(host.proc(format!("{pid}/comm"))).unwrap_or_default();
                if let (Some(served), Ok(task)) = (process::served(&comm), task()) {
                    let worker = Worker { tid: pid, task };
                    kernel_workers.entry(served).or_default().push(worker);
                }
            }
            Ok(files) => scan
                .devices
                .extend(devices(host, pid, &files, &mut taps, &folders)),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                match task() {
                    Ok(task) if !task.kernel => scan.hidden_processes += 1,
                    Ok(task) => {
                        if let Some(served) = process::served(task.name.as_bytes()) {
                            let worker = Worker { tid: pid, task };
                            kernel_workers.entry(served).or_default().push(worker);
                        }
                    }
                    Err(_) => {}
                };
            }
            // It has ended.
            Err(_) => {}
        }
    }
    for device in &mut scan.devices {
        if device.workers.is_empty() {
            let found = kernel_workers.get(&device.process.pid);
            device.workers = found.cloned().unwrap_or_default();
        }
    }
    merge(&mut scan.devices);
    Ok(scan)
}

/// The folders of devices in debugfs, by the devices' numbers.
fn folders(host: &Host) -> (BTreeMap<u64, PathBuf>, DebugFs) {
    let all = host.debugfs();
    match host::names(&all) {
        Ok(names) => {
            let numbered = names
                .iter()
                .filter_map(|name| Some((debugfs::folder(name)?.1, all.join(name))));
            (numbered.collect(), DebugFs::Read)
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            (BTreeMap::new(), DebugFs::Denied)
        }
        Err(_) => (BTreeMap::new(), DebugFs::Missing),
    }
}

/// The last part of a file's path, without what the kernel adds to a deleted one's.
fn base_name(target: &str) -> &str {
    let target = target.strip_suffix(" (deleted)").unwrap_or(target);
    target.rsplit('/').next().unwrap_or(target)
}

/// The devices among the open files of process `pid`.
fn devices(
    host: &Host,
    pid: i32,
    files: &[(i32, String)],
    taps: &mut Taps,
    folders: &BTreeMap<u64, PathBuf>,
) -> Vec<Device> {
    let fdinfo = |fd: i32| std::fs::read(host.proc(format!("{pid}/fdinfo/{fd}")));
    let mut found = Vec::new();
    for (fd, target) in files {
        let name = base_name(target);
        if !target.starts_with('/') || !matches!(name, "vhost-rnet" | "vhost-net") {
            continue;
        }
        let Ok(text) = fdinfo(*fd) else { continue };
        // One may be mounted over the other: what the file says of itself decides.
        let info = FdInfo::parse(&text);
        let kind = match (&info, name) {
            (Some(_), _) | (None, "vhost-rnet") => Kind::Rnet,
            (None, _) => Kind::Net,
        };
        found.push((*fd, kind, info.unwrap_or_default()));
    }
    if found.is_empty() {
        return Vec::new();
    }
    let Ok(process) = Process::read(host, pid) else {
        return Vec::new();
    };
    let workers = process::workers(host, pid).unwrap_or_default();
    let interfaces: BTreeSet<String> = files
        .iter()
        .filter_map(|(fd, target)| match base_name(target) {
            "tun" => fdinfo::tun_interface(&fdinfo(*fd).ok()?),
            name => taps.macvtap(name),
        })
        .collect();
    let all = found.into_iter().map(|(fd, kind, info)| {
        let queue = |counters| Queue {
            counters,
            state: None,
        };
        let mut device = Device {
            kind,
            process: process.clone(),
            fd,
            number: info.device,
            owner: info.owner,
            interfaces: interfaces.clone(),
            features: None,
            workers: workers.clone(),
            certain: false,
            rx: queue(info.rx),
            tx: queue(info.tx),
            folder: info.device.and_then(|number| folders.get(&number).cloned()),
        };
        add_state(host, &mut device);
        device
    });
    all.collect()
}

/// Adds to `device` what its folder in debugfs tells.
fn add_state(host: &Host, device: &mut Device) {
    let Some(folder) = device.folder.clone() else {
        return;
    };
    let Ok(text) = std::fs::read(folder.join("state")) else {
        return;
    };
    let state = DeviceState::parse(&text);
    device.features = state.features;
    if let Some(tids) = state.workers {
        let worker = |tid: i32| {
            // Any thread of the host is found below its own number.
            let status = std::fs::read(host.proc(format!("{tid}/status")));
            let task = Task::parse(&status.unwrap_or_default());
            Worker { tid, task }
        };
        let known = std::mem::take(&mut device.workers);
        device.workers = tids
            .into_iter()
            .map(|tid| {
                let known = known.iter().find(|worker| worker.tid == tid);
                known.cloned().unwrap_or_else(|| worker(tid))
            })
            .collect();
        device.certain = true;
    }
    let mut interfaces = BTreeSet::new();
    for direction in Direction::ALL {
        let text = std::fs::read(folder.join(direction.to_string()).join("state"));
        let state = text.ok().map(|text| QueueState::parse(&text));
        interfaces.extend(state.as_ref().and_then(|state| state.interface.clone()));
        match direction {
            Direction::Rx => device.rx.state = state,
            Direction::Tx => device.tx.state = state,
        }
    }
    if !interfaces.is_empty() {
        device.interfaces = interfaces;
    }
}

/// Leaves one of the descriptors that are the same open device: the owner's if that has one.
fn merge(devices: &mut Vec<Device>) {
    let mut kept: BTreeMap<u64, bool> = BTreeMap::new();
    let is_owner = |device: &Device| device.owner == Some(device.process.pid);
    for device in devices.iter() {
        if let Some(number) = device.number {
            *kept.entry(number).or_default() |= is_owner(device);
        }
    }
    let mut seen = BTreeSet::new();
    devices.retain(|device| {
        let Some(number) = device.number else {
            return true;
        };
        let owned = kept.get(&number).copied().unwrap_or_default();
        (!owned || is_owner(device)) && seen.insert(number)
    });
}

/// The interfaces behind files of `/dev/tap<index>`, which macvtap has.
struct Taps {
    by_index: Option<BTreeMap<u32, String>>,
    host: Host,
}

impl Taps {
    fn new(host: &Host) -> Self {
        Self {
            by_index: None,
            host: host.clone(),
        }
    }

    /// The interface of the file called `name`, if that is one of macvtap's. One of another network
    /// namespace has no name here, and goes by that of its file.
    fn macvtap(&mut self, name: &str) -> Option<String> {
        let index: u32 = name.strip_prefix("tap")?.parse().ok()?;
        let host = &self.host;
        let names = self.by_index.get_or_insert_with(|| {
            let folder = host.sys("class/net");
            let all = host::names(&folder).unwrap_or_default();
            all.into_iter()
                .filter_map(|name| {
                    let index = std::fs::read_to_string(folder.join(&name).join("ifindex")).ok()?;
                    Some((index.trim().parse().ok()?, name))
                })
                .collect()
        });
        Some(
            names
                .get(&index)
                .cloned()
                .unwrap_or_else(|| name.to_owned()),
        )
    }
}
