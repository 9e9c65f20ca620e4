// SPDX-License-Identifier: GPL-2.0
//! A guest of libvirt, whose interfaces a vhost device serves, reported in KTAP.
//!
//! The daemons are configured as Debian ships them. The guest starts with one interface, then interfaces
//! are detached and attached while it runs.

mod daemon;
mod domain;
mod steps;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use rnet_e2e::files::Files;
use rnet_e2e::{host, stream};

use daemon::Libvirt;
use domain::BOOT;
use steps::{Run, STEPS};

/// What the harness calls the guest, in the names of logs.
const NAME: &str = "libvirt";

/// Runs a guest of libvirt on a vhost device.
#[derive(Parser)]
struct Cli {
    /// The device.
    #[arg(long)]
    device: String,
    #[command(flatten)]
    files: Files,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let _kvm = host::load_kvm()?;
    host::run("modprobe", &["--all", "macvtap", "veth", "bridge"])?;
    // As udev's rules have them, of Debian and of ours.
    for device in ["/dev/kvm", &cli.device] {
        host::run("chgrp", &["kvm", device])?;
        host::run("chmod", &["0660", device])?;
    }
    for (from, to) in [&cli.files.kernel, &cli.files.initramfs]
        .into_iter()
        .zip(BOOT)
    {
        fs::copy(from, to).with_context(|| from.display().to_string())?;
        host::run("chmod", &["0644", to])?;
    }
    load_profiles()?;
    let streams = stream::serve()?;
    let libvirt = Libvirt::start(&cli.files.logs)?;
    println!("KTAP version 1\n1..{}", STEPS.len());
    let results = cli.files.attempt(&[NAME], || {
        // Results of an earlier guest must not count for this one.
        while streams.try_recv().is_ok() {}
        // Nor must what its QEMU said; there is no log before the first.
        let _ = fs::remove_file(domain::QEMU_LOG);
        let mut run = Run::new(&cli.device, &libvirt, &streams);
        let results = run.all();
        keep_logs(&cli.files.logs);
        results
    });
    let mut failed = 0;
    for (number, (name, result)) in (1..).zip(results) {
        if let Err(error) = result {
            failed += 1;
            for line in error.lines() {
                println!("# {line}");
            }
            print!("not ");
        }
        println!("ok {number} {name}");
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Has AppArmor confine libvirt as it does on Debian, and libvirt then confine QEMU.
fn load_profiles() -> Result<()> {
    let security = "/sys/kernel/security";
    host::run("mount", &["-t", "securityfs", "securityfs", security])?;
    let profiles = ["usr.sbin.libvirtd", "usr.lib.libvirt.virt-aa-helper"];
    let [daemon, helper] = profiles.map(|name| format!("/etc/apparmor.d/{name}"));
    host::run("apparmor_parser", &["--replace", &daemon, &helper])
}

/// Copies the logs of QEMU and of the guest's console to where the harness looks for them.
fn keep_logs(logs: &Path) {
    for (from, suffix) in [(domain::QEMU_LOG, ""), (domain::CONSOLE, "-console")] {
        let to = logs.join(format!("{NAME}{suffix}.log"));
        if let Err(error) = fs::copy(from, &to) {
            eprintln!("{from}: {error}");
        }
    }
}
