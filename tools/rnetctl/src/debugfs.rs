// SPDX-License-Identifier: GPL-2.0
//! What the module shows of a device below `/sys/kernel/debug/vhost_rnet`.

use crate::fields::Fields;

/// What a queue waits for before it looks for work again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// A notification of the guest.
    Kick,
    /// A packet from the backend.
    Packet,
    /// Room in the backend.
    Room,
    /// The owner's answer to a miss of the IOTLB.
    Translation,
    /// A later round that tries again what failed.
    Retry,
    /// Nothing: the queue is not started, runs or is about to.
    Nothing,
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kick => "kick",
            Self::Packet => "packet",
            Self::Room => "room",
            Self::Translation => "translation",
            Self::Retry => "retry",
            Self::Nothing => "nothing",
        })
    }
}

impl Wait {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "kick" => Self::Kick,
            "packet" => Self::Packet,
            "room" => Self::Room,
            "translation" => Self::Translation,
            "retry" => Self::Retry,
            "nothing" => Self::Nothing,
            _ => return None,
        })
    }
}

/// The file `state` of a queue. A value that the module does not tell is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct QueueState {
    /// A round holds the queue just now; most other values are then missing.
    pub running: Option<bool>,
    /// The owner has started the queue.
    pub started: Option<bool>,
    /// A fault has stopped the queue.
    pub stopped: Option<bool>,
    /// The name of the last fault, `none` before the first.
    pub fault: Option<String>,
    /// The ring's format, `split` or `packed`.
    pub format: Option<String>,
    /// The number of the ring's entries.
    pub size: Option<u32>,
    /// Addresses pass through an IOTLB.
    pub iotlb: Option<bool>,
    /// Writes are logged for a migration.
    pub log: Option<bool>,
    /// The next available entry that the device will take.
    pub taken: Option<u32>,
    /// Up to which entry the device has read ahead.
    pub seen: Option<u32>,
    /// The driver's own index in guest memory.
    pub driver: Option<u32>,
    /// The next used entry.
    pub used: Option<u32>,
    /// Guest memory has work now.
    pub available: Option<bool>,
    /// The device asks the guest for kicks.
    pub kicks_wanted: Option<bool>,
    /// The guest asks for calls.
    pub calls_wanted: Option<bool>,
    /// What the queue waits for.
    pub waits_for: Option<Wait>,
    /// The backend's kind: `tap`, `tun`, `macvtap`, `packet` or `none`.
    pub backend: Option<String>,
    /// The backend's interface.
    pub interface: Option<String>,
    /// The thread that serves the queue.
    pub worker: Option<i32>,
}

impl QueueState {
    /// Reads the text of a queue's `state`.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let fields = Fields::parse(bytes);
        let word = |key| fields.get(key).map(str::to_owned);
        let wanted = |key| match fields.get(key)? {
            "wanted" => Some(true),
            "unwanted" => Some(false),
            _ => None,
        };
        Self {
            running: fields.yes("running"),
            started: fields.yes("started"),
            stopped: fields.yes("stopped"),
            fault: word("fault"),
            format: word("format"),
            size: fields.parsed("size"),
            iotlb: fields.yes("iotlb"),
            log: fields.yes("log"),
            taken: fields.parsed("taken"),
            seen: fields.parsed("seen"),
            driver: fields.parsed("driver"),
            used: fields.parsed("used"),
            available: fields.yes("available"),
            kicks_wanted: wanted("kicks"),
            calls_wanted: wanted("calls"),
            waits_for: fields.get("waits_for").and_then(Wait::parse),
            backend: word("backend"),
            interface: word("interface").filter(|name| !name.is_empty()),
            worker: fields.parsed("worker"),
        }
    }

    /// The keys that a started queue has and that this module does not tell, or not in a form that
    /// is known.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let told = [
            ("running", self.running.is_some()),
            ("stopped", self.stopped.is_some()),
            ("fault", self.fault.is_some()),
            ("size", self.size.is_some()),
            ("taken", self.taken.is_some()),
            ("used", self.used.is_some()),
            ("waits_for", self.waits_for.is_some()),
            ("backend", self.backend.is_some()),
        ];
        let missing = told.iter().filter(|(_, told)| !told);
        missing.map(|(key, _)| *key).collect()
    }
}

/// The file `state` of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceState {
    /// The process that owns the device.
    pub owner: Option<i32>,
    /// The names of the features that the owner has set.
    pub features: Option<Vec<String>>,
    /// The threads that serve the device's queues.
    pub workers: Option<Vec<i32>>,
}

impl DeviceState {
    /// Reads the text of a device's `state`.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let fields = Fields::parse(bytes);
        let words = |key| fields.get(key).map(str::split_whitespace);
        Self {
            owner: fields.parsed("owner"),
            features: words("features").map(|words| words.map(str::to_owned).collect()),
            workers: words("workers")
                .map(|words| words.filter_map(|word| word.parse().ok()).collect()),
        }
    }
}

/// The owner and the number of a device in the name `<pid>-<n>` of its folder.
#[must_use]
pub fn folder(name: &str) -> Option<(i32, u64)> {
    let (owner, number) = name.split_once('-')?;
    Some((owner.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{DeviceState, QueueState, Wait, folder};

    #[test]
    fn known_keys_are_read_and_others_passed_over() {
        let state = QueueState::parse(
            b"running:\tno\nstarted:\tyes\nsize:\t256\nkicks:\twanted\ncalls:\tunwanted\n\
              waits_for:\tpacket\nbackend:\ttap\ninterface:\ttap0\nworker:\t12\ncolour:\tblue\n",
        );
        assert_eq!(state.started, Some(true));
        assert_eq!(state.size, Some(256));
        assert_eq!(state.kicks_wanted, Some(true));
        assert_eq!(state.calls_wanted, Some(false));
        assert_eq!(state.waits_for, Some(Wait::Packet));
        assert_eq!(state.interface.as_deref(), Some("tap0"));
        assert_eq!(state.available, None);
    }

    #[test]
    fn a_device_has_features_and_workers() {
        let state = DeviceState::parse(b"owner:\t9\nfeatures:\tversion_1 bit_77\nworkers:\t4 5\n");
        assert_eq!(state.owner, Some(9));
        assert_eq!(state.features.unwrap(), ["version_1", "bit_77"]);
        assert_eq!(state.workers.unwrap(), [4, 5]);
    }

    #[test]
    fn folders_are_named_by_owner_and_number() {
        assert_eq!(folder("4711-3"), Some((4711, 3)));
        for name in ["4711", "a-3", "3-", ""] {
            assert_eq!(folder(name), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>, name: String) {
            let _ = (QueueState::parse(&bytes), DeviceState::parse(&bytes), folder(&name));
        }
    }
}
