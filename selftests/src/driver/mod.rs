// SPDX-License-Identifier: GPL-2.0

//! The driver's side of a device, and the hypervisor's: what a guest and QEMU do.
//!
//! From the bottom up: [`uapi`] has the kernel's structures, [`vhost`] the ioctls; [`memory`] is
//! what the device sees as guest memory, [`away`] takes parts of it away; [`ring`] is the driver's
//! half of a virtqueue, [`split`] and [`packed`] are its formats, [`layout`] either of them;
//! [`iotlb`] and [`iommu`] have its IO addresses, [`log`] its dirty log; [`queue`] is a ring with
//! its buffers and notifications, [`setup`], [`node`] and [`device`] put all together; [`traffic`]
//! moves numbered frames through it and checks every byte, [`load`] does so on several devices at
//! once.

pub mod away;
pub mod device;
pub mod iommu;
pub mod iotlb;
pub mod layout;
pub mod load;
pub mod log;
pub mod memory;
pub mod node;
pub mod packed;
pub mod queue;
pub mod ring;
pub mod setup;
pub mod split;
pub mod traffic;
pub mod uapi;
pub mod vhost;
