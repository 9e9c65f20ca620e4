// SPDX-License-Identifier: GPL-2.0
//! The Debian packages: installed, upgraded, removed and purged in a layer over the rootfs, also where
//! DKMS cannot build; then loaded into their kernel, in a VM.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::chroot::{self, Access};
use crate::lab::layers::Layer;
use crate::lab::paths::Lab;
use crate::lab::{build, packages};
use crate::process;
use crate::steps::step;
use crate::tests::ktap;
use crate::tests::tally::Tally;
use crate::vm::level1::Vm;

/// What both scripts report with.
const KTAP: &str = include_str!("../../packaging/tests/ktap.sh");

/// What is tried in the layer.
const INSTALL: &str = include_str!("../../packaging/tests/install.sh");

/// What is tried in the VM.
const LOAD: &str = include_str!("../../packaging/tests/load.sh");

/// Time limit in the layer, where DKMS compiles the kernel crates.
const INSTALL_LIMIT: Duration = Duration::from_secs(3600);

/// Time limit of the VM.
const LOAD_LIMIT: Duration = Duration::from_secs(900);

/// Builds the packages and tries them.
pub fn run(lab: &Lab, tally: &mut Tally) {
    let name = "packages";
    // The VM gets them from there.
    let dir = lab.artifacts().join(name);
    let built = packages::build(lab).and_then(|files| {
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        for file in files {
            let name = file.file_name().context("a package has a name")?;
            build::publish(&file, &dir.join(name))?;
        }
        Ok(())
    });
    let ready = built.is_ok();
    tally.count(name, built);
    if !ready {
        return;
    }
    match step("packages in a layer", || install(lab, &dir)) {
        Ok(report) => tally.count_ktap(name, ktap::parse(&report)),
        Err(error) => tally.failed.push(format!("{error:#}")),
    }
    let name = "packages in a VM";
    let ran = step(name, || {
        Vm::new(lab, name)
            .limit(LOAD_LIMIT)
            .run(&format!("{KTAP}\n{LOAD}"))
    });
    tally.count_run(name, ran);
}

/// Tries the packages in `dir` in a new layer; returns the KTAP report. Leaves DKMS's module in `dir`.
fn install(lab: &Lab, dir: &Path) -> Result<String> {
    let layer = lab.dir().join("packages-test");
    chroot::remove(&layer)?;
    std::fs::create_dir_all(&layer)?;
    let script = format!("kernel={}\n{KTAP}\n{INSTALL}", lab.release()?);
    let log = lab.logs().join("packages-test.log");
    let mut command = Layer::Packaging
        .chroot(lab)
        .layer(&layer)
        .bind(dir, "/packages", Access::ReadOnly)
        .bind(dir, "/out", Access::ReadWrite)
        .command(&["sh", "-c", &script]);
    let ran = process::run_logged_anew(&mut command, &log, INSTALL_LIMIT);
    let report = std::fs::read_to_string(&log)?;
    chroot::remove(&layer)?;
    ran.map(|()| report)
}
