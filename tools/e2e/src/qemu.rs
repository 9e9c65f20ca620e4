// SPDX-License-Identifier: GPL-2.0
//! The command that starts a guest's QEMU.

use std::process::Command;

use crate::arch::{Arch, Iommu};
use crate::files::Files;
use crate::host;
use crate::pulse;

/// The backend without a vhost device: QEMU serves the rings.
pub const NO_VHOST: &str = "off";

/// The number of the first file descriptor of the vhost device; there is one per queue pair.
pub const FIRST_FD: i32 = 3;

/// How a guest differs from the usual one; all strings are parts of QEMU's options.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether the guest's firmware fetches the kernel over the network, and QEMU does not load it.
    pub firmware: bool,
    /// Queue pairs.
    pub queues: u32,
    /// Memory, for `-m`.
    pub memory: &'static str,
    /// Whether an IOMMU translates for its network device.
    pub iommu: bool,
    /// Properties of the tap's netdev, each with a comma before it.
    pub netdev: &'static str,
    /// Properties of the guest's network device, likewise.
    pub nic: &'static str,
    /// More of the kernel's command line.
    pub append: &'static str,
}

impl Options {
    /// A guest with nothing special.
    pub const USUAL: Self = Self {
        firmware: false,
        queues: 1,
        memory: "512M",
        iommu: false,
        netdev: "",
        nic: "",
        append: "",
    };

    /// What its IOMMU takes, if it has one.
    fn iommu(&self) -> Iommu {
        match self.iommu {
            true => Arch::HERE.iommu(),
            false => Iommu::default(),
        }
    }

    /// The command line of the guest's kernel.
    #[must_use]
    pub fn kernel_line(&self) -> String {
        // Under emulated SVM, each access to a device register takes almost a
        // millisecond: the guest gets few devices and skips self-tests.
        let mut line = format!(
            "{} panic=-1 quiet mitigations=off cryptomgr.notests \
             initcall_blacklist=load_system_certificate_list{} {}",
            Arch::HERE.kernel_line(),
            self.iommu().append,
            self.append
        );
        if host::emulated() {
            // Emulated SVM does not restore all of the extended state.
            line.push_str(" noxsave");
        }
        line
    }
}

/// The command that starts QEMU, whose tap is described by `tap`.
#[must_use]
pub fn command(files: &Files, name: &str, backend: &str, tap: &str, options: &Options) -> Command {
    let Options {
        firmware,
        queues,
        memory,
        iommu: _,
        netdev,
        nic,
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
        "{qemu} -accel kvm -cpu host -M {usual}{graphics}{more} \
         -smp 1 -m {memory} -nodefaults -no-user-config -display none -no-reboot \
         -serial file:{logs}/{name}-console.log {iommu} \
         -netdev tap,id=net,{tap},{vhost}{netdev} \
         -device virtio-net-pci,netdev=net,{rom},mac=52:54:00:12:34:56{nic} \
         -mon chardev=qmp,mode=control \
         -device virtio-serial-pci -device virtserialport,chardev=shell,name=shell \
         -device virtserialport,chardev={pulse},name={pulse}",
        qemu = Arch::HERE.qemu(),
        usual = Arch::HERE.machine(),
        more = options.iommu().machine,
        iommu = options.iommu().device,
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

/// Formats file descriptors as QEMU's options expect them.
pub fn numbers(fds: impl Iterator<Item = i32>) -> String {
    fds.map(|fd| fd.to_string()).collect::<Vec<_>>().join(":")
}
