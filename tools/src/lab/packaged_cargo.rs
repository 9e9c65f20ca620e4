// SPDX-License-Identifier: GPL-2.0
//! The lab's own cargo, which is Debian's and knows no registry: the source of what the workspaces depend
//! on is put into the lab for it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::chroot::Chroot;
use crate::lab::paths::{INSIDE, Lab};
use crate::process;

/// The workspaces, that of most code first.
pub const MANIFESTS: [&str; 4] = [
    "Cargo.toml",
    "tools/linux-driver/Cargo.toml",
    "src/vring/loom/Cargo.toml",
    "src/vring/fuzz/Cargo.toml",
];

/// Where it works, relative to the lab.
const DIR: &str = "packaged-cargo";

/// Time limit of fetching, over a slow network.
const LIMIT: Duration = Duration::from_secs(900);

/// Has the host's cargo, which knows how to reach a registry, put the source of all dependencies of the
/// checkout `root` into the lab.
///
/// # Errors
///
/// Those of cargo.
pub fn fetch(lab: &Lab, root: &Path) -> Result<()> {
    // Others may be compiling what is there: it is replaced only if it is not the same.
    let _lock = lab.lock("packaged-cargo.lock")?;
    let mut hasher = DefaultHasher::new();
    for manifest in MANIFESTS {
        let path = root.join(manifest).with_extension("lock");
        let locked = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        locked.hash(&mut hasher);
    }
    let stamp = format!("{:016x}\n", hasher.finish());
    let dir = lab.dir().join(DIR);
    let stamped = dir.join("fetched");
    if std::fs::read_to_string(&stamped).is_ok_and(|old| old == stamp) {
        return Ok(());
    }
    std::fs::create_dir_all(&dir)?;
    // An interrupted cargo leaves neither the old source nor the new.
    match std::fs::remove_file(&stamped) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut cargo = process::cargo();
    cargo.args(["vendor", "--quiet", "--locked", "--versioned-dirs"]);
    for manifest in &MANIFESTS[1..] {
        cargo.args(["--sync", manifest]);
    }
    cargo.arg(dir.join("vendor")).current_dir(root);
    process::run_logged_anew(&mut cargo, &lab.logs().join(format!("{DIR}.log")), LIMIT)?;
    std::fs::write(stamped, stamp)?;
    Ok(())
}

/// The file `config.toml` of a `CARGO_HOME`, by which the cargo finds what [`fetch()`] has put into the lab
/// and asks no registry.
pub fn config() -> String {
    format!(
        "[source.crates-io]\nreplace-with = \"vendor\"\n\n\
         [source.vendor]\ndirectory = \"{INSIDE}/{DIR}/vendor\"\n\n\
         [net]\noffline = true\n"
    )
}

/// The cargo with arguments, after [`fetch()`], in a chroot that has the checkout.
pub fn command(chroot: &Chroot, args: &[&str]) -> Command {
    let vendored = format!("source.vendor.directory=\"{INSIDE}/{DIR}/vendor\"");
    let mut words = vec!["cargo"];
    words.extend(args);
    words.extend(["--locked", "--offline", "--config"]);
    words.extend(["source.crates-io.replace-with=\"vendor\"", "--config"]);
    words.push(&vendored);
    let mut command = chroot.command(&words);
    command
        .env("CARGO_HOME", format!("{INSIDE}/{DIR}/home"))
        .env("CARGO_INCREMENTAL", "0");
    command
}
