// SPDX-License-Identifier: GPL-2.0
//! How fast counters change from one look to the next.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::device::{Device, Direction};

/// What tells one open device from another in two looks: its number, or its place in a process for
/// a module without numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The module's number.
    Number(u64),
    /// The process and the descriptor.
    Place(i32, i32),
}

impl Key {
    /// That of `device`.
    #[must_use]
    pub fn of(device: &Device) -> Self {
        device
            .number
            .map_or(Self::Place(device.process.pid, device.fd), Self::Number)
    }
}

/// The counters of all devices at one time.
#[derive(Clone, Debug, Default)]
pub struct Sample(BTreeMap<(Key, Direction), BTreeMap<String, u64>>);

impl Sample {
    /// Those of `devices`.
    #[must_use]
    pub fn of(devices: &[&Device]) -> Self {
        let mut all = BTreeMap::new();
        for device in devices {
            for direction in Direction::ALL {
                let counters = &device.queue(direction).counters;
                let values = counters.iter().map(|(key, value)| (key.to_owned(), value));
                all.insert((Key::of(device), direction), values.collect());
            }
        }
        Self(all)
    }

    /// By how much the counter `key` of a device's queue grew per second since this sample, if it
    /// was `now` after `elapsed`. A device that is new, or a counter that is less than before, has
    /// no rate.
    #[must_use]
    pub fn rate(
        &self,
        device: &Device,
        direction: Direction,
        key: &str,
        elapsed: Duration,
    ) -> Option<f64> {
        let before = *self.0.get(&(Key::of(device), direction))?.get(key)?;
        let now = device.queue(direction).counters.get(key)?;
        let grown = now.checked_sub(before)?;
        let seconds = elapsed.as_secs_f64();
        // Precision beyond 53 bits is not shown.
        (seconds > 0.0).then(|| grown as f64 / seconds)
    }
}

/// Whether `key` is a gauge, which says how things are and not how often something happened.
#[must_use]
pub fn is_gauge(key: &str) -> bool {
    matches!(key, "pages_kept" | "progress_ms" | "fault_ms")
}
