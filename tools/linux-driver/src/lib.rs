// SPDX-License-Identifier: GPL-2.0

//! The driver side of Linux's virtqueues, in this process, and the memory that it shares with a device.
//!
//! [`Queue`] is a virtqueue of the kernel's own `virtio_ring.c`, as a virtio driver uses it.
//! [`Shared`] is the memory that `vring` needs for the device side: it may read what the driver has
//! allocated, and write the device's parts of the ring. Each access of one side is a place where the
//! other side may act: [`Shared`] calls a function before each access, and [`pause_with`] sets one
//! that is called at the driver's barriers.

#![deny(unsafe_code)]

mod ffi;
mod shared;

pub use ffi::{Buf, Features, Queue, allocated, pause_with};
pub use shared::Shared;
