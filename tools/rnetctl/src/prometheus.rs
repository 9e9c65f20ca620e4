// SPDX-License-Identifier: GPL-2.0
//! Counters in the text format of Prometheus, for the textfile collector of its node exporter.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::device::{Device, Direction, Kind};
use crate::rates::is_gauge;

/// What a metric is called, what it says and how a counter's key is told apart within it.
struct Family {
    /// The beginning of the keys, or the whole of one if there is no label.
    key: &'static str,
    /// The metric's name without `vhost_rnet_` and `_total`.
    name: &'static str,
    /// What it says.
    help: &'static str,
    /// The label that has the rest of the key.
    label: Option<&'static str>,
}

const fn one(key: &'static str, help: &'static str) -> Family {
    Family {
        key,
        name: key,
        help,
        label: None,
    }
}

const fn many(
    key: &'static str,
    name: &'static str,
    label: &'static str,
    help: &'static str,
) -> Family {
    Family {
        key,
        name,
        help,
        label: Some(label),
    }
}

/// The metrics. A key belongs to the first that takes it; one that none takes is called after
/// itself.
const FAMILIES: &[Family] = &[
    one("rounds", "Rounds in which the queue looked for work."),
    one("packets", "Packets moved; for transmit, those dropped too."),
    one("bytes", "Bytes moved, headers included."),
    one("dropped", "Packets dropped, for any reason."),
    one("batches", "Batches of used buffers published."),
    one("calls", "Calls to the guest."),
    one(
        "calls_unwanted",
        "Batches after which the guest wanted no call.",
    ),
    one("faults", "Faults of any kind."),
    one("kicks", "Kicks of the guest."),
    one("backend_events", "Wake-ups by the backend."),
    one("busy_poll_hits", "Busy polls that found work."),
    one("busy_poll_misses", "Busy polls that found none."),
    one("iotlb_misses", "Translations that the owner was asked for."),
    one("wakeups", "Rounds that began because the worker was woken."),
    one("gso", "Packets to be segmented."),
    one(
        "watchdog",
        "Times that the watchdog made the queue look again.",
    ),
    one("pages_kept", "Pages for frames that are kept for later."),
    Family {
        key: "progress_ms",
        name: "progress_age_milliseconds",
        help: "Time since a packet was last moved.",
        label: None,
    },
    Family {
        key: "fault_ms",
        name: "fault_age_milliseconds",
        help: "Time since the last fault.",
        label: None,
    },
    many(
        "size_",
        "packets_by_size",
        "size",
        "Packets by length, up to so many bytes.",
    ),
    many(
        "dropped_",
        "dropped_by_reason",
        "reason",
        "Packets dropped, by reason.",
    ),
    many(
        "ended_",
        "rounds_ended",
        "reason",
        "Rounds, by the reason for which they ended.",
    ),
    many("fault_", "faults_by_kind", "kind", "Faults, by kind."),
];

/// The samples of one metric.
struct Metric {
    help: String,
    gauge: bool,
    lines: String,
}

/// The metrics of `devices`.
#[must_use]
pub fn render(devices: &[&Device]) -> String {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    for device in devices.iter().filter(|device| device.kind == Kind::Rnet) {
        for direction in Direction::ALL {
            let labels = labels(device, direction);
            for (key, value) in device.queue(direction).counters.iter() {
                let (name, help, label) = named(key);
                let metric = metrics.entry(name.clone()).or_insert_with(|| Metric {
                    help,
                    gauge: is_gauge(key),
                    lines: String::new(),
                });
                // Writing to a string never fails.
                let _ = writeln!(metric.lines, "{name}{{{labels}{label}}} {value}");
            }
        }
    }
    for device in devices {
        for direction in Direction::ALL {
            let state = device.queue(direction).state.as_ref();
            if let Some(stopped) = state.and_then(|state| state.stopped) {
                let name = "vhost_rnet_queue_stopped";
                let metric = metrics.entry(name.to_owned()).or_insert_with(|| Metric {
                    help: "Whether a fault has stopped the queue.".to_owned(),
                    gauge: true,
                    lines: String::new(),
                });
                let (labels, stopped) = (labels(device, direction), u8::from(stopped));
                let _ = writeln!(metric.lines, "{name}{{{labels}}} {stopped}");
            }
        }
    }
    let mut text = format!(
        "# HELP vhost_rnet_devices Open devices.\n# TYPE vhost_rnet_devices gauge\n\
         vhost_rnet_devices {}\n",
        devices
            .iter()
            .filter(|device| device.kind == Kind::Rnet)
            .count()
    );
    for (name, metric) in metrics {
        let kind = if metric.gauge { "gauge" } else { "counter" };
        let _ = write!(
            text,
            "# HELP {name} {}\n# TYPE {name} {kind}\n{}",
            metric.help, metric.lines
        );
    }
    text
}

/// The metric of the counter `key`: its name, its help, and the label that it adds.
fn named(key: &str) -> (String, String, String) {
    let found = FAMILIES.iter().find_map(|family| match family.label {
        None => (family.key == key).then(|| (family, String::new())),
        Some(label) => {
            let member = key.strip_prefix(family.key)?;
            Some((family, format!(",{label}=\"{}\"", escaped(member))))
        }
    });
    let (name, help, label) = match found {
        Some((family, label)) => (family.name.to_owned(), family.help.to_owned(), label),
        None => {
            let name: String = key
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
                .collect();
            // The characters of the name are all that may be in a line of help.
            let help = format!("The counter {name} of the module.");
            (name, help, String::new())
        }
    };
    let total = if is_gauge(key) { "" } else { "_total" };
    (format!("vhost_rnet_{name}{total}"), help, label)
}

/// The labels of a device's queue.
fn labels(device: &Device, direction: Direction) -> String {
    let interfaces: Vec<_> = device.interfaces.iter().map(String::as_str).collect();
    let number = device.number.map(|number| number.to_string());
    format!(
        "device=\"{}\",pid=\"{}\",fd=\"{}\",vm=\"{}\",interface=\"{}\",queue=\"{direction}\"",
        number.unwrap_or_default(),
        device.process.pid,
        device.fd,
        escaped(device.process.known_as()),
        escaped(&interfaces.join(",")),
    )
}

/// A label's value: a backslash, a quotation mark and a line's end are escaped as the format
/// demands. Other control characters are replaced, since it knows no way to write them.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c if crate::output::is_disturbing(c) => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{escaped, named};

    #[test]
    fn families_have_labels() {
        let rows = [
            ("packets", "vhost_rnet_packets_total", ""),
            (
                "size_64",
                "vhost_rnet_packets_by_size_total",
                ",size=\"64\"",
            ),
            ("dropped", "vhost_rnet_dropped_total", ""),
            (
                "dropped_header",
                "vhost_rnet_dropped_by_reason_total",
                ",reason=\"header\"",
            ),
            ("fault_ms", "vhost_rnet_fault_age_milliseconds", ""),
            (
                "fault_base",
                "vhost_rnet_faults_by_kind_total",
                ",kind=\"base\"",
            ),
            ("pages_kept", "vhost_rnet_pages_kept", ""),
            ("new-\"one", "vhost_rnet_new__one_total", ""),
        ];
        for (key, name, label) in rows {
            let (found, _, added) = named(key);
            assert_eq!((&*found, &*added), (name, label));
        }
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escaped("a\"\\\n\x1b"), "a\\\"\\\\\\n\u{fffd}");
    }
}
