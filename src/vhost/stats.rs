// SPDX-License-Identifier: GPL-2.0

//! Statistics of a queue, for the operator.
//!
//! They are shown in `/proc/<pid>/fdinfo/<fd>` of the process that has the device open, one line
//! per queue. Reading them takes no lock that a round holds, so it never waits for a guest.

use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::seq_print;
use kernel::sync::{new_spinlock, SpinLock};
use vring::Fault;

use crate::kapi::Counter;

/// Counters of one queue since the device was opened, which are changed under the queue's mutex.
#[pin_data]
pub(crate) struct Stats {
    /// Number of rounds.
    pub(crate) rounds: Counter,
    /// Packets moved; for transmit, including dropped ones.
    pub(crate) packets: Counter,
    /// Bytes moved, including headers.
    pub(crate) bytes: Counter,
    /// Packets that the backend refused, or that did not fit the guest's buffers.
    pub(crate) dropped: Counter,
    /// Batches of used buffers published.
    pub(crate) batches: Counter,
    /// Calls to the guest.
    pub(crate) calls: Counter,
    /// Number of faults that were reported to the owner.
    faults: Counter,
    /// The last fault; its lock is the last in the lock order, and is held for one assignment.
    #[pin]
    last_fault: SpinLock<Option<Fault>>,
}

impl Stats {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            rounds: Counter::new(),
            packets: Counter::new(),
            bytes: Counter::new(),
            dropped: Counter::new(),
            batches: Counter::new(),
            calls: Counter::new(),
            faults: Counter::new(),
            last_fault <- new_spinlock!(None, "vhost_rnet_fault"),
        })
    }

    /// Records a fault, under the queue's mutex.
    pub(crate) fn fault(&self, fault: Fault) {
        self.faults.add(1);
        *self.last_fault.lock() = Some(fault);
    }

    /// Writes the line of the queue called `name`.
    pub(crate) fn show(&self, name: &str, to: &SeqFile) {
        let last_fault = *self.last_fault.lock();
        seq_print!(
            to,
            "{}:\trounds {} packets {} bytes {} dropped {} batches {} calls {} faults {} last_fault {}\n",
            name,
            self.rounds.get(),
            self.packets.get(),
            self.bytes.get(),
            self.dropped.get(),
            self.batches.get(),
            self.calls.get(),
            self.faults.get(),
            last_fault.as_ref().map_or("none", Fault::name),
        );
    }
}
