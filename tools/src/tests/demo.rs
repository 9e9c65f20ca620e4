// SPDX-License-Identifier: GPL-2.0
//! The demo: a QEMU guest on each backend, and a table of its traffic.

use anyhow::Result;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use rnet_e2e::Report;

use crate::lab::paths::Lab;
use crate::steps::step;
use crate::vm::guest;

/// Shows a guest's traffic through our device, the kernel's own and QEMU's.
pub fn run(lab: &Lab, backends: &[&str]) -> Result<()> {
    let (outcome, reports) = step("guests on each backend", || guest::run(lab, backends, 3))?;
    println!("{}", table(&reports));
    println!(
        "TCP by iperf3, 3 s each way, guest kernel {}; packets are the tap's, of up to 64 KiB \
         (GSO); logs in {}",
        lab.release()?,
        outcome.dir.display()
    );
    guest::verdict(&outcome, &reports, backends.len())?;
    outcome.check_kernel()
}

fn table(reports: &[Report]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
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
