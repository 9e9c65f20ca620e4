// SPDX-License-Identifier: GPL-2.0
//! Virtual machines: the level 1 VM that boots a kernel of the lab, and QEMU guests inside it.

pub mod accel;
pub mod device;
pub mod guest;
mod klog;
pub mod level1;
