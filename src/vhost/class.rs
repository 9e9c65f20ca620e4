// SPDX-License-Identifier: GPL-2.0

//! A class of devices: what tells a network device from others, and all that the core knows of it.
//!
//! What is called under which lock (see [`device`](super::device)):
//!
//! | | device mutex | the queue's mutex |
//! | --- | --- | --- |
//! | [`Class::ioctl`] | no | no |
//! | [`Class::Target`]'s functions | yes, but for a round's | yes |
//! | [`State`]'s functions, [`Class::run`] | no | yes |
//!
//! Of a queue's own, [`State`] is there from open on, [`Target`] while it is started. A round gets both,
//! and guest memory by types of its own, so that each way to memory is compiled straight.

use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::Arc;
use vring::Fault;

use super::device::{Device, QUEUES};
use super::features::Features;
use super::round::Next;
use super::stats::Stats;
use super::virtqueue::Virtqueue;
use super::worker::Pending;
use crate::kapi::{OwnerMemory, PollFile};

/// A class of devices.
pub(crate) trait Class: Sized + Send + Sync + 'static {
    /// Name of the device node.
    const NAME: &'static CStr;
    /// Names of the queues by index, in logs and statistics.
    const QUEUE_NAMES: [&'static str; QUEUES];
    /// The features that are offered, of rings and of the class.
    const FEATURES: Features;
    /// What a started queue moves data to and from.
    type Target: Target;
    /// What a queue has of its own, started or not.
    type State: State;

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

/// What a started queue moves data to and from: a file that wakes it.
pub(crate) trait Target: Sized + Send + Unpin {
    /// What is behind `fd` of the caller, for queue `index`.
    ///
    /// # Errors
    ///
    /// Those of the class, when it is nothing that a queue can be started on.
    fn from_fd(fd: i32, index: usize) -> Result<Self>;

    /// The file, for its events.
    fn file(&self) -> &PollFile;

    /// The events of the file that queue `index` waits for (`EPOLL*`).
    fn events(index: usize) -> u32;

    /// Whether both are the same.
    fn is(&self, other: &Self) -> bool;

    /// Forgets an error that the file keeps for its next user. `false` if there was none.
    fn take_error(&self) -> bool;
}

/// What a queue has of its own, started or not.
pub(crate) trait State: Sized + Send + Unpin {
    /// That of a queue as after open.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn new() -> Result<Self>;

    /// Takes over negotiated features.
    fn set_features(&mut self, features: &Features);

    /// Whether queue `index` has memory to give back with [`State::release`].
    fn keeps_memory(&self, index: usize) -> bool;

    /// Gives back memory that is kept for later rounds.
    fn release(&mut self);

    /// Back to the state of [`State::new`].
    fn reset(&mut self);
}
