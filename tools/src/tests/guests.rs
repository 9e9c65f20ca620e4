// SPDX-License-Identifier: GPL-2.0
//! QEMU guests of each kind on both devices, and live migration between them.

use std::time::Duration;

use anyhow::Result;

use crate::lab::flavor::Flavor;
use crate::lab::paths::Lab;
use crate::process::shell_quote;
use crate::steps::step;
use crate::tests::tally::Tally;
use crate::vm::device::{self, C_VHOST, RNET};
use crate::vm::guest::boot_options;
use crate::vm::level1::{Outcome, Output, Vm};

/// Time limit of all guests on one device.
const LIMIT: Duration = Duration::from_secs(1500);

/// Runs all kinds of guests on both devices, and moves them between devices.
pub fn run(lab: &Lab, tally: &mut Tally) {
    for device in [C_VHOST, RNET] {
        let name = format!("guests {device}");
        let ran = step(&name, || kinds(lab, device, &[], Output::Quiet));
        tally.count_run(&name, ran);
    }
    let ran = step("migration", || migrations(lab, &[], Output::Quiet));
    tally.count_run("migration", ran);
}

/// Moves guests along `ways`, or all; reports in KTAP. A way is two devices with a colon between
/// them, and ":packed" for packed rings.
pub fn migrations(lab: &Lab, ways: &[String], output: Output) -> Result<Outcome> {
    let mut all = [C_VHOST, RNET]
        .map(|from| [C_VHOST, RNET].map(|to| format!("{from}:{to}")))
        .concat();
    all.push(format!("{RNET}:{RNET}:packed"));
    let ways = if ways.is_empty() { &all } else { ways };
    let mut program = vec!["/artifacts/rnet-migrate".to_owned()];
    program.extend(boot_options(lab)?);
    program.extend(ways.iter().map(|way| format!("--way={way}")));
    Vm::new(lab, "migration")
        .nested()
        .limit(LIMIT)
        .output(output)
        .run(&device::script(
            Flavor::Packaged,
            true,
            &shell_quote(&program),
        ))
}

/// Runs the kinds of guests whose name contains one of `filter`, or all, on `device`; they report
/// in KTAP.
pub fn kinds(lab: &Lab, device: &str, filter: &[String], output: Output) -> Result<Outcome> {
    let mut program = vec!["/artifacts/rnet-guests".to_owned()];
    program.extend(["--device", device].map(str::to_owned));
    program.extend(boot_options(lab)?);
    program.extend_from_slice(filter);
    Vm::new(lab, &format!("guests {device}"))
        .nested()
        .limit(LIMIT)
        .output(output)
        .run(&device::script(
            Flavor::Packaged,
            device == RNET,
            &shell_quote(&program),
        ))
}
