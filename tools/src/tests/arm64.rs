// SPDX-License-Identifier: GPL-2.0
//! Whether the module works on arm64, whose processors order memory accesses weakly and whose kernel
//! has other addresses: a run of some tests on its packaged kernel.

use std::time::Duration;

use crate::lab::arch::Arch;
use crate::lab::flavor::Flavor;
use crate::lab::paths::Lab;
use crate::steps::step;
use crate::tests::cases::ARM64;
use crate::tests::extent::Extent;
use crate::tests::guests::{self, Kinds};
use crate::tests::tally::{Tally, title};
use crate::vm::device::{self, C_VHOST, RNET};
use crate::vm::level1::{Output, Vm};

/// Time limit of [`ARM64`] on one device.
const LIMIT: Duration = Duration::from_secs(600);

/// The kinds of guests that are run.
const GUESTS: [&str; 2] = ["usual", "packed_inverse"];

/// Runs [`ARM64`] on both devices, after [`Flavor::ensure()`] and the build; in a long run also guests.
pub fn run(lab: &Lab, extent: Extent, tally: &mut Tally) {
    selftests(lab, tally);
    if extent == Extent::Long {
        guests(lab, tally);
    }
}

/// Runs guests on both devices: KVM runs them on a processor whose virtualisation is emulated, too.
fn guests(lab: &Lab, tally: &mut Tally) {
    let filter = GUESTS.map(str::to_owned);
    for device in [C_VHOST, RNET] {
        let kinds = Kinds {
            arch: Arch::Arm64,
            filter: &filter,
            ..Kinds::of(device)
        };
        let name = title("guests", Flavor::Arm64, device);
        let ran = step(&name, || guests::kinds(lab, &kinds, Output::Quiet));
        tally.count_run(&name, ran);
    }
}

/// Runs [`ARM64`] on both devices.
fn selftests(lab: &Lab, tally: &mut Tally) {
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
