// SPDX-License-Identifier: GPL-2.0

//! vhost-rnet moves packets between a guest's virtqueues and a tap, in the kernel.
//!
//! The module has layers. Each one imports only from the layers below it:
//!
//! ```text
//! main.rs  the module: which device classes exist
//! net/     network devices: tx, rx, the tap (link), headers
//! vhost/   what every vhost device has: chardev, ioctl, configuration by its owner (setup, owner),
//!          device, workers and their job, virtqueue, round, guest memory (access, memory, iotlb,
//!          messages), statistics, view and watchdog for the operator; net implements its traits
//!          (class, queues)
//! vring/   rings and guest addresses: a separate crate that does not depend on the kernel
//! kapi/    safe types for kernel interfaces; has all unsafe code of the module
//! shim/    C functions for kapi, which make kernel macros and inline functions callable
//! ```
//!
//! A hypervisor opens `/dev/vhost-rnet` and configures it with vhost ioctls. A kick from the guest
//! or a packet at the tap wakes the queue's worker, which runs a round. In a round, `tx` copies the
//! chains that the guest made available into frames and sends them to the tap; `rx` fills the
//! guest's buffers with packets that the tap received. Used buffers are published in batches, and
//! the guest is called at most once for each batch.

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
    // Removed after the last device.
    _debugfs: kapi::Top,
}

impl kernel::InPlaceModule for VhostRnet {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let options = MiscDeviceOptions { name: Net::NAME };
        try_pin_init!(Self {
            _debugfs: kapi::Top::new(c"vhost_rnet"),
            _device <- kapi::register_pollable(options),
        })
    }
}
