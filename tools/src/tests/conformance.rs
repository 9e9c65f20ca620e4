// SPDX-License-Identifier: GPL-2.0
//! Comparing both devices ioctl by ioctl, and checking that the comparison has every ioctl.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use selftests::conformance::ioctls;

use crate::lab::flavor::Flavor;
use crate::lab::paths::Lab;
use crate::process::shell_quote;
use crate::steps::step;
use crate::tests::tally::Tally;
use crate::vm::device;
use crate::vm::level1::{Outcome, Output, Vm};

/// Time limit of the VM.
const LIMIT: Duration = Duration::from_secs(3000);

/// Compares the devices.
pub fn run(lab: &Lab, tally: &mut Tally) {
    let name = "conformance";
    tally.count(&format!("{name}: calls of the header"), complete(lab));
    let ran = step(name, || compare(lab, &[], Output::Quiet));
    tally.count_run(name, ran);
}

/// Runs the comparison with `options` for its program.
pub fn compare(lab: &Lab, options: &[String], output: Output) -> Result<Outcome> {
    // Closing a device waits for an RCU grace period, and this closes thousands.
    let program = format!("/artifacts/rnet-conformance {}", shell_quote(options));
    let script = format!(
        "echo 1 > /sys/kernel/rcu_expedited\n{}",
        device::script(Flavor::Packaged, true, &program)
    );
    Vm::new(lab, "conformance")
        .limit(LIMIT)
        .output(output)
        .run(&script)
}

/// Fails if the kernel's header has an ioctl that is not compared.
fn complete(lab: &Lab) -> Result<()> {
    let path = lab.kernel().join("include/uapi/linux/vhost.h");
    let header =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let missing = ioctls::missing(&header);
    ensure!(
        missing.is_empty(),
        "not in the table of ioctls: {}",
        missing.join(", ")
    );
    Ok(())
}
