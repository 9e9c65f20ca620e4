// SPDX-License-Identifier: GPL-2.0
//! Devices in use for long.

use std::time::Duration;

use anyhow::Result;
use selftests::host::census;

use crate::lab::flavor::Flavor;
use crate::lab::paths::Lab;
use crate::vm::device::{self, RNET};
use crate::vm::level1::{Output, Vm};

/// What the VM may take beside the time asked for.
const SLACK: Duration = Duration::from_secs(600);

/// Uses devices behind `device` for so many minutes; fails if something stays behind.
pub fn run(lab: &Lab, device: &str, minutes: u64) -> Result<()> {
    let (load, unload) = match device {
        RNET => (
            device::insmod(Flavor::Packaged),
            "rmmod vhost_rnet || exit 1\n",
        ),
        _ => (String::new(), ""),
    };
    // What seems to grow is watched for longer.
    let most = 60 * minutes * census::MOST_PERIODS / census::PERIODS;
    let outcome = Vm::new(lab, "soak")
        .limit(Duration::from_secs(most) + SLACK)
        .output(Output::Show)
        .run(&format!(
            "{load}/artifacts/rnet-soak --device {device} --minutes {minutes}\n\
             status=$?\n\
             {unload}exit $status\n"
        ))?;
    outcome.check_status()?;
    outcome.check_kernel()
}
