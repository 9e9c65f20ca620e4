// SPDX-License-Identifier: GPL-2.0
//! QEMU guests (level 2) inside the level 1 VM.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rnet_e2e::{REPORT_MARK, Report};

use crate::lab::arch::Arch;
use crate::lab::flavor::Flavor;
use crate::lab::paths::Lab;
use crate::lab::{build, initramfs};
use crate::process::shell_quote;
use crate::vm::device::{self, RNET};
use crate::vm::level1::{Outcome, Output, Vm};

/// Runs a guest on each of `backends` for `seconds` of TCP each way.
pub fn run(lab: &Lab, backends: &[&str], seconds: u32) -> Result<(Outcome, Vec<Report>)> {
    run_with(lab, Flavor::Packaged, backends, seconds, &[])
}

/// As [`run`], on a kernel of choice, with `options` for the agent.
pub fn run_with(
    lab: &Lab,
    flavor: Flavor,
    backends: &[&str],
    seconds: u32,
    options: &[&str],
) -> Result<(Outcome, Vec<Report>)> {
    let mut program = vec!["/artifacts/rnet-e2e".to_owned()];
    program.extend(boot_options(lab, flavor.arch())?);
    program.push(format!("--seconds={seconds}"));
    program.extend(options.iter().map(|&option| option.to_owned()));
    program.extend(
        backends
            .iter()
            .map(|backend| format!("--backend={backend}")),
    );
    let script = device::script(flavor, backends.contains(&RNET), &shell_quote(&program));
    let name = backends
        .first()
        .unwrap_or(&"guests")
        .trim_start_matches("/dev/");
    let outcome = Vm::new(lab, &format!("guest-{name}"))
        .flavor(flavor)
        .nested()
        .limit(Duration::from_secs(600))
        .output(Output::Quiet)
        .run(&script)?;
    let reports = outcome
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix(REPORT_MARK))
        .map(|json| serde_json::from_str(json).context("reading a guest's report"))
        .collect::<Result<_>>()?;
    Ok((outcome, reports))
}

/// Fails unless all of the guests that should have run worked.
pub fn verdict(outcome: &Outcome, reports: &[Report], expected: usize) -> Result<()> {
    for report in reports {
        if let Some(error) = &report.error {
            bail!(
                "{}: {error}; logs in {}",
                report.backend,
                outcome.dir.display()
            );
        }
    }
    outcome.check_status()?;
    if reports.len() != expected {
        bail!("{} of {expected} guests reported", reports.len());
    }
    Ok(())
}

/// Options of programs that run guests of `arch`: what to boot, and where logs go.
pub fn boot_options(lab: &Lab, arch: Arch) -> Result<[String; 6]> {
    let initramfs = initramfs::guest(lab, arch)?;
    let artifacts = lab.dir().join(arch.artifacts());
    build::publish(
        &lab.dir().join(initramfs),
        &artifacts.join("initramfs-guest"),
    )?;
    let kernel = match arch {
        Arch::Amd64 => format!("/{}", Flavor::Packaged.image(lab)?),
        // In the VM's root file system.
        Arch::Arm64 => {
            let image = Flavor::Arm64.image(lab)?;
            let path = image.strip_prefix(arch.rootfs());
            path.with_context(|| image.clone())?.to_owned()
        }
    };
    Ok([
        "--initramfs",
        "/artifacts/initramfs-guest",
        "--kernel",
        &kernel,
        "--logs",
        "/out",
    ]
    .map(str::to_owned))
}
