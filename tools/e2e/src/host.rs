// SPDX-License-Identifier: GPL-2.0
//! Level 1's side of the guest's network: the tap, the servers, KVM.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use selftests::sys::kvm;

use crate::arch::Arch;

/// Level 1's address on the tap.
pub const ADDRESS: &str = "10.77.0.1";
/// The guest's address.
pub const GUEST_ADDRESS: &str = "10.77.0.2";
/// The network of all guest addresses, also on VLANs.
const GUEST_ADDRESSES: &str = "10.77.0.0/16";
/// The tap's name.
pub const TAP: &str = "rnet0";

/// KVM, kept in use until this is dropped.
///
/// KVM changes code of the scheduler when its first virtual machine comes and when its last one goes,
/// by a static key (`preempt_notifier_key`). Under emulation, the other processor may run that code at
/// the same time and take the breakpoint there for its own (`Oops: int3` in `finish_task_switch`). One
/// machine that never runs keeps the code as it is while guests come and go.
pub struct Kvm {
    _idle: OwnedFd,
}

/// Loads KVM for the processor at hand, and keeps it in use.
///
/// # Errors
///
/// When the processor has no virtualisation.
pub fn load_kvm() -> Result<Kvm> {
    // The kernel of arm64 has it built in.
    if Arch::HERE == Arch::Amd64 {
        run("modprobe", &[kvm_module()?])?;
    }
    let _idle = kvm::create_vm().context("creating a virtual machine")?;
    Ok(Kvm { _idle })
}

/// The module with the KVM of this x86 processor.
fn kvm_module() -> Result<&'static str> {
    let flags = std::fs::read_to_string("/proc/cpuinfo")?;
    if flags.contains(" svm") {
        Ok("kvm-amd")
    } else if flags.contains(" vmx") {
        Ok("kvm-intel")
    } else {
        bail!("this VM's processor has no virtualisation");
    }
}

/// Returns whether this VM runs on an emulated x86 processor, the one whose virtualisation has faults.
/// An emulated arm64 one does not go by this name.
pub fn emulated() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|info| info.contains("TCG"))
}

/// A tap, with the address that the guest talks to. Removed when dropped.
pub struct Tap;

impl Tap {
    /// Creates it for a guest with so many queue pairs.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn new(queues: u32) -> Result<Self> {
        add_tap(TAP, queues)?;
        let tap = Self;
        run(
            "ip",
            &["address", "add", &format!("{ADDRESS}/24"), "dev", TAP],
        )?;
        run("ip", &["link", "set", TAP, "up"])?;
        Ok(tap)
    }

    /// Packets that the tap took from the guest and gave to it.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn packets(&self) -> Result<(u64, u64)> {
        let read = |name: &str| -> Result<u64> {
            let path = format!("/sys/class/net/{TAP}/statistics/{name}");
            let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
            Ok(text.trim().parse()?)
        };
        Ok((read("rx_packets")?, read("tx_packets")?))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        remove(&[TAP]);
    }
}

/// Removes links after the guest behind them has ended, and kills connections that it left open.
///
/// Such connections would retransmit over the links of the next guest. Their ARP requests come before
/// that guest has its address, and the first packets to it are dropped when such a request fails.
pub fn remove(links: &[&str]) {
    let attempt = |program: &str, args: &[&str]| {
        if let Err(error) = run(program, args) {
            eprintln!("{error:#}");
        }
    };
    let connections = ["--no-header", "--kill", "--tcp", "dst", GUEST_ADDRESSES];
    attempt("ss", &connections);
    for link in links {
        attempt("ip", &["link", "delete", link]);
    }
}

/// Creates a tap called `name` for a guest with so many queue pairs.
///
/// # Errors
///
/// When the kernel refuses.
pub fn add_tap(name: &str, queues: u32) -> Result<()> {
    let mut words = vec!["tuntap", "add", name, "mode", "tap", "vnet_hdr"];
    if queues > 1 {
        words.push("multi_queue");
    }
    run("ip", &words)?;
    // Autoconfiguration would add packets of its own to the counters.
    let knob = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    if std::fs::exists(&knob)? {
        std::fs::write(&knob, "1").with_context(|| format!("writing {knob}"))?;
    }
    Ok(())
}

/// An iperf3 server. Ended when dropped.
pub struct Iperf(Child);

impl Iperf {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// When it is missing.
    pub fn new() -> Result<Self> {
        let child = Command::new("iperf3")
            .arg("-s")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("starting iperf3")?;
        Ok(Self(child))
    }
}

impl Drop for Iperf {
    fn drop(&mut self) {
        // An error means that it has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program, and returns what it writes to its standard output.
///
/// # Errors
///
/// When it fails.
pub fn output(program: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let words = args.join(" ");
        bail!("{} {words}: {}: {text}", program.display(), output.status);
    }
    Ok(text)
}

/// Runs a program, and ignores its output.
///
/// # Errors
///
/// When it fails.
pub fn run(program: &str, args: &[&str]) -> Result<()> {
    let status = Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("starting {program}"))?;
    if !status.success() {
        bail!("{program} {}: {status}", args.join(" "));
    }
    Ok(())
}
