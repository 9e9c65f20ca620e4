// SPDX-License-Identifier: GPL-2.0

//! The owner of a device: the process that set it up, and the workers in it.

use kernel::mm::Mm;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;

use super::queues::QUEUES;
use super::workers::Workers;
use crate::kapi::{Dir, Wake};

/// The process that set up the device.
pub(crate) struct Owner {
    /// The memory of the owner, which is compared but not accessed.
    pub(crate) mm: ARef<Mm>,
    pub(crate) workers: Workers,
    /// What the operator sees of the device in debugfs.
    pub(crate) dirs: KVec<Dir>,
    /// What looks for queues that were forgotten, if it is wanted.
    pub(crate) watchdog: Option<Arc<dyn Send + Sync>>,
}

impl Owner {
    /// Whether the calling process, or one that shares its memory, is the owner.
    pub(crate) fn is_caller(&self) -> bool {
        current!()
            .mm()
            .is_some_and(|mm| self.mm.as_raw() == mm.as_raw())
    }

    /// Wakes the worker of queue `index`, so that the queue looks for work.
    pub(crate) fn wake(&self, index: usize) {
        if let Ok(waker) = self.workers.waker(index) {
            waker.wake();
        }
    }

    /// Wakes the workers of all queues, so that the queues look for work.
    pub(crate) fn wake_all(&self) {
        for index in 0..QUEUES {
            self.wake(index);
        }
    }
}
