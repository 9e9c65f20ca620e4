// SPDX-License-Identifier: GPL-2.0
//! The kernel trees that the module is built against.
//!
//! Debian's headers package has no Rust metadata. Building the same source with
//! the same configuration and compilers yields it, and modules built against
//! that tree load into the packaged kernel.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::arch::Arch;
use crate::lab::debian::Kernel;
use crate::lab::paths::{INSIDE, Lab};
use crate::process;
use crate::steps::step;

/// Time limit of preparing a tree, on a slow machine.
const LIMIT: Duration = Duration::from_secs(1800);

/// About how many lines are written while a tree is prepared.
const LINES: usize = 230;

/// The packaged kernel's tree, relative to the lab.
pub const TREE: &str = "kernel";

/// Makes `tree` of the lab ready for building modules for an installed `kernel`, unless it is.
///
/// # Errors
///
/// Those of the build, and of the file system.
pub fn ensure(lab: &Lab, tree: &str, kernel: &Kernel) -> Result<()> {
    let release = &kernel.release;
    if !unpacked(lab, tree, kernel)? {
        step(&format!("source of kernel {release}"), || {
            unpack(lab, tree, kernel)
        })?;
    }
    if !prepared(lab, tree, kernel) {
        step(
            &format!("tree of kernel {release} (builds its Rust crates)"),
            || prepare(lab, tree, kernel),
        )?;
    }
    Ok(())
}

/// Tells whether the source of `kernel` is in `tree` of the lab, whole.
pub fn unpacked(lab: &Lab, tree: &str, kernel: &Kernel) -> Result<bool> {
    let tree = lab.dir().join(tree);
    let Ok(makefile) = std::fs::read_to_string(tree.join("Makefile")) else {
        return Ok(false);
    };
    // The stamp distinguishes Debian's revisions of one upstream version.
    let stamp = std::fs::read_to_string(tree.join(".rnet-source"));
    Ok(match stamp {
        Ok(version) => version.trim() == kernel.package_version,
        Err(_) => makefile_version(&makefile).as_deref() == Some(kernel.upstream()),
    })
}

/// Unpacks the source package into `tree` of the lab, in place of another.
pub fn unpack(lab: &Lab, tree: &str, kernel: &Kernel) -> Result<()> {
    let script = format!(
        "rm -rf {INSIDE}/{tree}.new && mkdir -p {INSIDE}/{tree}.new && \
         tar -xf /usr/src/{}.tar.xz -C {INSIDE}/{tree}.new --strip-components=1",
        kernel.source_package()?
    );
    let log = lab
        .logs()
        .join(format!("{}-source.log", tree.replace('/', "-")));
    process::run_logged(
        &mut lab.chroot().command(&["sh", "-ec", &script]),
        &log,
        LIMIT,
    )?;
    let new = lab.dir().join(format!("{tree}.new"));
    std::fs::write(
        new.join(".rnet-source"),
        format!("{}\n", kernel.package_version),
    )?;
    let old = lab.dir().join(format!("{tree}.old"));
    let tree = lab.dir().join(tree);
    if tree.exists() {
        std::fs::rename(&tree, &old)?;
    }
    std::fs::rename(new, &tree)?;
    if old.exists() {
        std::fs::remove_dir_all(old)?;
    }
    Ok(())
}

/// Tells whether modules can be built against the tree.
fn prepared(lab: &Lab, tree: &str, kernel: &Kernel) -> bool {
    let release = lab.release_of(tree);
    let tree = lab.dir().join(tree);
    // `prepare()` writes `Module.symvers` last.
    release.is_ok_and(|release| release == kernel.release)
        && [
            "rust/libkernel.rmeta",
            "rust/libmacros.so",
            "Module.symvers",
        ]
        .iter()
        .all(|file| tree.join(file).exists())
}

/// Configures the tree as packaged and builds what modules need of it.
fn prepare(lab: &Lab, tree: &str, kernel: &Kernel) -> Result<()> {
    let local = kernel
        .release
        .strip_prefix(kernel.upstream())
        .context("the release does not start with the version")?;
    let jobs = std::thread::available_parallelism()?;
    let make = format!(
        "make {} LOCALVERSION={local} CC={} -j{jobs}",
        kernel.arch().make_options(),
        kernel.compiler(lab)?
    );
    // A killed compiler may leave half a file, which make would take for a
    // complete one: after an interruption, everything is rebuilt.
    let script = format!(
        "cd {INSIDE}/{tree}\n\
         rm -f Module.symvers\n\
         ! test -e .rnet-preparing || make mrproper\n\
         touch .rnet-preparing\n\
         cp {root}/boot/config-{release} .config\n\
         {make} olddefconfig\n\
         {make} modules_prepare\n\
         test \"$(cat include/config/kernel.release)\" = {release}\n\
         cp {root}/usr/src/linux-headers-{release}/Module.symvers Module.symvers.new\n\
         rm .rnet-preparing\n\
         mv Module.symvers.new Module.symvers\n",
        release = kernel.release,
        root = kernel.arch().rootfs_inside()
    );
    let name = tree.replace('/', "-");
    let log = lab.logs().join(format!("{name}-prepare.log"));
    let mut command = lab.chroot().command(&["sh", "-exc", &script]);
    process::run_counted(&mut command, &log, LIMIT, Some(LINES))
}

/// Returns the uncompressed image of the packaged kernel with this tree, relative to the lab.
///
/// That of arm64 is packaged so. Of amd64, it has the same code as `vmlinuz`, and QEMU enters it by the PVH entry point:
/// unpacking `vmlinuz` takes seconds on an emulated processor.
pub fn image(lab: &Lab, tree: &str) -> Result<String> {
    let release = lab.release_of(tree)?;
    let arch = Arch::of_release(&release);
    if arch == Arch::Arm64 {
        return Ok(format!("{}/boot/vmlinuz-{release}", arch.rootfs()));
    }
    let name = format!("artifacts/vmlinux-{release}");
    let target = lab.dir().join(&name);
    if !target.exists() {
        let vmlinuz = lab.rootfs().join(format!("boot/vmlinuz-{release}"));
        let extract = lab.dir().join(tree).join("scripts/extract-vmlinux");
        let image = process::bytes(Command::new("sh").arg(extract).arg(vmlinuz))?;
        let dir = lab.artifacts();
        std::fs::create_dir_all(&dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(&image)?;
        file.persist(target)?;
    }
    Ok(name)
}

/// Returns the version that a kernel's top makefile tells.
fn makefile_version(makefile: &str) -> Option<String> {
    let field = |key: &str| {
        makefile
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))
            .map(str::trim)
    };
    Some(format!(
        "{}.{}.{}",
        field("VERSION")?,
        field("PATCHLEVEL")?,
        field("SUBLEVEL")?
    ))
}

#[cfg(test)]
mod tests {
    use super::makefile_version;

    #[test]
    fn version_is_read_from_the_makefile() {
        let text = "# SPDX\nVERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION =\n";
        assert_eq!(makefile_version(text).as_deref(), Some("7.3.4"));
    }
}
