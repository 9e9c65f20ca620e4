// SPDX-License-Identifier: GPL-2.0

//! The traits of a class's queues: their names, their state and their targets.
//!
//! Locks that are held when a function is called (see [`device`](super::device)):
//!
//! | | device mutex | the queue's mutex |
//! | --- | --- | --- |
//! | [`Target`]'s functions | yes, except in a round | yes |
//! | [`State`]'s functions | no | yes |
//!
//! A queue has its [`State`] from open on, and its [`Target`] while it is started.

use kernel::prelude::*;
use kernel::sync::Arc;

use super::features::Features;
use crate::kapi::{Counter, InterfaceName, PollFile};

/// Number of queues of a device.
pub(crate) const QUEUES: usize = 2;

/// The queues of a class of devices.
pub(crate) trait Queues: Sized + Send + Sync + 'static {
    /// The names of the queues by index, in logs and statistics.
    const NAMES: [&'static str; QUEUES];
    /// The target that a started queue moves data to and from.
    type Target: Target;
    /// State that each queue has, started or not.
    type State: State;

    /// The name of queue `index`; empty when there is no such queue.
    fn name(index: usize) -> &'static str {
        Self::NAMES.get(index).copied().unwrap_or_default()
    }
}
/// The target that a started queue moves data to and from, which has a file that wakes the queue.
pub(crate) trait Target: Sized + Send + Unpin {
    /// Looks up the target `fd` in the caller's file table, for queue `index`.
    ///
    /// # Errors
    ///
    /// Those of the class, when `fd` is nothing that a queue can be started on.
    fn from_fd(fd: i32, index: usize) -> Result<Self>;

    /// The file whose events wake the queue.
    fn file(&self) -> &PollFile;

    /// The events of the file that queue `index` waits for (`EPOLL*`).
    fn events(index: usize) -> u32;

    /// What queue `index` waits for when it waits for these events, in one word.
    fn event_name(index: usize) -> &'static str;

    /// Whether `other` is the same target.
    fn is(&self, other: &Self) -> bool;

    /// What kind of target it is, in one word for the operator.
    fn kind(&self) -> &'static str;

    /// The name of its network interface; `None` when it has none, or that is not known.
    fn interface(&self) -> Option<InterfaceName>;

    /// Clears the error that the file keeps for its next user; returns `false` if there was none.
    fn take_error(&self) -> bool;
}

/// State that each queue has, started or not.
pub(crate) trait State: Sized + Send + Unpin {
    /// Makes the state that a queue has after open, which counts in `kept` the pages that it keeps
    /// for later rounds.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn new(kept: Arc<Counter>) -> Result<Self>;

    /// Sets the negotiated features.
    fn set_features(&mut self, features: &Features);

    /// Whether queue `index` has memory to give back with [`State::release`].
    fn keeps_memory(&self, index: usize) -> bool;

    /// Frees memory that is kept for later rounds.
    fn release(&mut self);

    /// Returns to the state of [`State::new`].
    fn reset(&mut self);
}
