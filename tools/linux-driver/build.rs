// SPDX-License-Identifier: GPL-2.0
//! Compiles the kernel's `virtio_ring.c` and `glue.c` into a static library.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The kernel source tree.
const SOURCE: &str = "KERNEL_SOURCE";

/// Flags of the rules in the kernel's `tools/virtio/Makefile`, for code that is written for the kernel's
/// flags.
const KERNEL_FLAGS: [&str; 8] = [
    "-O2",
    "-g",
    "-pthread",
    "-fno-strict-aliasing",
    "-fno-strict-overflow",
    "-fno-common",
    "-U_FORTIFY_SOURCE",
    "-Wno-pointer-sign",
];

fn main() {
    println!("cargo::rerun-if-env-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CC");
    println!("cargo::rerun-if-env-changed=AR");
    let Some(kernel) = env::var_os(SOURCE).map(PathBuf::from) else {
        panic!("{SOURCE} has to name a kernel source tree");
    };
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(variable("OUT_DIR"));
    let ring = kernel.join("drivers/virtio/virtio_ring.c");
    let glue = here.join("src/glue.c");
    for path in [&ring, &glue, &here.join("include")] {
        println!("cargo::rerun-if-changed={}", path.display());
    }

    // Headers of the tree that `tools/virtio` needs and its own include path lacks.
    let links = out.join("links");
    fs::create_dir_all(links.join("linux")).expect("a folder for links");
    let link = links.join("linux/device-id");
    match fs::remove_file(&link) {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("{}: {error}", link.display()),
        _ => symlink(kernel.join("include/linux/device-id"), &link).expect("a link"),
    }

    let include = [
        here.join("include"),
        kernel.join("tools/virtio"),
        kernel.join("tools/include"),
        links,
    ];
    let object = |source: &Path, warnings: &str| {
        let object = out
            .join(source.file_name().expect("a file"))
            .with_extension("o");
        let mut compiler = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
        compiler.args(KERNEL_FLAGS).arg(warnings);
        compiler
            .arg("-include")
            .arg(kernel.join("include/linux/kconfig.h"));
        // Guest addresses have 64 bits, like the addresses of this process that they are.
        compiler.arg("-DCONFIG_PHYS_ADDR_T_64BIT");
        // What the driver allocates is what the device may access.
        compiler.args(["-Dmalloc=linux_driver_alloc", "-Dfree=linux_driver_free"]);
        for folder in &include {
            compiler.arg("-I").arg(folder);
        }
        run(compiler.arg("-c").arg(source).arg("-o").arg(&object));
        object
    };
    // The kernel's makefile turns off some warnings about its file, and newer compilers have others.
    let objects = [object(&ring, "-w"), object(&glue, "-Wall")];

    let library = out.join("liblinux_driver_c.a");
    // The archiver would keep other members.
    match fs::remove_file(&library) {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
        _ => {}
    }
    let mut archiver = Command::new(env::var_os("AR").unwrap_or_else(|| "ar".into()));
    run(archiver.arg("crs").arg(&library).args(&objects));
    println!("cargo::rustc-link-search=native={}", out.display());
    println!("cargo::rustc-link-lib=static=linux_driver_c");
}

/// A variable that Cargo sets.
fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| panic!("Cargo sets {name}"))
}

/// Runs a command to its end.
fn run(command: &mut Command) {
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{command:?}: {status}"),
        Err(error) => panic!("{command:?}: {error}"),
    }
}
