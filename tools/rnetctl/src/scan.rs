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
    /// Whether its device node is there.
    pub node: bool,
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
        let old = |device: &&Device| device.kind == Kind::Rnet && device.number.is_none();
        let count = self.devices.iter().filter(old).count();
        if count != 0 {
            notes.push(format!(
                "the module is of another version than this program: it does not tell the number \
                 of {count} open device(s)"
            ));
        }
        notes
    }

    /// What to say where no device was found.
    #[must_use]
    pub fn nothing(&self) -> &'static str {
        match (self.module, self.node) {
            (false, _) => "no device is open, and the module vhost_rnet is not loaded",
            (true, false) => "no device is open, and /dev/vhost-rnet is missing",
            (true, true) => "no device is open",
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
        node: host.dev("vhost-rnet").exists(),
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
            device.workers = of_process(host, device.process.pid, &kernel_workers);
        }
    }
    merge(&mut scan.devices);
    Ok(scan)
}

/// Those of the kernel's workers that serve a thread of process `pid`.
fn of_process(host: &Host, pid: i32, workers: &BTreeMap<i32, Vec<Worker>>) -> Vec<Worker> {
    let is_its = |tid: &i32| host.proc(format!("{pid}/task/{tid}")).exists();
    let found = workers.iter().filter(|(tid, _)| is_its(tid));
    found.flat_map(|(_, workers)| workers.clone()).collect()
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

#[cfg(test)]
mod tests {
    use super::{DebugFs, Scan, scan};
    use crate::device::{Kind, select};
    use crate::fixture::{self, Fixture};

    #[test]
    fn devices_of_all_kinds_are_found() {
        let host = fixture::usual();
        let scan = scan(&host.host()).unwrap();
        let kinds: Vec<_> = scan.devices.iter().map(|device| device.kind).collect();
        // The last is vhost-rnet's by what it says, whatever its name.
        assert_eq!(kinds, [Kind::Rnet, Kind::Net, Kind::Rnet]);
        let certain: Vec<_> = scan.devices.iter().map(|device| device.certain).collect();
        assert_eq!(certain, [true, false, false]);
        // The module knows which of two taps it is.
        assert_eq!(scan.devices[0].interface_list(), "tap0");
        assert_eq!(scan.devices[2].interface_list(), "macvtap0");
        assert_eq!(scan.devices[1].workers[0].tid, 5010);
        assert!(scan.module && !scan.hidden_pids);
    }

    #[test]
    fn what_ends_or_lacks_files_meanwhile_is_left_out() {
        let host = fixture::usual();
        host.remove("proc/4711/fdinfo");
        host.remove("proc/5000/task");
        std::fs::remove_file(host.host().proc("6000/status")).unwrap();
        let scan = scan(&host.host()).unwrap();
        assert_eq!(scan.devices.len(), 1);
        assert_eq!(scan.devices[0].process.pid, 5000);
    }

    #[test]
    fn the_owner_of_a_shared_descriptor_is_named() {
        let host = fixture::usual();
        let info = fixture::fdinfo(3, 4711, 1000);
        host.process(4000, "child", &["child"]);
        host.file(4000, 3, "/dev/vhost-rnet", &info);
        host.file(4711, 20, "/dev/vhost-rnet", &info);
        let found = scan(&host.host()).unwrap().devices;
        let ids: Vec<_> = found.iter().map(crate::device::Device::id).collect();
        assert_eq!(ids, ["4711:9", "5000:5", "6000:4"]);
    }

    #[test]
    fn a_thousand_devices_are_found_in_one_pass() {
        let host = Fixture::new();
        for pid in 1000..2000 {
            host.process(pid, "qemu", &["qemu", "-name", &format!("vm{pid}")]);
            let number = u64::try_from(pid).unwrap();
            host.file(pid, 3, "/dev/vhost-rnet", &fixture::fdinfo(number, pid, 1));
        }
        let found = scan(&host.host()).unwrap().devices;
        assert_eq!(found.len(), 1000);
        assert_eq!(select(&found, "vm1500").unwrap()[0].number, Some(1500));
        let error = select(&found, "vm1").unwrap_err().to_string();
        assert!(error.ends_with("and 992 more"), "{error}");
    }

    #[test]
    fn words_choose_devices() {
        let host = fixture::usual();
        host.file(4711, 8, "/dev/vhost-rnet", &fixture::fdinfo(4, 4711, 0));
        host.process(5001, "qemu", &["qemu", "-name", "old"]);
        host.file(5001, 5, "/dev/vhost-net", "");
        host.process(7000, "holder", &["holder"]);
        host.file(7000, 5, "/dev/vhost-rnet", "device:\t5000\nrx:\t\ntx:\t\n");
        let found = scan(&host.host()).unwrap().devices;
        let ids = |word| {
            let chosen = select(&found, word);
            let ids = chosen.map(|all| all.iter().map(|device| device.id()).collect::<Vec<_>>());
            ids.map(|ids| ids.join(" "))
                .map_err(|error| error.to_string())
        };
        assert_eq!(ids("web").unwrap(), "4711:8 4711:9");
        assert_eq!(ids("4711:8").unwrap(), "4711:8");
        assert_eq!(ids("#3").unwrap(), "4711:9");
        assert_eq!(ids("tap5").unwrap(), "5000:5");
        assert_eq!(
            ids("old").unwrap_err(),
            "\"old\" means more than one device: 5000:5 (old, tap5), 5001:5 (old)"
        );
        // A process has that id, and another device that number.
        assert!(ids("5000").unwrap_err().contains("7000:5 (holder)"));
        assert_eq!(ids("#5000").unwrap(), "7000:5");
        assert!(
            ids("x\x1b")
                .unwrap_err()
                .starts_with("no device is called \"x\\u{1b}\"; there are ")
        );
    }

    #[test]
    fn what_could_not_be_seen_is_said() {
        let host = fixture::usual();
        let mut scan = scan(&host.host()).unwrap();
        // One device is of a module that has no numbers.
        assert_eq!(scan.notes().len(), 1);
        assert!(scan.notes()[0].contains("of 1 open device(s)"));
        scan.hidden_processes = 3;
        scan.hidden_pids = true;
        scan.debugfs = DebugFs::Denied;
        insta::assert_snapshot!(scan.notes().join("\n"));
        scan.debugfs = DebugFs::Missing;
        assert!(scan.notes()[2].contains("mount debugfs"));
        assert!(Scan::default().nothing().contains("not loaded"));
    }

    #[test]
    fn a_host_without_proc_is_refused() {
        let nowhere = crate::host::Host::new(std::path::Path::new("/nonexistent"));
        assert_eq!(scan(&nowhere).unwrap_err().status(), 4);
    }
}
