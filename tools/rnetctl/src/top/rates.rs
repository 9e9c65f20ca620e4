// SPDX-License-Identifier: GPL-2.0
//! What a queue does in a second, from what it had counted at two moments.

use std::time::Duration;

use super::sample::QueueSample;

/// A counter this close to its end, as a part of all its values, can have gone over it.
const NEAR_THE_END: u64 = u64::MAX - (u64::MAX >> 8);

/// What a queue did between two moments.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Rates {
    /// Packets in a second.
    pub packets: f64,
    /// Bits in a second, headers included.
    pub bits: f64,
    /// Dropped packets in a second.
    pub drops: f64,
    /// Packets in a round; `None` without a round.
    pub per_round: Option<f64>,
    /// Calls to the guest for a packet; `None` without a packet.
    pub calls: Option<f64>,
    /// Kicks by the guest for a packet; `None` without a packet, or if the module does not count them.
    pub kicks: Option<f64>,
    /// Percent of one processor that the worker used; `None` if the worker is not known.
    pub processor: Option<f64>,
}

/// How much a counter has grown from `old` to `new`.
///
/// One that is smaller than before went over its end, if it was near that, or began anew.
pub fn growth(old: u64, new: u64) -> u64 {
    if new >= old || old >= NEAR_THE_END {
        new.wrapping_sub(old)
    } else {
        new
    }
}

/// A counter as a number with a fraction: exact up to 2^53.
pub fn float(count: u64) -> f64 {
    count as f64
}

/// What a queue did in `time`; `ticks` of processor time are a second. Nothing, if no time has passed.
pub fn between(old: &QueueSample, new: &QueueSample, time: Duration, ticks: u64) -> Rates {
    let seconds = time.as_secs_f64();
    if seconds <= 0.0 {
        return Rates::default();
    }
    let grown = |key: &str| {
        // What was not counted before began at nothing.
        let before = old.counters.get(key).unwrap_or(0);
        new.counters.get(key).map(|now| float(growth(before, now)))
    };
    let packets = grown("packets").unwrap_or(0.0);
    let ratio =
        |part: Option<f64>, whole: f64| part.filter(|_| whole > 0.0).map(|part| part / whole);
    let processor = old.ticks.zip(new.ticks).filter(|_| ticks > 0);
    Rates {
        packets: packets / seconds,
        bits: grown("bytes").unwrap_or(0.0) * 8.0 / seconds,
        drops: grown("dropped").unwrap_or(0.0) / seconds,
        per_round: ratio(Some(packets), grown("rounds").unwrap_or(0.0)),
        calls: ratio(grown("calls"), packets),
        kicks: ratio(grown("kicks"), packets),
        processor: processor
            .map(|(old, new)| float(growth(old, new)) / float(ticks) / seconds * 100.0),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::sample::{Key, QueueSample};
    use super::{Rates, between, growth};
    use crate::device::Direction;
    use crate::fdinfo::FdInfo;

    /// The receive queue of descriptor `fd` of process 10 with these counters, as fdinfo has them.
    pub fn queue(fd: i32, direction: Direction, counters: &str) -> QueueSample {
        let text = format!("rx:\t{counters}\ntx:\t{counters}\n");
        let info = FdInfo::parse(text.as_bytes()).unwrap();
        QueueSample {
            key: Key {
                pid: 10,
                fd,
                number: Some(1),
                direction,
            },
            name: "db".to_owned(),
            interface: format!("tap{fd}"),
            ticks: None,
            counters: info.rx,
            state: None,
        }
    }

    #[test]
    fn counters_grow_wrap_or_begin_anew() {
        assert_eq!(growth(5, 7), 2);
        assert_eq!(growth(5, 5), 0);
        // Over the end.
        assert_eq!(growth(u64::MAX, 2), 3);
        // Anew.
        assert_eq!(growth(1_000_000, 3), 3);
        assert_eq!(growth(1_000_000, 0), 0);
    }

    #[test]
    fn rates_are_by_second_round_and_packet() {
        let mut old = queue(
            3,
            Direction::Rx,
            "rounds 10 packets 100 bytes 1000 dropped 1 calls 5 kicks 2",
        );
        let mut new = queue(
            3,
            Direction::Rx,
            "rounds 20 packets 300 bytes 5000 dropped 5 calls 15 kicks 4",
        );
        (old.ticks, new.ticks) = (Some(50), Some(150));
        let rates = between(&old, &new, Duration::from_secs(2), 100);
        assert_eq!(
            rates,
            Rates {
                packets: 100.0,
                bits: 16_000.0,
                drops: 2.0,
                per_round: Some(20.0),
                calls: Some(0.05),
                kicks: Some(0.01),
                processor: Some(50.0),
            }
        );
    }

    #[test]
    fn what_is_not_known_is_none() {
        let old = queue(3, Direction::Tx, "rounds 10 packets 100");
        let idle = between(&old, &old, Duration::from_secs(1), 100);
        assert_eq!(idle, Rates::default());
        let new = queue(3, Direction::Tx, "rounds 11 packets 110");
        let rates = between(&old, &new, Duration::from_secs(1), 100);
        assert_eq!((rates.kicks, rates.processor), (None, None));
        assert_eq!(rates.per_round, Some(10.0));
        assert_eq!(between(&old, &new, Duration::ZERO, 100), Rates::default());
    }

    proptest! {
        #[test]
        fn rates_are_numbers(old: [u64; 6], new: [u64; 6], millis in 0u64..100_000, ticks: u64) {
            let sample = |of: [u64; 6]| {
                let [rounds, packets, bytes, dropped, calls, ticks] = of;
                let mut sample = queue(3, Direction::Rx, &format!(
                    "rounds {rounds} packets {packets} bytes {bytes} dropped {dropped} calls {calls}"
                ));
                sample.ticks = Some(ticks);
                sample
            };
            let rates = between(&sample(old), &sample(new), Duration::from_millis(millis), ticks);
            for rate in [rates.packets, rates.bits, rates.drops] {
                prop_assert!(rate.is_finite() && rate >= 0.0);
            }
            for rate in [rates.per_round, rates.calls, rates.processor].into_iter().flatten() {
                prop_assert!(rate.is_finite() && rate >= 0.0);
            }
        }
    }
}
