// SPDX-License-Identifier: GPL-2.0
//! What runs a VM's processors, and whether hardware virtualisation works here.
//!
//! That `/dev/kvm` exists does not mean that it can run an ordinary kernel. So
//! one is booted to find out, once per boot of the host.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::lab::arch::Arch;
use crate::lab::flavor::Flavor;
use crate::lab::initramfs;
use crate::lab::paths::{INSIDE, Lab};
use crate::process;

/// What runs the VM's processors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accel {
    /// Emulation: slower, works everywhere, and emulates nested SVM.
    Tcg,
    /// Emulation in which one instruction is one virtual nanosecond.
    Icount,
    /// Hardware virtualisation.
    Kvm,
}

impl Accel {
    /// QEMU for a machine of `arch`, with the options that name machine, processor and accelerator.
    pub fn machine(self, arch: Arch) -> &'static str {
        match (arch, self) {
            // Without 5-level paging, the page walks of a nested guest are a third shorter, which
            // makes emulation noticeably faster.
            (Arch::Amd64, Self::Tcg) => {
                "qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max,+svm,-la57"
            }
            (Arch::Amd64, Self::Icount) => {
                "qemu-system-x86_64 -M q35 -accel tcg -icount shift=0,sleep=off -cpu max"
            }
            (Arch::Amd64, Self::Kvm) => "qemu-system-x86_64 -M q35 -accel kvm -cpu host",
            // The architecture's own authentication of pointers takes most of an emulator's time.
            (Arch::Arm64, Self::Icount) => {
                "qemu-system-aarch64 -M virt,gic-version=3 -accel tcg -icount shift=0,sleep=off \
                 -cpu max,pauth-impdef=on"
            }
            // The kernel starts at EL2, and so can run guests.
            (Arch::Arm64, Self::Tcg | Self::Kvm) => {
                "qemu-system-aarch64 -M virt,virtualization=on,gic-version=3 \
                 -accel tcg,thread=multi -cpu max,pauth-impdef=on"
            }
        }
    }
}

/// Time limit of booting a kernel under KVM.
const LIMIT: Duration = Duration::from_secs(30);

/// The result of the probe, with the host's boot and the kernel for which it holds.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Probe {
    boot_id: String,
    release: String,
    works: bool,
    nested: bool,
}

/// Returns the best way to run a VM of `arch`, which itself runs KVM guests if `nested`.
pub fn best(lab: &Lab, arch: Arch, nested: bool) -> Result<Accel> {
    if arch != Arch::Amd64 {
        return Ok(Accel::Tcg);
    }
    let probe = cached(lab)?;
    Ok(if probe.works && (probe.nested || !nested) {
        Accel::Kvm
    } else {
        Accel::Tcg
    })
}

fn cached(lab: &Lab) -> Result<Probe> {
    // One probe at a time, since they share a console.
    let _lock = lab.lock("kvm-probe.lock")?;
    let path = lab.dir().join("kvm-probe.json");
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("reading the host's boot id")?;
    let boot_id = boot_id.trim().to_owned();
    let release = lab.release()?;
    let known = std::fs::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Probe>(&bytes).ok());
    if let Some(probe) = known.filter(|p| p.boot_id == boot_id && p.release == release) {
        return Ok(probe);
    }
    let said = boot(lab)?;
    let probe = Probe {
        boot_id,
        release,
        works: said.is_some(),
        nested: said.is_some_and(|said| said.contains("svm") || said.contains("vmx")),
    };
    let mut file = tempfile::NamedTempFile::new_in(lab.dir())?;
    serde_json::to_writer(&mut file, &probe)?;
    file.persist(path)?;
    Ok(probe)
}

/// Boots a kernel under KVM; returns the line in which its init reports.
fn boot(lab: &Lab) -> Result<Option<String>> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(None);
    }
    eprintln!(
        "Probing whether KVM runs a kernel here (at most {} s)",
        LIMIT.as_secs()
    );
    let initrd = initramfs::level1(lab, Flavor::Packaged)?;
    let image = Flavor::Packaged.image(lab)?;
    std::fs::create_dir_all(lab.logs())?;
    let console = lab.logs().join("kvm-probe.log");
    std::fs::write(&console, "")?;
    let words = format!(
        "qemu-system-x86_64 -accel kvm -cpu host -M q35 -smp 2 -m 512M -nodefaults \
         -no-user-config -display none -no-reboot -kernel {INSIDE}/{image} \
         -initrd {INSIDE}/{initrd} -serial file:{INSIDE}/logs/kvm-probe.log"
    );
    let mut args: Vec<&str> = words.split_whitespace().collect();
    args.extend(["-append", "console=ttyS0 panic=-1 rnet.probe"]);
    // A failure is the answer that KVM does not work here, not an error.
    let ended = process::run_logged(
        &mut lab.chroot().command(&args),
        &lab.logs().join("kvm-probe-qemu.log"),
        LIMIT,
    );
    let log = std::fs::read(&console).unwrap_or_default();
    let said = String::from_utf8_lossy(&log)
        .lines()
        .find(|line| line.contains("rnet-probe booted"))
        .map(str::to_owned);
    Ok(said.filter(|_| ended.is_ok()))
}
