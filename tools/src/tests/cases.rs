// SPDX-License-Identifier: GPL-2.0
//! Which of the selftests run on which kernel.

/// Which of the selftests are run, by parts of their names.
#[derive(Clone, Copy, Default)]
pub struct Cases {
    /// Those with one of these; all, if there are none.
    pub of: &'static [&'static str],
    /// But for those with one of these.
    pub without: &'static [&'static str],
}

/// Cases that the in-tree driver skips on the packaged kernel, which has no fault injection.
pub const ONLY_WITH_FAULTS: &[&str] = &["faults.alloc_"];

/// Cases with concurrency: ioctls beside workers, workers beside each other, and the end of either.
pub const CONCURRENT: &[&str] = &[
    "busy.",
    "change.",
    "events.no_lost_",
    "faults.receive_memory",
    "faults.stopped_",
    "faults.transmit_memory",
    "fork.",
    "history.event_descriptors",
    "history.kick_the_dead",
    "history.kill_flood",
    "history.owner_race",
    "in_order.no_lost_",
    "iotlb.asked_again",
    "iotlb.park",
    "iotlb.read",
    "iotlb.storm",
    "iotlb.switch",
    "kill.",
    "life.close_under_traffic",
    "life.many_devices",
    "life.tap_first",
    "live.",
    "load.",
    "log.closed",
    "log.exact",
    "log.migration",
    "log.toggle",
    "module.",
    "rx.bursts",
    "rx.integrity",
    "stress.",
    "tx.integrity",
    "workers.",
];

/// Cases that take the debug kernel half a minute and more, for the time they wait or for the number of
/// packets they move, along code that others run there, too.
pub const LONG_ON_DEBUG: &[&str] = &[
    "away.rx_ring",
    "away.tx_ring",
    "change.link",
    "faults.swap",
    "frames.tagged",
    "history.fairness",
    "history.kill_flood",
    "in_order.rx_wrap",
    "life.memory",
    "load.",
    "log.migration",
    "soak.short",
    "wrap.",
];
