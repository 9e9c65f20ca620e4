// SPDX-License-Identifier: GPL-2.0

//! The queues of a class of devices: how many they are, what each keeps, and what it moves data to and
//! from.
//!
//! What is called under which lock (see [`device`](super::device)):
//!
//! | | device mutex | the queue's mutex |
//! | --- | --- | --- |
//! | [`Target`]'s functions | yes, but for a round's | yes |
//! | [`State`]'s functions | no | yes |
//!
//! A queue has its [`State`] from open on, its [`Target`] while it is started.

use kernel::prelude::*;

use super::features::Features;
use crate::kapi::PollFile;

/// How many queues a device has.
pub(crate) const QUEUES: usize = 2;

/// The queues of a class of devices.
pub(crate) trait Queues: Sized + Send + Sync + 'static {
    /// Their names by index, in logs and statistics.
    const NAMES: [&'static str; QUEUES];
    /// What a started queue moves data to and from.
    type Target: Target;
    /// What a queue has of its own, started or not.
    type State: State;

    /// Name of queue `index`; empty when there is none.
    fn name(index: usize) -> &'static str {
        Self::NAMES.get(index).copied().unwrap_or_default()
    }
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
