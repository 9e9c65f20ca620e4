// SPDX-License-Identifier: GPL-2.0
//! Building the Debian packages, by the recipes in `tools/packaging/`.
//!
//! `rnetctl` is built by Debian's cargo, from sources that the host's cargo has fetched.
//!
//! Debian's packaging tools are in a layer over the rootfs, which is not needed for anything else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::build::{SOURCE, checkout};
use crate::lab::chroot::Access;
use crate::lab::debian::{self, Kernel};
use crate::lab::layers::Layer;
use crate::lab::packaged_cargo;
use crate::lab::paths::{INSIDE, Lab};
use crate::process;
use crate::steps::step;

/// The version of the workspace, with which that of the packages begins.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The recipes, in the checkout.
const RECIPES: &str = "tools/packaging/debian";

/// Where the packages go, in the checkout.
const TARGET: &str = "target/debian";

/// Time limit of building the packages, with all that rnetctl is built from.
const LIMIT: Duration = Duration::from_secs(3600);

/// Builds the packages, checks them with lintian and returns their files.
pub fn build(lab: &Lab) -> Result<Vec<PathBuf>> {
    Layer::Packaging.ensure(lab)?;
    let kernel = debian::installed_kernel(lab)?;
    let target = checkout().join(TARGET);
    step("packages", || {
        let tree = target.join("build/source");
        stage(&tree, &kernel)?;
        packaged_cargo::fetch(lab, &checkout())?;
        let home = target.join("build/cargo");
        std::fs::create_dir_all(&home)?;
        std::fs::write(home.join("config.toml"), packaged_cargo::config())?;
        let headers = format!("/usr/src/linux-headers-{}", kernel.release);
        // Built where its path is the same on every machine. The rootfs has the kernel's compilers, and
        // none of the others that a package may rely on is needed. Nobody's address is in what is built
        // for oneself.
        let script = format!(
            "cd {SOURCE}/source\n\
             tools/packaging/dkms/slim {INSIDE}/kernel {headers} {SOURCE}/kernel\n\
             KDIR={SOURCE}/kernel CARGO_HOME={SOURCE}/cargo CARGO_INCREMENTAL=0 \\\n  \
             dpkg-buildpackage --build=binary --no-sign --no-pre-clean \\\n  \
             --no-check-builddeps\n\
             cd ..\n\
             lintian --fail-on error,warning --tag-display-limit 0 \\\n  \
             --suppress-tags bogus-mail-host,bogus-mail-host-in-debian-changelog *.changes\n"
        );
        let mut command = Layer::Packaging
            .chroot(lab)
            .bind(&target.join("build"), SOURCE, Access::ReadWrite)
            .command(&["sh", "-exc", &script]);
        process::run_logged_anew(&mut command, &lab.logs().join("packages.log"), LIMIT)?;
        publish(&target)
    })
}

/// Copies the checkout's files to `tree`, with the recipes filled in for `kernel`.
fn stage(tree: &Path, kernel: &Kernel) -> Result<()> {
    let build = tree.parent().context("a tree has a parent")?;
    if build.exists() {
        std::fs::remove_dir_all(build)?;
    }
    std::fs::create_dir_all(tree)?;
    let source = checkout();
    let git = |args: &[&str]| process::output(Command::new("git").current_dir(&source).args(args));
    // Also what is new and not committed yet; a file that was deleted is still listed.
    let listed = git(&["ls-files", "--cached", "--others", "--exclude-standard"])?;
    for file in listed.lines().filter(|file| source.join(file).exists()) {
        let to = match Path::new(file).strip_prefix(RECIPES) {
            Ok(recipe) => tree.join("debian").join(recipe),
            Err(_) => tree.join(file),
        };
        copy(&source.join(file), &to)?;
    }
    let debian = tree.join("debian");
    for entry in std::fs::read_dir(&debian)? {
        let template = entry?.path();
        if template
            .extension()
            .is_some_and(|extension| extension == "in")
        {
            let name = template.file_stem().context("a template has a name")?;
            let name = name.to_string_lossy();
            let text = fill(&std::fs::read_to_string(&template)?, kernel);
            std::fs::write(debian.join(package_file(&name, kernel)), text)?;
            std::fs::remove_file(template)?;
        }
    }
    // The same sources give the same packages, and those of a later day are newer ones.
    let date = git(&["log", "-1", "--format=%cD"])?;
    let day = process::output(
        Command::new("git")
            .current_dir(&source)
            .env("TZ", "UTC")
            .args(["log", "-1", "--format=%cd", "--date=format-local:%Y%m%d"]),
    )?;
    std::fs::write(debian.join("changelog"), changelog(day.trim(), date.trim()))?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let dir = to.parent().context("a file has a directory")?;
    std::fs::create_dir_all(dir)?;
    std::fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    Ok(())
}

/// Fills a recipe's template in.
fn fill(template: &str, kernel: &Kernel) -> String {
    template
        .replace("@KERNEL@", &kernel.release)
        .replace("@KERNEL_VERSION@", &kernel.package_version)
}

/// The name that the recipe `name` has for debhelper: that of a package contains the kernel's.
fn package_file(name: &str, kernel: &Kernel) -> String {
    match name.strip_prefix("modules.") {
        Some(script) => format!("vhost-rnet-modules-{}.{script}", kernel.release),
        None => name.to_owned(),
    }
}

/// The packages' changelog, which tells their version: that of the commit of `day`, a number, and
/// `date`.
fn changelog(day: &str, date: &str) -> String {
    format!(
        "vhost-rnet ({VERSION}+git{day}) trixie; urgency=medium\n\n  \
         * Built from the source tree; its history is the list of changes.\n\n \
         -- The vhost-rnet developers <vhost-rnet@localhost>  {date}\n"
    )
}

/// Moves new packages from the build directory into `target`, in place of all old ones.
fn publish(target: &Path) -> Result<Vec<PathBuf>> {
    let packages = |dir: &Path| -> Result<BTreeMap<_, PathBuf>> {
        let entries = std::fs::read_dir(dir)?.collect::<std::io::Result<Vec<_>>>()?;
        let files = entries
            .iter()
            .map(|entry| (entry.file_name(), entry.path()));
        Ok(files
            .filter(|(_, path)| path.extension().is_some_and(|extension| extension == "deb"))
            .collect())
    };
    for old in packages(target)?.into_values() {
        std::fs::remove_file(old)?;
    }
    for (name, path) in packages(&target.join("build"))? {
        std::fs::rename(path, target.join(name))?;
    }
    std::fs::remove_dir_all(target.join("build"))?;
    Ok(packages(target)?.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::{VERSION, changelog, fill, package_file};
    use crate::lab::debian::Kernel;

    #[test]
    fn recipes_are_filled_in() {
        let kernel = Kernel {
            release: "7.3.4+deb13-amd64".to_owned(),
            package_version: "7.3.4-1".to_owned(),
        };
        assert_eq!(
            fill("linux-image-@KERNEL@ (= @KERNEL_VERSION@)", &kernel),
            "linux-image-7.3.4+deb13-amd64 (= 7.3.4-1)"
        );
        assert_eq!(
            package_file("modules.postinst", &kernel),
            "vhost-rnet-modules-7.3.4+deb13-amd64.postinst"
        );
        assert_eq!(package_file("control", &kernel), "control");
        let changelog = changelog("20261130", "Mon, 30 Nov 2026 12:00:00 +0000");
        let version = format!("vhost-rnet ({VERSION}+git20261130) trixie;");
        assert!(changelog.starts_with(&version), "{changelog}");
    }
}
