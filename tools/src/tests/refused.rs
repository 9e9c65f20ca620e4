// SPDX-License-Identifier: GPL-2.0
//! Whether the module's build refuses kernels that the module is not for, and the lab a network that
//! ends at nothing, and both say why.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::build::{self, SOURCE};
use crate::lab::chroot::{self, Access};
use crate::lab::debian;
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

/// A Debian mirror that is not there: no service has this port.
const NO_MIRROR: &str = "http://127.0.0.1:9/debian";

/// Where the output would go, relative to the lab.
const OUTPUT: &str = "build-refused";

/// Time limit of one build.
const LIMIT: Duration = Duration::from_secs(60);

/// Tries to build for each of [`KERNELS`], with each of [`TREES`], and to make a lab without network.
///
/// # Errors
///
/// When one of them succeeds, or fails for another reason, or does not tell what mends it.
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
    let unreachable = unreachable(&Lab::at(output.clone()));
    chroot::remove(&output)?;
    unreachable
}

/// Fails unless a `lab` to be made from [`NO_MIRROR`] says so, and has no rootfs.
fn unreachable(lab: &Lab) -> Result<()> {
    std::fs::create_dir_all(lab.logs())?;
    let made = debian::bootstrap(lab, Some(NO_MIRROR.to_owned()));
    let said = made.err().context("made from no mirror")?.to_string();
    ensure!(said.starts_with("a server cannot be reached"), "{said}");
    ensure!(!lab.rootfs().exists(), "half of a rootfs is left");
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
