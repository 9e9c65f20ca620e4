// SPDX-License-Identifier: GPL-2.0
//! Trees of files that look like a host's, for tests.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::host::Host;

/// A host made of files.
pub struct Fixture(TempDir);

impl Fixture {
    /// A host with the first process only.
    pub fn new() -> Self {
        let fixture = Self(TempDir::new().unwrap());
        fixture.process(1, "init", &["/sbin/init"]);
        fixture
    }

    /// The host.
    pub fn host(&self) -> Host {
        Host::new(self.0.path())
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// Makes a file with `text`.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(path), text).unwrap();
    }

    /// Removes a folder, as when a process ends.
    pub fn remove(&self, path: &str) {
        fs::remove_dir_all(self.path(path)).unwrap();
    }

    /// A process with one thread and no files.
    pub fn process(&self, pid: i32, comm: &str, words: &[&str]) {
        let proc = format!("proc/{pid}");
        fs::create_dir_all(self.path(&format!("{proc}/fd/x")).parent().unwrap()).unwrap();
        self.write(&format!("{proc}/cmdline"), words.join("\0"));
        self.write(&format!("{proc}/comm"), format!("{comm}\n"));
        self.write(&format!("{proc}/status"), status(comm, 'S', false, "0-7"));
        self.thread(pid, pid, comm, "0-7");
    }

    /// A thread of a process.
    pub fn thread(&self, pid: i32, tid: i32, comm: &str, cpus: &str) {
        let task = format!("proc/{pid}/task/{tid}");
        self.write(&format!("{task}/comm"), format!("{comm}\n"));
        self.write(&format!("{task}/status"), status(comm, 'S', false, cpus));
    }

    /// A thread of the kernel.
    pub fn kernel_thread(&self, pid: i32, comm: &str, cpus: &str) {
        self.process(pid, comm, &[]);
        self.write(&format!("proc/{pid}/status"), status(comm, 'S', true, cpus));
    }

    /// An open file.
    pub fn file(&self, pid: i32, fd: i32, target: &str, fdinfo: &str) {
        let link = self.path(&format!("proc/{pid}/fd/{fd}"));
        let _ = fs::remove_file(&link);
        symlink(target, link).unwrap();
        let text = format!("pos:\t0\nflags:\t02\nmnt_id:\t5\n{fdinfo}");
        self.write(&format!("proc/{pid}/fdinfo/{fd}"), text);
    }

    /// A device's state in debugfs.
    pub fn state(&self, folder: &str, text: &str) {
        self.write(&format!("sys/kernel/debug/vhost_rnet/{folder}/state"), text);
    }

    /// A queue's state in debugfs.
    pub fn queue(&self, folder: &str, queue: &str, text: &str) {
        let path = format!("sys/kernel/debug/vhost_rnet/{folder}/{queue}");
        self.write(&format!("{path}/state"), text);
        self.write(&format!("{path}/wake"), "");
    }

    /// A network interface.
    pub fn interface(&self, name: &str, index: u32, flags: u32, carrier: bool) {
        let path = format!("sys/class/net/{name}");
        self.write(&format!("{path}/ifindex"), format!("{index}\n"));
        self.write(&format!("{path}/flags"), format!("{flags:#x}\n"));
        self.write(
            &format!("{path}/carrier"),
            format!("{}\n", u8::from(carrier)),
        );
    }
}

/// The text of a `status`.
pub fn status(name: &str, state: char, kernel: bool, cpus: &str) -> String {
    let kernel = u8::from(kernel);
    format!("Name:\t{name}\nState:\t{state} (x)\nKthread:\t{kernel}\nCpus_allowed_list:\t{cpus}\n")
}

/// What a device with a number and an owner says in fdinfo after so many packets each way.
pub fn fdinfo(number: u64, owner: i32, packets: u64) -> String {
    format!(
        "device:\t{number}\nowner:\t{owner}\n{}",
        old_fdinfo(packets)
    )
}

/// The same of a module without numbers.
pub fn old_fdinfo(packets: u64) -> String {
    let (bytes, rounds) = (packets * 100, packets / 10);
    let mut text = String::new();
    for queue in ["rx", "tx"] {
        text.push_str(&format!(
            "{queue}:\trounds {rounds} packets {packets} bytes {bytes} dropped 2 batches {rounds} \
             calls 7 faults 1 last_fault loop\n"
        ));
    }
    for queue in ["rx", "tx"] {
        text.push_str(&format!(
            "{queue}_kicks:\t12\n{queue}_size_64:\t{packets}\n{queue}_size_128:\t0\n\
             {queue}_dropped_refused:\t2\n{queue}_dropped_header:\t0\n\
             {queue}_ended_drained:\t{rounds}\n{queue}_fault_direction:\t1\n\
             {queue}_pages_kept:\t16\n{queue}_progress_ms:\t1500\n{queue}_fault_ms:\t99000\n"
        ));
    }
    text
}

/// A queue's state that nothing is wrong with.
pub fn resting(waits_for: &str) -> String {
    format!(
        "running:\tno\nstarted:\tyes\nstopped:\tno\nfault:\tnone\nformat:\tsplit\nsize:\t256\n\
         iotlb:\tno\nlog:\tno\ntaken:\t10\nseen:\t10\ndriver:\t10\nused:\t10\navailable:\tno\n\
         kicks:\twanted\ncalls:\twanted\nwaits_for:\t{waits_for}\nbackend:\ttap\n\
         interface:\ttap0\nworker:\t4720\n"
    )
}

/// A host with a guest on vhost-rnet, one on vhost-net, and one with an odd name on an older module
/// without debugfs.
pub fn usual() -> Fixture {
    let host = Fixture::new();
    host.write("sys/module/vhost_rnet/refcnt", "2\n");
    host.kernel_thread(2, "kthreadd", "0-7");
    host.process(
        4711,
        "qemu-system-x86",
        &["/usr/bin/qemu-system-x86_64", "-name", "guest=web"],
    );
    host.file(4711, 9, "/dev/vhost-rnet", &fdinfo(3, 4711, 1000));
    host.file(4711, 10, "/dev/net/tun", "iff:\ttap0\n");
    host.file(4711, 11, "/dev/net/tun", "iff:\ttap1\n");
    host.file(4711, 12, "socket:[1234]", "");
    host.thread(4711, 4720, "vhost-4711", "0-3");
    host.state(
        "4711-3",
        "owner:\t4711\nfeatures:\tversion_1 mrg_rxbuf\nworkers:\t4720\n",
    );
    host.queue("4711-3", "rx", &resting("packet"));
    host.queue("4711-3", "tx", &resting("kick"));
    host.interface("tap0", 7, 0x1003, true);
    host.process(5000, "qemu-system-x86", &["qemu", "-name", "old"]);
    host.file(5000, 5, "/dev/vhost-net", "");
    host.file(5000, 6, "/dev/net/tun", "iff:\ttap5\n");
    host.kernel_thread(5010, "vhost-5000", "0-7");
    host.process(
        6000,
        "crosvm",
        &["crosvm", "run", "--name", "odd\x1b[2J\"\\"],
    );
    host.file(6000, 4, "/dev/vhost-net (deleted)", &old_fdinfo(30));
    host.file(6000, 7, "/dev/tap12", "");
    host.thread(6000, 6001, "vhost-6000", "0-7");
    host.interface("macvtap0", 12, 0x1003, true);
    host
}
