// SPDX-License-Identifier: GPL-2.0
//! A real guest on each backend: the end-to-end run and the demo's table.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use rnet_e2e::{REPORT_MARK, Report};

use crate::flavor::Flavor;
use crate::guests;
use crate::paths::Lab;
use crate::steps::step;
use crate::vm::{Outcome, Output, Vm};

/// Our device.
pub const RNET: &str = "/dev/vhost-rnet";
/// The kernel's own, to compare with.
pub const C_VHOST: &str = "/dev/vhost-net";
/// No vhost: QEMU serves the rings.
pub const NO_VHOST: &str = "off";

/// Loads the module in a VM of this kernel.
pub fn insmod(flavor: Flavor) -> String {
    format!("insmod /artifacts/{} || exit 1\n", flavor.module())
}

/// Runs a guest on each of `backends` for `seconds` of TCP each way.
pub fn guests(lab: &Lab, backends: &[&str], seconds: u32) -> Result<(Outcome, Vec<Report>)> {
    guests_with(lab, Flavor::Packaged, backends, seconds, &[])
}

/// As [`guests`], on a kernel of choice, with `options` for the agent.
pub fn guests_with(
    lab: &Lab,
    flavor: Flavor,
    backends: &[&str],
    seconds: u32,
    options: &[&str],
) -> Result<(Outcome, Vec<Report>)> {
    let mut program = vec!["/artifacts/rnet-e2e".to_owned()];
    program.extend(guests::options(lab)?);
    program.push(format!("--seconds={seconds}"));
    program.extend(options.iter().map(|&option| option.to_owned()));
    program.extend(
        backends
            .iter()
            .map(|backend| format!("--backend={backend}")),
    );
    let script = guests::script(&program, flavor, backends.contains(&RNET));
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

/// Shows a guest's traffic through our device, the kernel's own and QEMU's.
pub fn run(lab: &Lab, backends: &[&str]) -> Result<()> {
    let (outcome, reports) = step("guests on each backend", || guests(lab, backends, 3))?;
    println!("{}", table(&reports));
    println!(
        "TCP by iperf3, 3 s each way, guest kernel {}; packets are the tap's, of up to 64 KiB \
         (GSO); logs in {}",
        lab.release()?,
        outcome.dir.display()
    );
    verdict(&outcome, &reports, backends.len())?;
    outcome.check_kernel()
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

fn table(reports: &[Report]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "backend",
        "boot s",
        "pings",
        "ping ms",
        "checked MiB",
        "guest sends Mbit/s",
        "guest receives Mbit/s",
        "packets out",
        "packets in",
        "calls",
    ]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for report in reports {
        table.add_row([
            report.backend.clone(),
            format!("{:.1}", report.boot_seconds),
            format!("{}/{}", report.ping.1, report.ping.0),
            format!("{:.2}", report.ping_ms),
            format!("{}", report.echoed >> 20),
            format!("{:.0}", report.guest_sends / 1e6),
            format!("{:.0}", report.guest_receives / 1e6),
            report.packets.0.to_string(),
            report.packets.1.to_string(),
            report.calls.to_string(),
        ]);
    }
    table
}
