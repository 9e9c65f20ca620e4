// SPDX-License-Identifier: GPL-2.0
//! Whether the oldest cargo and compiler that `Cargo.toml` admits, which are those of the lab's Debian,
//! accept everything that a user's cargo builds.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::build::SOURCE;
use crate::lab::chroot::Access;
use crate::lab::kernel::TREE;
use crate::lab::packaged_cargo::{self, MANIFESTS};
use crate::lab::paths::{INSIDE, Lab};
use crate::process;

/// Where it works, relative to the lab.
const DIR: &str = "oldest-cargo";

/// Time limit of one workspace, with all dependencies, on a slow machine.
const LIMIT: Duration = Duration::from_secs(900);

/// Checks all workspaces of the checkout `root`.
///
/// # Errors
///
/// Those of the compiler, and when it is not the version that `Cargo.toml` names.
pub fn check(lab: &Lab, root: &Path) -> Result<()> {
    let manifest = std::fs::read_to_string(root.join("Cargo.toml"))?;
    let oldest = oldest(&manifest).context("no rust-version in Cargo.toml")?;
    let found = process::output(&mut lab.chroot().command(&["rustc", "--version"]))?;
    ensure!(
        found.starts_with(&format!("rustc {oldest}.")),
        "Cargo.toml says that {oldest} is the oldest compiler, the lab has {}",
        found.trim()
    );
    let log = lab.logs().join(format!("{DIR}.log"));
    std::fs::create_dir_all(lab.dir().join(DIR))?;
    packaged_cargo::fetch(lab, root)?;
    std::fs::write(&log, "")?;
    for manifest in MANIFESTS {
        let manifest = format!("{SOURCE}/{manifest}");
        let chroot = lab.chroot().bind(root, SOURCE, Access::ReadOnly);
        let mut cargo = packaged_cargo::command(
            &chroot,
            &[
                "check",
                "--workspace",
                "--all-targets",
                "--keep-going",
                "--manifest-path",
                &manifest,
            ],
        );
        cargo
            .env("CARGO_TARGET_DIR", format!("{INSIDE}/{DIR}/target"))
            .env("KERNEL_SOURCE", format!("{INSIDE}/{TREE}"))
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            // Nothing is linked: without this, the C++ code of libFuzzer would be compiled.
            .env("CUSTOM_LIBFUZZER_PATH", "/none/libfuzzer.a");
        process::run_logged(&mut cargo, &log, LIMIT).with_context(|| manifest)?;
    }
    Ok(())
}

/// The compiler's version that a manifest asks for.
fn oldest(manifest: &str) -> Option<&str> {
    let (_, after) = manifest.split_once("\nrust-version = \"")?;
    Some(after.split_once('"')?.0)
}

#[cfg(test)]
mod tests {
    use super::oldest;

    #[test]
    fn the_version_is_found() {
        let manifest = "[workspace.package]\nlicense = \"GPL\"\nrust-version = \"1.85\"\n";
        assert_eq!(oldest(manifest), Some("1.85"));
        assert_eq!(oldest("edition = \"2024\"\n"), None);
    }
}
