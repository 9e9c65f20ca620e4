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

/// Cases that show whether the module works on an older kernel: traffic both ways, in both ring formats,
/// what starts a stopped queue again, and the life of the module.
pub const SMOKE: &[&str] = &["goes_on.", "module.", "rx.", "tx."];

/// Those of them that take more than three seconds, mostly to wait. The others take less than a minute.
pub const LONG_FOR_SMOKE: &[&str] = &[
    "goes_on.link",
    "rx.bursts",
    "rx.fits_later",
    "rx.never_fits",
];

/// Cases that show on both devices whether traffic works on arm64, in both directions and ring formats;
/// in the last ones, a kick or call would get lost if accesses were in the wrong order.
pub const ARM64: &[&str] = &[
    "rx.gso",
    "rx.integrity",
    "tx.gso",
    "tx.integrity",
    "events.no_lost_",
];

/// Cases that the debug kernel runs only with [`Extent::Long`](super::extent::Extent): each takes long
/// there, waits, or moves many packets, along code of the module that other cases run there, too.
pub const LONG_ON_DEBUG: &[&str] = &[
    "accept.gone",
    "away.log",
    "away.rx_",
    "away.tx_ring",
    // The other backends have `queues.*` and `accept.*`.
    "backend.",
    "base.any_start",
    "bounded.killed",
    "busy.live",
    // All but a backend that is deleted.
    "change.carrier",
    "change.closed",
    "change.header_size",
    "change.link",
    "change.namespace",
    "change.offloads",
    "events.no_lost_",
    "faults.out_of_memory",
    "faults.stopped_owner",
    "faults.swap",
    "fork.memory",
    "frames.borders_",
    "frames.flooded",
    "frames.header_lengths",
    "frames.jumbo",
    "frames.segmented_macvtap",
    "frames.tagged",
    "goes_on.link",
    "history.fairness",
    "history.kick_the_dead",
    "history.kill_flood",
    "history.mappings",
    "history.owner_race",
    "history.short_frames",
    "in_order.any_start",
    "in_order.no_lost_",
    "in_order.rebind",
    "in_order.rx_wrap",
    "in_order.small_rings",
    "in_order.spanning_buffers",
    "in_order.tx_wrap",
    "kill.before_kick",
    "kill.random",
    "life.memory",
    "life.open_close",
    "load.",
    "log.migration",
    "queues.backpressure",
    "rx.bursts",
    "rx.fits_later",
    "soak.short",
    // The fuzzer's threads call, too.
    "stress.",
    "workers.attach_live",
    "workers.kill",
    "workers.migration",
    "wrap.",
    // What differs by format is in `vring`, which has no unsafe code, and in how the ring is read,
    // written and logged: packets, faults of the guest, translation and the log remain.
    "packed.away.",
    "packed.base.",
    "packed.bounded.",
    "packed.busy.",
    "packed.events.",
    "packed.faults.",
    "packed.goes_on.",
    "packed.history.",
    "packed.iotlb.eviction",
    "packed.iotlb.moved_pages",
    "packed.iotlb.read",
    "packed.iotlb.reset_owner",
    "packed.iotlb.scattered",
    "packed.iotlb.storm",
    "packed.iotlb.switch",
    "packed.kill.",
    "packed.life.",
    "packed.live.",
    "packed.log.rounds",
    "packed.log.toggle",
    "packed.rx.never_fits",
];

#[cfg(test)]
mod tests {
    use super::{ARM64, CONCURRENT, LONG_FOR_SMOKE, LONG_ON_DEBUG, ONLY_WITH_FAULTS, SMOKE};
    use selftests::cases;

    #[test]
    fn each_part_of_a_name_is_of_some_case() {
        let names: Vec<_> = cases::all().iter().map(|case| case.full_name()).collect();
        let lists = [
            ARM64,
            ONLY_WITH_FAULTS,
            CONCURRENT,
            SMOKE,
            LONG_FOR_SMOKE,
            LONG_ON_DEBUG,
        ];
        for part in lists.concat() {
            let found = names.iter().any(|name| name.contains(part));
            assert!(found, "no case is called `{part}`");
        }
    }
}
