// SPDX-License-Identifier: GPL-2.0

//! vhost-rnet: packets between a guest's virtqueues and a tap, in the kernel.
//!
//! The path of a packet is the order of the modules below. A hypervisor opens `/dev/vhost-rnet`
//! ([`chardev`]) and sets it up with vhost ioctls ([`ioctl`], on the state in [`device`]). A kick
//! from the guest or a packet at the tap wakes the queue's [`worker`], which runs the [`virtqueue`]:
//! [`tx`] copies what the guest made available into frames and sends them to the [`backend`], [`rx`]
//! fills the guest's buffers with what the backend received. Used buffers are published by the
//! batch, followed by at most one call to the guest.
//!
//! Rings and guest addresses are read by the `vring` crate, which has no `unsafe` code; this crate
//! has none outside [`kapi`].

#![crate_name = "vhost_rnet"]
#![deny(unsafe_code, unreachable_pub)]
#![warn(missing_docs)]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("guest addresses and segments assume a 64-bit kernel");

use kernel::miscdevice::{MiscDeviceOptions, MiscDeviceRegistration};
use kernel::prelude::*;

mod chardev;
mod ioctl;
mod device;
mod owner;
mod worker;
mod virtqueue;
mod round;
mod tx;
mod rx;
mod used;
mod access;
mod backend;
mod direction;
mod header;

mod uapi;
mod features;
mod memory;
mod iotlb;
mod messages;
mod stats;

#[allow(unsafe_code)]
mod kapi;

module! {
    type: VhostRnet,
    name: "vhost_rnet",
    authors: ["The vhost-rnet developers"],
    description: "Host kernel accelerator for virtio net, in Rust",
    license: "GPL",
}

#[pin_data]
struct VhostRnet {
    #[pin]
    _device: MiscDeviceRegistration<device::Device>,
}

impl kernel::InPlaceModule for VhostRnet {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let options = MiscDeviceOptions {
            name: c"vhost-rnet",
        };
        try_pin_init!(Self {
            _device <- kapi::register_pollable(options),
        })
    }
}
