// SPDX-License-Identifier: GPL-2.0

//! vhost-rnet: packets between a guest's virtqueues and a tap, in the kernel.
//!
//! Each floor of the house imports from those below it, never from one above:
//!
//! ```text
//! main.rs  the module: which classes of devices there are
//! net/     network devices: tx, rx, the tap (link), headers
//! vhost/   what any vhost device has: chardev, ioctl, what its owner sets up (setup, owner), device,
//!          workers and their job, virtqueue, round, guest memory (access, memory, iotlb, messages),
//!          statistics; class and queues are what it asks of net
//! vring/   rings and guest addresses: a crate of its own, which knows no kernel
//! kapi/    the kernel, by safe types; all unsafe code of the module
//! shim/    C for it: macros and inline functions made callable
//! ```
//!
//! A hypervisor opens `/dev/vhost-rnet` and sets it up with vhost ioctls. A kick from the guest or a
//! packet at the tap wakes the queue's worker, which runs a round: `tx` copies what the guest made
//! available into frames and sends them to the tap, `rx` fills the guest's buffers with what the tap
//! received. Used buffers are published by the batch, followed by at most one call to the guest.

#![crate_name = "vhost_rnet"]
#![deny(unsafe_code, unreachable_pub)]
#![warn(missing_docs)]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("guest addresses and segments assume a 64-bit kernel");

use kernel::miscdevice::{MiscDeviceOptions, MiscDeviceRegistration};
use kernel::prelude::*;

use net::Net;
use vhost::class::Class;
use vhost::device::Device;

mod net;
mod vhost;

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
    _device: MiscDeviceRegistration<Device<Net>>,
}

impl kernel::InPlaceModule for VhostRnet {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let options = MiscDeviceOptions { name: Net::NAME };
        try_pin_init!(Self {
            _device <- kapi::register_pollable(options),
        })
    }
}
