// SPDX-License-Identifier: GPL-2.0
//! The initial file systems of the two levels of VMs.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::lab::arch::Arch;
use crate::lab::cpio::Archive;
use crate::lab::flavor::Flavor;
use crate::lab::paths::{INSIDE, Lab};
use crate::process;

/// Level 1's init: hands over to the lab's rootfs, seen over 9p.
const LEVEL1_INIT: &str = include_str!("../../vm/level1-init.sh");

/// Level 2's init: a shell on a virtio port.
const GUEST_INIT: &str = include_str!("../../vm/guest-shell.sh");

/// The artifact that runs in the guest as its end of checked traffic.
const GUEST_STREAM: &str = "rnet-stream";

/// Modules of the guest.
const GUEST_MODULES: &[&str] = &["virtio_net", "8021q"];

/// Programs of the rootfs that the guest has.
const GUEST_PROGRAMS: &[&str] = &["/usr/bin/iperf3", "/usr/sbin/ethtool"];

/// Modules that the packaged kernel needs to reach level 1's root file system.
const LEVEL1_MODULES: &[&str] = &["9pnet_virtio", "9p", "overlay"];

/// Returns level 1's initramfs, relative to the lab; builds it if need be.
pub fn level1(lab: &Lab, flavor: Flavor) -> Result<String> {
    let (modules, release) = match flavor.is_package() {
        true => (LEVEL1_MODULES, lab.release_of(&flavor.tree())?),
        false => (&[] as &[&str], lab.release()?),
    };
    let mut hasher = DefaultHasher::new();
    (LEVEL1_INIT, modules).hash(&mut hasher);
    cached(lab, "level1", &release, hasher, |archive| {
        add_modules(lab, archive, &release, modules)?;
        archive.file("init", 0o755, LEVEL1_INIT.as_bytes());
        Ok(())
    })
}

/// Returns level 2's initramfs for guests of `arch`, relative to the lab; builds it if need be.
pub fn guest(lab: &Lab, arch: Arch) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    let name = format!("{}/{GUEST_STREAM}", arch.artifacts());
    let path = lab.dir().join(&name);
    let stream = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    (GUEST_INIT, GUEST_MODULES, GUEST_PROGRAMS, &stream).hash(&mut hasher);
    // Part of the name, since what is done to the inputs has changed.
    "stripped, by the lab".hash(&mut hasher);
    let release = lab.release_of(&Flavor::newest(arch).tree())?;
    cached(lab, "guest", &release, hasher, |archive| {
        add_modules(lab, archive, &release, GUEST_MODULES)?;
        add_programs(lab, archive, arch, GUEST_PROGRAMS)?;
        let stripped = stripped(lab, arch, &name)?;
        archive.file(&format!("bin/{GUEST_STREAM}"), 0o755, &stripped);
        archive.file("init", 0o755, GUEST_INIT.as_bytes());
        Ok(())
    })
}

/// Returns the executable `name` of the lab without its symbols and debug information, which are most of
/// it.
fn stripped(lab: &Lab, arch: Arch, name: &str) -> Result<Vec<u8>> {
    let script = format!(
        "{}strip -o /tmp/stripped {INSIDE}/{name}\ncat /tmp/stripped\n",
        arch.tool_prefix()
    );
    process::bytes(&mut lab.chroot().command(&["sh", "-ec", &script]))
}

/// Adds programs of the root file system of `arch` with the libraries that they load.
fn add_programs(lab: &Lab, archive: &mut Archive, arch: Arch, programs: &[&str]) -> Result<()> {
    let libraries = format!("/usr/lib/{}", arch.libraries());
    let mut files: Vec<String> = programs.iter().map(|&path| path.to_owned()).collect();
    // The C library loads it with `dlopen` when a thread is cancelled, so no file names it.
    files.push(format!("{libraries}/libgcc_s.so.1"));
    let mut added = 0;
    while let Some(path) = files.get(added).cloned() {
        added += 1;
        let inside = format!("{}{path}", arch.rootfs_inside());
        // Not `ldd`, which runs the program.
        let read = &mut lab.chroot().command(&["readelf", "-ld", &inside]);
        for file in loaded_files(&process::output(read)?, &libraries) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
        // Follows links: the archive has a copy of the file under each name.
        let relative = path.trim_start_matches('/');
        let data = std::fs::read(lab.dir().join(arch.rootfs()).join(relative))
            .with_context(|| format!("reading {inside}"))?;
        let name = match relative.strip_prefix("usr/bin/") {
            Some(program) => format!("bin/{program}"),
            None => relative.to_owned(),
        };
        archive.file(&name, 0o755, &data);
    }
    Ok(())
}

/// The files that are loaded with an ELF file, by what `readelf` tells of it: its interpreter, and
/// libraries of the directory `libraries`.
fn loaded_files(told: &str, libraries: &str) -> Vec<String> {
    let bracketed = |rest: &str| rest.split(']').next().map(str::to_owned);
    let file = |line: &str| match line.split_once("[Requesting program interpreter: ") {
        Some((_, rest)) => bracketed(rest),
        None if line.contains("(NEEDED)") => {
            let name = bracketed(line.split_once('[')?.1)?;
            Some(format!("{libraries}/{name}"))
        }
        None => None,
    };
    told.lines().filter_map(file).collect()
}

