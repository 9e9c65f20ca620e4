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
