// SPDX-License-Identifier: GPL-2.0
//! Whether the module's build refuses kernels that the module is not for, and says why.

use std::time::Duration;

use anyhow::{Context, Result, bail};

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

/// Trees given to `make`, by their configuration, whether they have Rust metadata, and a part of the
/// reason why each is refused.
const TREES: &[(Option<&str>, bool, &str)] = &[
    (None, false, ".config is missing"),
    (Some("CONFIG_MODULES=y"), false, "without CONFIG_RUST=y"),
    (Some("CONFIG_RUST=y"), false, "has no Rust metadata"),
    (
        Some("CONFIG_RUST=y\nCONFIG_RUSTC_VERSION_TEXT=\"rustc 1.0.0\""),
        true,
        "was built with rustc 1.0.0, and rustc is rustc",
    ),
];

/// Where the output would go, relative to the lab.
const OUTPUT: &str = "build-refused";

/// Time limit of one build.
const LIMIT: Duration = Duration::from_secs(60);

/// Tries to build for each of [`KERNELS`], and with each of [`TREES`].
///
/// # Errors
///
/// When a build succeeds, or fails for another reason, or tells no command that mends it.
pub fn check(lab: &Lab) -> Result<()> {
    let compiler = Flavor::Packaged.compiler(lab)?;
    let output = lab.dir().join(OUTPUT);
    for (kernel, reason) in KERNELS {
        std::fs::create_dir_all(&output)?;
        let words = format!(
            "make -C {INSIDE}/{TREE} M={SOURCE} MO={INSIDE}/{OUTPUT} CC={compiler} modules"
        );
        let mut args: Vec<&str> = words.split(' ').collect();
        args.extend(*kernel);
        let refused = refused(lab, &args, &[reason]);
        std::fs::remove_dir_all(&output)?;
        refused.with_context(|| format!("{kernel:?}"))?;
    }
    for (config, metadata, reason) in TREES {
        std::fs::create_dir_all(output.join("rust"))?;
        if let Some(config) = config {
            std::fs::write(output.join(".config"), config)?;
        }
        for file in ["libkernel.rmeta", "libmacros.so"] {
            if *metadata {
                std::fs::write(output.join("rust").join(file), "")?;
            }
        }
        let words = format!("make -C {SOURCE} KDIR={INSIDE}/{OUTPUT} all");
        let args: Vec<&str> = words.split(' ').collect();
        let refused = refused(lab, &args, &[reason, " run: "]);
        std::fs::remove_dir_all(&output)?;
        refused?;
    }
    Ok(())
}

/// Fails unless the build `words` fails and says all of `parts` in one line.
fn refused(lab: &Lab, words: &[&str], parts: &[&str]) -> Result<()> {
    let log = lab.logs().join(format!("{OUTPUT}.log"));
    let mut make = lab
        .chroot()
        .bind(&build::checkout(), SOURCE, Access::ReadOnly)
        .command(words);
    let Err(error) = process::run_logged_anew(&mut make, &log, LIMIT) else {
        bail!("built");
    };
    let said = process::text(&log);
    match said
        .lines()
        .any(|line| parts.iter().all(|part| line.contains(part)))
    {
        true => Ok(()),
        false => Err(error.context(format!("not refused as {parts:?}"))),
    }
}