/// Returns the initramfs of this kind for a kernel, with this hash of its inputs, relative to the
/// lab. Unless it was built before, `fill` adds its content.
fn cached(
    lab: &Lab,
    kind: &str,
    release: &str,
    mut inputs: DefaultHasher,
    fill: impl FnOnce(&mut Archive) -> Result<()>,
) -> Result<String> {
    release.hash(&mut inputs);
    let name = format!("initramfs/{kind}-{:016x}", inputs.finish());
    let target = lab.dir().join(&name);
    if !target.exists() {
        let mut archive = base(lab, Arch::of_release(release))?;
        fill(&mut archive)?;
        write(&target, archive)?;
    }
    Ok(name)
}

/// Starts an archive with busybox and what it needs to run as init.
fn base(lab: &Lab, arch: Arch) -> Result<Archive> {
    let mut archive = Archive::default();
    for dir in ["proc", "sys", "tmp", "mnt"] {
        archive.dir(dir);
    }
    archive.char_device("dev/console", 0o600, 5, 1);
    let busybox = lab.dir().join(arch.rootfs()).join("usr/bin/busybox");
    archive.copy("bin/busybox", 0o755, &busybox)?;
    archive.symlink("bin/sh", "busybox");
    Ok(archive)
}

/// Adds the modules `names` of a kernel and those they depend on, unpacked, at `/modules`, with
/// `/modules/order` telling the order in which to load them.
fn add_modules(lab: &Lab, archive: &mut Archive, release: &str, names: &[&str]) -> Result<()> {
    let rootfs = lab.dir().join(Arch::of_release(release).rootfs());
    let base = rootfs.join("usr/lib/modules").join(release);
    let dep_file = base.join("modules.dep");
    let deps = std::fs::read_to_string(&dep_file)
        .with_context(|| format!("reading {}", dep_file.display()))?;
    let mut order = String::new();
    for path in load_order(&deps, names)? {
        let name = module_name(&path);
        archive.file(
            &format!("modules/{name}.ko"),
            0o644,
            &unpack(&base.join(&path))?,
        );
        order.push_str(name);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(())
}

/// Replaces `target` by the finished archive, atomically.
fn write(target: &Path, archive: Archive) -> Result<()> {
    let dir = target.parent().context("an initramfs needs a directory")?;
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    std::io::Write::write_all(&mut file, &archive.finish())?;
    file.persist(target)?;
    Ok(())
}

/// Returns the module files to load for `names`, dependencies first.
fn load_order(deps: &str, names: &[&str]) -> Result<Vec<String>> {
    let mut order: Vec<String> = Vec::new();
    for name in names {
        let (path, needs) = deps
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| module_name(path) == *name)
            .with_context(|| format!("the packaged kernel has no module {name}"))?;
        // `modules.dep` lists the nearest dependency first.
        for file in needs.split_whitespace().rev().chain([path]) {
            if !order.iter().any(|known| known == file) {
                order.push(file.to_owned());
            }
        }
    }
    Ok(order)
}

/// Returns the name of the module in file `path`.
fn module_name(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file)
}

/// Returns the content of a module, which may be compressed.
fn unpack(path: &PathBuf) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|ext| ext.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return std::fs::read(path).with_context(|| format!("reading {}", path.display())),
    };
    process::bytes(Command::new(tool).arg("-dc").arg(path))
}

#[cfg(test)]
mod tests {
    use super::{load_order, loaded_files};

    const DEPS: &str = "kernel/a/one.ko.xz:\n\
                        kernel/b/two.ko.xz: kernel/a/one.ko.xz\n\
                        kernel/c/three.ko.xz: kernel/b/two.ko.xz kernel/a/one.ko.xz\n";

    #[test]
    fn dependencies_come_first_and_once() {
        let order = load_order(DEPS, &["three", "two"]).unwrap();
        assert_eq!(
            order,
            [
                "kernel/a/one.ko.xz",
                "kernel/b/two.ko.xz",
                "kernel/c/three.ko.xz"
            ]
        );
    }

    #[test]
    fn unknown_module_is_an_error() {
        assert!(load_order(DEPS, &["four"]).is_err());
    }

    #[test]
    fn what_is_loaded_is_read() {
        let told = "  INTERP 0x000318 0x00000318 0x00000318 0x00001c 0x00001c R 0x1\n      \
                    [Requesting program interpreter: /lib/ld.so.1]\n \
                    0x0001 (NEEDED)   Shared library: [libmnl.so.0]\n \
                    0x000e (SONAME)   Library soname: [libthis.so]\n \
                    0x0001 (NEEDED)   Shared library: [libc.so.6]\n";
        assert_eq!(
            loaded_files(told, "/usr/lib/here"),
            [
                "/lib/ld.so.1",
                "/usr/lib/here/libmnl.so.0",
                "/usr/lib/here/libc.so.6"
            ]
        );
        assert!(loaded_files("There is no dynamic section in this file.", "").is_empty());
    }
}
