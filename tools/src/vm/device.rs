// SPDX-License-Identifier: GPL-2.0
//! The devices that serve a guest, and how a VM loads the module behind ours.

use crate::lab::flavor::Flavor;

/// Our device.
pub const RNET: &str = "/dev/vhost-rnet";
/// The in-tree driver's device, to compare with.
pub const C_VHOST: &str = "/dev/vhost-net";
/// No vhost device: QEMU serves the rings.
pub const NO_VHOST: &str = "off";

/// The shell line that loads the module in a VM of this kernel.
pub fn insmod(flavor: Flavor) -> String {
    format!("insmod /artifacts/{} || exit 1\n", flavor.module())
}

/// The script that runs the shell line `command` in a VM of this kernel, with our module loaded
/// meanwhile if `ours`; it ends with the status of the command.
pub fn script(flavor: Flavor, ours: bool, command: &str) -> String {
    if ours {
        let insmod = insmod(flavor);
        format!("{insmod}{command}\nstatus=$?\nrmmod vhost_rnet || exit 1\nexit $status\n")
    } else {
        format!("{command}\n")
    }
}
