// SPDX-License-Identifier: GPL-2.0

//! The trait of a device class; with [`Queues`], it is all that the core knows of the class.
//!
//! [`Class::ioctl`] is called without a lock, [`Class::run`] under the queue's mutex (see
//! [`device`](super::device)). A round is generic over the type of guest memory, so that each way
//! to memory is compiled separately.

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

/// A device class, such as network devices.
pub(crate) trait Class: Queues {
    /// Name of the device node.
    const NAME: &'static CStr;
    /// The features that are offered, both of rings and of the class.
    const FEATURES: Features;

    /// The names of the class's own features, for the operator.
    const FEATURE_NAMES: &'static [(u32, &'static str)];

    /// Handles the ioctl `cmd` of the class with argument `arg`.
    ///
    /// # Errors
    ///
    /// Those of the ioctl; `ENOTTY` when the class has no such ioctl.
    fn ioctl(device: &Arc<Device<Self>>, cmd: u32, arg: usize) -> Result;

    /// Runs a round of queue `index`.
    ///
    /// `pending` shows for which queues the worker has been woken in the meantime.
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
