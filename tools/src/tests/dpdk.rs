// SPDX-License-Identifier: GPL-2.0
//! DPDK's virtio-user driver on both devices, with split rings and, on ours, packed ones.

use std::time::Duration;

use crate::lab::flavor::Flavor;
use crate::lab::paths::Lab;
use crate::steps::step;
use crate::tests::tally::Tally;
use crate::vm::device::{self, C_VHOST, RNET};
use crate::vm::level1::Vm;

/// Time limit of all variants on one device.
const LIMIT: Duration = Duration::from_secs(900);

/// Runs all variants on both devices.
pub fn run(lab: &Lab, tally: &mut Tally) {
    for device in [C_VHOST, RNET] {
        let name = format!("dpdk {device}");
        let program = format!("/artifacts/rnet-dpdk --device {device} --logs /out");
        let ran = step(&name, || {
            let script = device::script(Flavor::Packaged, device == RNET, &program);
            Vm::new(lab, &name).limit(LIMIT).run(&script)
        });
        tally.count_run(&name, ran);
    }
}
