// SPDX-License-Identifier: GPL-2.0
//! Whether the module works on arm64, whose processors order memory accesses weakly and whose kernel
//! has other addresses: a short run on its packaged kernel.

use std::time::Duration;

use crate::lab::flavor::Flavor;
use crate::lab::paths::Lab;
use crate::steps::step;
use crate::tests::cases::ARM64;
use crate::tests::tally::{Tally, title};
use crate::vm::device::{self, C_VHOST, RNET};
use crate::vm::level1::Vm;

/// Time limit on one device.
const LIMIT: Duration = Duration::from_secs(600);

/// Runs [`ARM64`] on both devices, after [`Flavor::ensure()`] and the build.
pub fn run(lab: &Lab, tally: &mut Tally) {
    let flavor = Flavor::Arm64;
    for device in [C_VHOST, RNET] {
        let name = title("selftest", flavor, device);
        let program = format!(
            "/artifacts/rnet-selftest --device {device} --patience {} {}",
            flavor.patience(),
            ARM64.join(" ")
        );
        let script = device::script(flavor, device == RNET, &program);
        let ran = step(&name, || {
            Vm::new(lab, &name).flavor(flavor).limit(LIMIT).run(&script)
        });
        tally.count_run(&name, ran);
    }
}
