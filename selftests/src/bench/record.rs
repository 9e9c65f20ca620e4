// SPDX-License-Identifier: GPL-2.0

//! What the measuring program prints: one JSON object per line.

use serde::{Deserialize, Serialize};

/// One result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// What the worker ran per packet.
    Instructions(Instructions),
    /// Packets per second.
    Throughput(Throughput),
    /// Time for one packet at a time.
    Latency(Latency),
    /// What the tap alone costs.
    Floor(Floor),
    /// Where the worker's run time goes.
    Share(Share),
    /// A case that the device cannot take part in.
    Skipped(Skipped),
}

/// What the worker ran per packet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instructions {
    /// Name of the case.
    pub case: String,
    /// The device's node.
    pub device: String,
    /// Number of the run, from one.
    pub run: u32,
    /// Packets measured.
    pub packets: u64,
    /// Nanoseconds of run time per packet: instructions where one takes one nanosecond.
    pub per_packet: f64,
    /// Kicks per packet.
    pub kicks: f64,
    /// Calls per packet.
    pub calls: f64,
    /// How often the worker was put on a processor, per packet.
    pub slices: f64,
}

/// Packets per second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// Name of the case.
    pub case: String,
    /// The device's node.
    pub device: String,
    /// Number of the run, from one.
    pub run: u32,
    /// Queue pairs that carried frames.
    pub pairs: usize,
    /// Packets per second of all pairs together.
    pub packets_per_second: f64,
    /// Nanoseconds of processor time of all workers per packet.
    pub worker_ns: f64,
    /// Kicks per packet.
    pub kicks: f64,
    /// Calls per packet.
    pub calls: f64,
}

/// Time for one packet at a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Name of the case.
    pub case: String,
    /// The device's node.
    pub device: String,
    /// Number of the run, from one.
    pub run: u32,
    /// Packets measured.
    pub packets: u64,
    /// Median in nanoseconds.
    pub median_ns: f64,
    /// 99th percentile in nanoseconds.
    pub p99_ns: f64,
    /// Nanoseconds of processor time of the worker per packet.
    pub worker_ns: f64,
}

/// What the tap alone costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// Name of the case.
    pub case: String,
    /// How it was found.
    pub method: String,
    /// Number of the run, from one.
    pub run: u32,
    /// Packets measured.
    pub packets: u64,
    /// Nanoseconds of processor time per packet: instructions where one takes one nanosecond.
    pub per_packet: f64,
}

/// Where the worker's run time goes: the shares of a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Name of the case.
    pub case: String,
    /// The device's node.
    pub device: String,
    /// Samples of the worker.
    pub samples: u64,
    /// The tap's and the network stack's.
    pub tap: f64,
    /// Notifications and the scheduler.
    pub notify: f64,
    /// Vhost's own.
    pub own: f64,
}

/// A case that the device cannot take part in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    /// Name of the case.
    pub case: String,
    /// The device's node.
    pub device: String,
    /// Why.
    pub reason: String,
}

/// The records among the lines of `output`; other lines are for people.
#[must_use]
pub fn parse(output: &str) -> Vec<Record> {
    output
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_a_line() {
        let record = Record::Instructions(Instructions {
            case: "tx-60".into(),
            device: "/dev/x".into(),
            run: 1,
            packets: 64,
            per_packet: 1.5,
            kicks: 0.25,
            calls: 0.5,
            slices: 0.125,
        });
        let line = serde_json::to_string(&record).expect("plain data");
        assert!(line.contains(r#""kind":"instructions""#), "{line}");
        assert_eq!(parse(&format!("noise\n{line}\n{{}}\n")), [record]);
    }
}
