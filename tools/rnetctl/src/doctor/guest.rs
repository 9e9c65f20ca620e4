// SPDX-License-Identifier: GPL-2.0
//! The guests of this host: processes that have a vhost device open, and other hypervisors.

use super::files::Files;
use super::qemu::{self, CommandLine};
use crate::fdinfo::{FdInfo, tun_interface};

/// The device.
pub const DEVICE: &str = "dev/vhost-rnet";

/// Which module a vhost device is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Module {
    /// vhost-rnet, by whatever name the device was opened.
    Rnet,
    /// vhost-net.
    Net,
}

/// A guest.
#[derive(Debug)]
pub struct Guest {
    /// The process.
    pub pid: u32,
    /// What QEMU was told, if it is QEMU.
    pub qemu: Option<CommandLine>,
    /// The open vhost devices: number of the descriptor, and module.
    pub devices: Vec<(String, Module)>,
    /// The names of interfaces whose taps are open, each once.
    pub interfaces: Vec<String>,
    /// Whether it hands host devices to the guest.
    pub has_vfio: bool,
}

impl Guest {
    /// What the report calls it.
    pub fn subject(&self) -> String {
        let name = self.qemu.as_ref().and_then(|line| line.name.as_ref());
        match name {
            Some(name) => format!("{name} (pid {})", self.pid),
            None => format!("pid {}", self.pid),
        }
    }
}

/// The guests, and how many processes nothing can be said about without more rights.
#[derive(Debug, Default)]
pub struct Guests {
    /// The guests, by process.
    pub guests: Vec<Guest>,
    /// Hypervisors whose open files this user may not see.
    pub hidden: usize,
}

/// Looks for guests.
pub fn find(files: &Files) -> Guests {
    let mut found = Guests::default();
    let mut pids: Vec<u32> = files
        .names("proc")
        .unwrap_or_default()
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect();
    pids.sort_unstable();
    for pid in pids {
        let arguments = arguments(files, pid);
        let is_qemu = is_qemu(&arguments);
        let Some(descriptors) = files.names(&format!("proc/{pid}/fd")) else {
            found.hidden += usize::from(is_qemu);
            continue;
        };
        let mut guest = Guest {
            pid,
            qemu: is_qemu.then(|| qemu::parse(&arguments)),
            devices: Vec::new(),
            interfaces: Vec::new(),
            has_vfio: false,
        };
        for descriptor in descriptors {
            look_at(files, &mut guest, descriptor);
        }
        if is_qemu || !guest.devices.is_empty() {
            guest.interfaces.sort();
            guest.interfaces.dedup();
            found.guests.push(guest);
        }
    }
    found
}

fn arguments(files: &Files, pid: u32) -> Vec<String> {
    let line = files
        .read(&format!("proc/{pid}/cmdline"))
        .unwrap_or_default();
    let words = line.split_terminator('\0');
    words.map(str::to_owned).collect()
}

fn is_qemu(arguments: &[String]) -> bool {
    let program = arguments.first().map_or("", String::as_str);
    let name = program.rsplit('/').next().unwrap_or_default();
    name.starts_with("qemu-system-") || matches!(name, "qemu-kvm" | "kvm")
}

/// Notes what the open file `descriptor` tells about the guest.
fn look_at(files: &Files, guest: &mut Guest, descriptor: String) {
    let pid = guest.pid;
    let Some(target) = files.link(&format!("proc/{pid}/fd/{descriptor}")) else {
        return;
    };
    let info = || {
        let info = files.read(&format!("proc/{pid}/fdinfo/{descriptor}"));
        info.unwrap_or_default()
    };
    if target.starts_with("/dev/vhost-") {
        // A bind mount may have put one device in the place of the other.
        let module = if FdInfo::parse(info().as_bytes()).is_some() {
            Module::Rnet
        } else if target == "/dev/vhost-net" {
            Module::Net
        } else {
            return;
        };
        guest.devices.push((descriptor, module));
    } else if target == "/dev/net/tun" {
        guest.interfaces.extend(tun_interface(info().as_bytes()));
    } else if let Some(index) = target.strip_prefix("/dev/tap") {
        guest.interfaces.extend(interface(files, index));
    } else if target.starts_with("/dev/vfio/") {
        guest.has_vfio = true;
    }
}

/// The interface of a number, which the device of a macvtap is named by.
fn interface(files: &Files, index: &str) -> Option<String> {
    let names = files.names("sys/class/net")?;
    names.into_iter().find(|name| {
        let found = files.line(&format!("sys/class/net/{name}/ifindex"));
        found.as_deref() == Some(index)
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::files::tests::Fixture;
    use super::{Module, find};

    /// The process `pid` with a command line.
    pub fn process(fixture: Fixture, pid: u32, command: &str) -> Fixture {
        let words: Vec<&str> = command.split_whitespace().collect();
        fixture.file(
            &format!("proc/{pid}/cmdline"),
            format!("{}\0", words.join("\0")),
        )
    }

    /// The process has the file `target` open, with that text in fdinfo.
    pub fn open(fixture: Fixture, pid: u32, descriptor: u32, target: &str, info: &str) -> Fixture {
        fixture
            .link(&format!("proc/{pid}/fd/{descriptor}"), target)
            .file(&format!("proc/{pid}/fdinfo/{descriptor}"), info)
    }

    /// What fdinfo shows of a device of vhost-rnet.
    pub const INFO: &str = "pos:\t0\nrx:\trounds 1\ntx:\trounds 1\n";

    #[test]
    fn guests_are_known_by_their_files_and_by_their_program() {
        let mut fixture = process(Fixture::new(), 10, "/usr/bin/qemu-system-x86_64 -name db");
        fixture = open(fixture, 10, 3, "/dev/vhost-net", INFO);
        fixture = open(fixture, 10, 4, "/dev/vhost-net", "pos:\t0\n");
        fixture = open(fixture, 10, 5, "/dev/net/tun", "iff:\ttap0\n");
        fixture = open(fixture, 10, 6, "/dev/net/tun", "iff:\ttap0\n");
        fixture = open(fixture, 10, 7, "/dev/tap9", "");
        fixture = open(fixture, 10, 8, "/dev/vfio/12", "");
        fixture = open(fixture, 10, 9, "/dev/vhost-vsock", "");
        fixture = process(fixture, 11, "sh -c x").link("proc/11/fd/0", "/dev/null");
        fixture = process(fixture, 12, "dpdk");
        fixture = open(fixture, 12, 3, "/dev/vhost-rnet", INFO);
        // Its files are not to be seen.
        fixture = process(fixture, 13, "qemu-system-x86_64").file("proc/odd", "");
        fixture = fixture.file("sys/class/net/mv0/ifindex", "9\n");
        let found = find(&fixture.files());
        assert_eq!(found.hidden, 1);
        let [qemu, dpdk] = found.guests.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(qemu.subject(), "db (pid 10)");
        assert_eq!(
            qemu.devices,
            [
                ("3".to_owned(), Module::Rnet),
                ("4".to_owned(), Module::Net)
            ]
        );
        assert_eq!(qemu.interfaces, ["mv0", "tap0"]);
        assert!(qemu.has_vfio);
        assert_eq!((dpdk.subject().as_str(), dpdk.devices.len()), ("pid 12", 1));
    }
}
