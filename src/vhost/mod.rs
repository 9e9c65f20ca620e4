// SPDX-License-Identifier: GPL-2.0

//! The vhost core: the parts that devices of every class share, independent of what they are for.
//!
//! The C counterpart is `drivers/vhost/vhost.c`.

pub(crate) mod class;
mod chardev;
pub(crate) mod ioctl;
mod setup;
mod job;
pub(crate) mod device;
mod owner;
mod workers;
pub(crate) mod worker;
pub(crate) mod virtqueue;
pub(crate) mod round;
pub(crate) mod backend;
pub(crate) mod queues;
pub(crate) mod used;
pub(crate) mod access;
pub(crate) mod uapi;
pub(crate) mod features;
mod memory;
mod iotlb;
mod messages;
mod view;
mod watchdog;
pub(crate) mod stats;
