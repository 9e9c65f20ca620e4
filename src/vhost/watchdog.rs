// SPDX-License-Identifier: GPL-2.0

//! The watchdog: looks for queues that wait for a kick although there is work.
//!
//! It runs only if the module's parameter `watchdog_ms` is not 0 when a device gets its owner. A
//! queue counts as forgotten when two looks in a row, that long apart, find the same: it waits for
//! a kick that it has asked for, the driver offers something, and there has been no round. A guest
//! that has stored its index and is about to kick has all the time between the looks. A queue that
//! a fault has stopped has a chain that it cannot use, which is no lost kick.

use kernel::mm::Mm;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;

use super::class::Class;
use super::device::{Device, Queue};
use super::queues::QUEUES;
use super::virtqueue::look::WaitsFor;
use crate::kapi::{self, trace, Chore, Counter, Periodic};

/// The shortest time between two looks, in milliseconds.
const SHORTEST: u32 = 10;

/// The watchdog of a device.
///
/// It refers to the device that holds it; [`Device::stop`] breaks this reference cycle.
struct Watchdog<C: Class> {
    device: Arc<Device<C>>,
    mm: ARef<Mm>,
    /// Time between two looks, in milliseconds.
    period: u32,
    /// For each queue that looked forgotten at the last look, its number of rounds and 1; else 0.
    suspects: [Counter; QUEUES],
}

/// Starts the watchdog of a device whose owner, with the memory `mm`, has just been set, if the
/// module's parameter asks for it.
///
/// The device works without it, so that a lack of memory is no error.
pub(crate) fn start<C: Class>(
    device: &Arc<Device<C>>,
    mm: &ARef<Mm>,
) -> Option<Arc<dyn Send + Sync>> {
    let period = match kapi::watchdog_ms() {
        0 => return None,
        ms => ms.max(SHORTEST),
    };
    let watchdog = Watchdog {
        device: device.clone(),
        mm: mm.clone(),
        period,
        suspects: [const { Counter::new() }; QUEUES],
    };
    let running = Arc::new(Periodic::start(watchdog, period).ok()?, GFP_KERNEL);
    Some(running.ok()?)
}

impl<C: Class> Chore for Watchdog<C> {
    fn run(&self) -> Option<u32> {
        for (queue, suspect) in self.device.queues().iter().zip(&self.suspects) {
            let last = suspect.get();
            let now = match self.looks_forgotten(queue) {
                true => queue.stats.rounds.get().wrapping_add(1),
                false => 0,
            };
            if now != 0 && now == last {
                self.found(queue);
            }
            suspect.set(now);
        }
        Some(self.period)
    }
}

impl<C: Class> Watchdog<C> {
    /// Whether a queue waits for a kick although there is work.
    fn looks_forgotten(&self, queue: &Queue<C>) -> bool {
        // Dropped after the mutex: if the owner has ended meanwhile, that frees its memory.
        let Some(mm) = self.mm.mmget_not_zero() else {
            return false;
        };
        let Some(looked) = self.device.look(queue, Some(&mm)) else {
            return false;
        };
        looked.waits_for == WaitsFor::Kick
            && !looked.stopped
            && looked.progress.wants_kicks == Some(true)
            && looked.offer.is_some_and(|offer| offer.available)
    }

    /// Counts a queue that was forgotten, tells of the first time, and lets the queue look.
    fn found(&self, queue: &Queue<C>) {
        if queue.stats.watchdog.get() == 0 && kapi::log_allowed() {
            pr_warn!(
                "vhost-{}: {} queue has work, but no kick came for {} ms\n",
                self.device.owner_pid(),
                C::name(queue.index),
                self.period
            );
        }
        queue.stats.watchdog.add(1);
        trace::watchdog(self.device.source(queue));
        queue.wake();
    }
}
