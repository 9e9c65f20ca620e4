// SPDX-License-Identifier: GPL-2.0
//! Running traffic for a long time, to find leaks.

use std::time::Duration;

use anyhow::Result;
use selftests::host::census;

use crate::lab::flavor::Flavor;
use crate::lab::paths::Lab;
use crate::vm::device::{self, RNET};
use crate::vm::level1::{Output, Vm};

/// Time that the VM may take in addition to the time asked for.
const SLACK: Duration = Duration::from_secs(600);

/// Uses devices behind `device` for `minutes`; fails if resources leak.
pub fn run(lab: &Lab, device: &str, minutes: u64) -> Result<()> {
    let program = format!("/artifacts/rnet-soak --device {device} --minutes {minutes}");
    // If a count seems to grow, the program watches it for longer.
    let most = 60 * minutes * census::MOST_PERIODS / census::PERIODS;
    let outcome = Vm::new(lab, "soak")
        .limit(Duration::from_secs(most) + SLACK)
        .output(Output::Show)
        .run(&device::script(Flavor::Packaged, device == RNET, &program))?;
    outcome.check_status()?;
    outcome.check_kernel()
}
