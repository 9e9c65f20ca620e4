// SPDX-License-Identifier: GPL-2.0
//! Whether the module's build refuses kernels that the module is not for, and says why.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::lab::build::{self, SOURCE};
use crate::lab::chroot::Access;
use crate::lab::flavor::Flavor;
use crate::lab::kernel::TREE;
use crate::lab::paths::{INSIDE, Lab};
use crate::process;

/// Kernels, by what the tree of the packaged one then says of itself, and a part of the reason.
const KERNELS: &[(&[&str], &str)] = &[
    (&["VERSION=6", "PATCHLEVEL=18"], "and this is 6.18"),
    (&["VERSION=7", "PATCHLEVEL=1"], "and this is 7.1"),
    (&["CONFIG_RUST="], "needs a kernel with CONFIG_RUST"),
];

/// Where the output would go, relative to the lab.
const OUTPUT: &str = "build-refused";

/// Time limit of one build.
const LIMIT: Duration = Duration::from_secs(60);

/// Tries to build for each of [`KERNELS`].
///
/// # Errors
///
/// When a build succeeds, or fails for another reason.
pub fn check(lab: &Lab) -> Result<()> {
    let log = lab.logs().join(format!("{OUTPUT}.log"));
    let compiler = Flavor::Packaged.compiler(lab)?;
    for (kernel, reason) in KERNELS {
        let output = lab.dir().join(OUTPUT);
        std::fs::create_dir_all(&output)?;
        let words = format!(
            "make -C {INSIDE}/{TREE} M={SOURCE} MO={INSIDE}/{OUTPUT} CC={compiler} modules"
        );
        let mut args: Vec<&str> = words.split(' ').collect();
        args.extend(*kernel);
        let mut make = lab
            .chroot()
            .bind(&build::checkout(), SOURCE, Access::ReadOnly)
            .command(&args);
        let built = process::run_logged_anew(&mut make, &log, LIMIT);
        std::fs::remove_dir_all(&output)?;
        let text = std::fs::read_to_string(&log)?;
        let Err(error) = built else {
            bail!("{kernel:?}: built");
        };
        if !text.contains(reason) {
            return Err(error.context(format!("{kernel:?}: not refused as {reason:?}")));
        }
    }
    Ok(())
}
