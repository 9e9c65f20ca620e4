// SPDX-License-Identifier: GPL-2.0
//! QEMU guests of each kind on both devices, and live migration between them.

use std::time::Duration;

use anyhow::Result;

use crate::lab::arch::Arch;
use crate::lab::flavor::Flavor;
use crate::lab::layers::Layer;
use crate::lab::paths::Lab;
use crate::process::shell_quote;
use crate::steps::step;
use crate::tests::extent::Extent;
use crate::tests::tally::{Tally, title};
use crate::vm::device::{self, C_VHOST, RNET};
use crate::vm::guest::boot_options;
use crate::vm::level1::{Outcome, Output, Vm};

/// Time limit of all guests on one device.
const LIMIT: Duration = Duration::from_secs(1500);

/// Runs guests on both devices, and moves them between devices.
pub fn run(lab: &Lab, extent: Extent, tally: &mut Tally) {
    for device in [C_VHOST, RNET] {
        let name = format!("guests {device}");
        let all = Kinds {
            extent,
            ..Kinds::of(device)
        };
        let ran = step(&name, || kinds(lab, &all, Output::Quiet));
        tally.count_run(&name, ran);
    }
    let ways = ways(extent);
    let ran = step("migration", || migrations(lab, &ways, Output::Quiet));
    tally.count_run("migration", ran);
}

/// The ways along which guests are moved: two devices with a colon between them, and ":packed" for
/// packed rings.
pub fn ways(extent: Extent) -> Vec<String> {
    let pair = |from, to| format!("{from}:{to}");
    let mut ways = vec![
        pair(C_VHOST, RNET),
        pair(RNET, C_VHOST),
        format!("{RNET}:{RNET}:packed"),
    ];
    // The short run has both devices at both ends.
    if extent == Extent::Long {
        ways.extend([C_VHOST, RNET].map(|device| pair(device, device)));
    }
    ways
}

/// Moves guests along `ways`; reports in KTAP.
pub fn migrations(lab: &Lab, ways: &[String], output: Output) -> Result<Outcome> {
    let mut program = vec!["/artifacts/rnet-migrate".to_owned()];
    program.extend(boot_options(lab, Arch::Amd64)?);
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

/// Which guests to run, and where.
pub struct Kinds<'a> {
    /// The device that they run on.
    pub device: &'a str,
    /// The architecture, of whose newest package both the VM's kernel and theirs are.
    pub arch: Arch,
    /// The layer with the QEMU to take.
    pub layer: Option<Layer>,
    /// Only those with one of these in their names; all, if there are none.
    pub filter: &'a [String],
    /// Whether also those that a short run leaves out.
    pub extent: Extent,
}

impl<'a> Kinds<'a> {
    /// All, as they are usually run on `device`.
    pub fn of(device: &'a str) -> Self {
        Self {
            device,
            arch: Arch::Amd64,
            layer: None,
            filter: &[],
            extent: Extent::Long,
        }
    }
}

/// Runs guests of some kinds; they report in KTAP.
///
/// # Errors
///
/// When the VM does not end in an orderly way.
pub fn kinds(lab: &Lab, kinds: &Kinds<'_>, output: Output) -> Result<Outcome> {
    let Kinds { device, arch, .. } = *kinds;
    let flavor = Flavor::newest(arch);
    let mut program = vec!["/artifacts/rnet-guests".to_owned()];
    program.extend(["--device", device].map(str::to_owned));
    program.extend(boot_options(lab, arch)?);
    if kinds.extent == Extent::Short {
        program.push("--short".to_owned());
    }
    program.extend_from_slice(kinds.filter);
    Vm::new(lab, &title("guests", flavor, device))
        .flavor(flavor)
        .layer(kinds.layer)
        .nested()
        .limit(LIMIT)
        .output(output)
        .run(&device::script(
            flavor,
            device == RNET,
            &shell_quote(&program),
        ))
}
