// SPDX-License-Identifier: GPL-2.0
//! A guest of libvirt on both devices.

use std::time::Duration;

use anyhow::Result;

use crate::lab::arch::Arch;
use crate::lab::flavor::Flavor;
use crate::lab::layers::Layer;
use crate::lab::paths::Lab;
use crate::process::shell_quote;
use crate::steps::step;
use crate::tests::tally::Tally;
use crate::vm::device::{self, C_VHOST, RNET};
use crate::vm::guest::boot_options;
use crate::vm::level1::{Outcome, Output, Vm};

/// Time limit of the guest on one device.
const LIMIT: Duration = Duration::from_secs(1200);

/// What our package adds to the profile that libvirt has AppArmor confine QEMU by.
const PROFILE: &str = include_str!("../../packaging/files/apparmor/vhost-rnet");

/// Where it goes.
const PROFILE_DIR: &str = "/etc/apparmor.d/abstractions/libvirt-qemu.d";

/// Runs the guest on both devices.
pub fn run(lab: &Lab, tally: &mut Tally) {
    for device in [C_VHOST, RNET] {
        let name = format!("libvirt {device}");
        let ran = Layer::Libvirt
            .ensure(lab)
            .and_then(|()| step(&name, || guest(lab, device, Output::Quiet)));
        tally.count_run(&name, ran);
    }
}

/// Runs the guest on `device`; it reports in KTAP.
///
/// # Errors
///
/// When the VM does not end in an orderly way.
pub fn guest(lab: &Lab, device: &str, output: Output) -> Result<Outcome> {
    let mut program = vec!["/artifacts/rnet-libvirt".to_owned()];
    program.extend(["--device", device].map(str::to_owned));
    program.extend(boot_options(lab, Arch::Amd64)?);
    let profile = format!(
        "mkdir -p {PROFILE_DIR}\nprintf %s {} > {PROFILE_DIR}/vhost-rnet\n",
        shell_quote(&[PROFILE])
    );
    let script = device::script(Flavor::Packaged, device == RNET, &shell_quote(&program));
    Vm::new(lab, &format!("libvirt {device}"))
        .layer(Some(Layer::Libvirt))
        .nested()
        .limit(LIMIT)
        .output(output)
        .run(&format!("{profile}{script}"))
}
