// SPDX-License-Identifier: GPL-2.0
//! What `/proc/<pid>/fdinfo/<fd>` says of an open device: `src/what-a-queue-does.md` describes it.

use std::collections::BTreeMap;

use crate::fields::Fields;

/// The counters of one queue since the device was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    values: BTreeMap<String, u64>,
    /// The name of the last fault, `none` before the first.
    pub last_fault: Option<String>,
}

impl Counters {
    /// The counter called `key` without its `rx_` or `tx_`; `None` if this module does not have it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<u64> {
        self.values.get(key).copied()
    }

    /// All counters, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.values.iter().map(|(key, value)| (&**key, *value))
    }

    /// Adds the words of a line `rx:` or `tx:`: keys, each with a value behind it.
    fn add_line(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        while let (Some(key), Some(value)) = (words.next(), words.next()) {
            if key == "last_fault" {
                self.last_fault = Some(value.to_owned());
            } else if let Ok(value) = value.parse() {
                self.values.insert(key.to_owned(), value);
            }
        }
    }
}

/// What the file of an open `/dev/vhost-rnet` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FdInfo {
    /// The number of the open device, unique while the module is loaded.
    pub device: Option<u64>,
    /// The process that owns the device; `None` without an owner, or if the module does not say.
    pub owner: Option<i32>,
    /// Packets to the guest.
    pub rx: Counters,
    /// Packets from the guest.
    pub tx: Counters,
}

impl FdInfo {
    /// Reads the file's text; `None` if it is not that of a vhost-rnet device.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let fields = Fields::parse(bytes);
        let mut info = Self {
            device: fields.parsed("device"),
            owner: fields.parsed("owner"),
            ..Self::default()
        };
        info.rx.add_line(fields.get("rx")?);
        info.tx.add_line(fields.get("tx")?);
        for (key, value) in fields.iter() {
            let Ok(value) = value.parse() else { continue };
            if let Some(key) = key.strip_prefix("rx_") {
                info.rx.values.insert(key.to_owned(), value);
            } else if let Some(key) = key.strip_prefix("tx_") {
                info.tx.values.insert(key.to_owned(), value);
            }
        }
        Some(info)
    }
}

/// The interface that a file of `/dev/net/tun` is attached to, by its fdinfo.
#[must_use]
pub fn tun_interface(bytes: &[u8]) -> Option<String> {
    let fields = Fields::parse(bytes);
    let name = fields.get("iff")?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{FdInfo, tun_interface};

    const TEXT: &str = "pos:\t0\nflags:\t02\ndevice:\t7\nowner:\t4711\n\
        rx:\trounds 8 packets 5 bytes 300 dropped 1 batches 2 calls 1 faults 1 last_fault loop\n\
        tx:\trounds 2 packets 4 bytes 200 dropped 0 batches 1 calls 0 faults 0 last_fault none\n\
        rx_kicks:\t3\ntx_kicks:\t9\ntx_new_key:\t1\nrx_odd:\tword\n";

    #[test]
    fn counters_of_both_kinds_of_lines_are_read() {
        let info = FdInfo::parse(TEXT.as_bytes()).unwrap();
        assert_eq!((info.device, info.owner), (Some(7), Some(4711)));
        assert_eq!(info.rx.get("packets"), Some(5));
        assert_eq!(info.rx.get("kicks"), Some(3));
        assert_eq!(info.tx.get("kicks"), Some(9));
        assert_eq!(info.tx.get("new_key"), Some(1));
        assert_eq!(info.rx.get("odd"), None);
        assert_eq!(info.rx.last_fault.as_deref(), Some("loop"));
    }

    #[test]
    fn other_files_are_told_apart() {
        assert_eq!(FdInfo::parse(b"pos:\t0\nflags:\t02\n"), None);
        assert_eq!(
            tun_interface(b"pos:\t0\niff:\ttap0\n").as_deref(),
            Some("tap0")
        );
        assert_eq!(tun_interface(b"pos:\t0\niff:\t\n"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>) {
            let _ = FdInfo::parse(&bytes);
            let _ = FdInfo::parse(&[b"rx:\t", &bytes[..], b"\ntx:\t", &bytes[..]].concat());
            let _ = tun_interface(&bytes);
        }
    }
}
