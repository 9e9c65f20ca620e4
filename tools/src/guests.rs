// SPDX-License-Identifier: GPL-2.0
//! What VMs need that run QEMU guests.

use anyhow::Result;

use crate::demo;
use crate::paths::Lab;
use crate::vm::shell_quote;
use crate::{build, initramfs, kernel};

/// What a guest is booted from and where its logs go, as options of programs that run guests.
pub fn options(lab: &Lab) -> Result<[String; 6]> {
    let initramfs = initramfs::guest(lab)?;
    build::publish(
        &lab.dir().join(initramfs),
        &lab.artifacts().join("initramfs-guest"),
    )?;
    let kernel = format!("/{}", kernel::image(lab)?);
    Ok([
        "--initramfs",
        "/artifacts/initramfs-guest",
        "--kernel",
        &kernel,
        "--logs",
        "/out",
    ]
    .map(str::to_owned))
}

/// The script of a VM that runs `program`, between loading and unloading our module if `ours`.
pub fn script(program: &[String], ours: bool) -> String {
    let program = shell_quote(program);
    if ours {
        let insmod = demo::insmod();
        format!("{insmod}{program}\nstatus=$?\nrmmod vhost_rnet || exit 1\nexit $status\n")
    } else {
        format!("{program}\n")
    }
}
