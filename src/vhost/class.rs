// SPDX-License-Identifier: GPL-2.0

//! A class of devices: what tells a network device from others, and, with its [`Queues`], all that the
//! core knows of it.
//!
//! [`Class::ioctl`] is called without a lock, [`Class::run`] under the queue's mutex (see
//! [`device`](super::device)). A round gets guest memory by types of its own, so that each way to memory
//! is compiled straight.

use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::Arc;
use vring::Fault;

use super::device::Device;
use super::features::Features;
use super::queues::Queues;
use super::round::Next;
use super::stats::Stats;
use super::virtqueue::Virtqueue;
use super::worker::Pending;
use crate::kapi::OwnerMemory;

/// A class of devices.
pub(crate) trait Class: Queues {
    /// Name of the device node.
    const NAME: &'static CStr;
    /// The features that are offered, of rings and of the class.
    const FEATURES: Features;

    /// Does the ioctl `cmd` of the class with argument `arg`.
    ///
    /// # Errors
    ///
    /// Those of the ioctl; `ENOTTY` when it is none of the class.
    fn ioctl(device: &Arc<Device<Self>>, cmd: u32, arg: usize) -> Result;

    /// Runs a round of queue `index`. `pending` tells what else the worker has been woken for.
    ///
    /// # Errors
    ///
    /// A [`Fault`] of the guest or the owner.
    fn run(
        index: usize,
        vq: &mut Virtqueue<Self>,
        memory: OwnerMemory<'_>,
        stats: &Stats,
        pending: &Pending,
    ) -> Result<Next, Fault>;
}
