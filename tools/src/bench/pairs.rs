// SPDX-License-Identifier: GPL-2.0
//! Wall-clock measurements of both devices, whose runs alternated.

use selftests::bench::record::Record;
use selftests::bench::stats;

use crate::vm::device::{C_VHOST, RNET};

/// The case whose throughput has a target above that of vhost-net, and that target as a ratio.
const FAST_CASE: &str = "tx-60";
const FAST_BOUND: f64 = 1.15;

/// The runs of one measurement on both devices.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The name of the case.
    pub name: String,
    /// Values of our device, one for each run.
    pub ours: Vec<f64>,
    /// Those of the kernel's own.
    pub theirs: Vec<f64>,
    /// Nanoseconds of our worker per packet.
    pub ours_worker: Vec<f64>,
    /// Those of the kernel's own.
    pub theirs_worker: Vec<f64>,
}

/// Which values are the better ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Packets per second.
    High,
    /// Times.
    Low,
}

impl Pair {
    /// Whether each of our runs is worse than each of theirs, so that the
    /// difference is larger than the spread.
    fn worse(&self, better: Better) -> bool {
        let (ours, theirs) = match better {
            Better::High => (&self.ours, &self.theirs),
            Better::Low => (&self.theirs, &self.ours),
        };
        let high = ours.iter().copied().reduce(f64::max);
        let low = theirs.iter().copied().reduce(f64::min);
        high.zip(low).is_some_and(|(high, low)| high < low)
    }

    /// Whether the target is reached: no case slower, and [`FAST_CASE`] faster.
    pub fn verdict(&self, better: Better) -> &'static str {
        let fast = self.name == FAST_CASE && better == Better::High;
        if fast && self.ratio().is_some_and(|ratio| ratio < FAST_BOUND) {
            "MISSED"
        } else if self.worse(better) {
            "WORSE"
        } else {
            "holds"
        }
    }

    /// The median of our runs in relation to that of theirs.
    pub fn ratio(&self) -> Option<f64> {
        let theirs = stats::median(&self.theirs).filter(|value| *value > 0.0)?;
        Some(stats::median(&self.ours)? / theirs)
    }

    /// Smallest and largest ratio of runs that followed each other, if there were several.
    pub fn range(&self) -> Option<(f64, f64)> {
        let ratios: Vec<f64> = self
            .ours
            .iter()
            .zip(&self.theirs)
            .filter(|(_, theirs)| **theirs > 0.0)
            .map(|(ours, theirs)| ours / theirs)
            .collect();
        let low = ratios.iter().copied().reduce(f64::min)?;
        let high = ratios.iter().copied().reduce(f64::max)?;
        (ratios.len() > 1).then_some((low, high))
    }
}

/// Groups the `(name, device, value, worker)` that `pick` takes from records by name.
fn pairs(
    records: &[Record],
    pick: impl Fn(&Record) -> Option<(String, &str, f64, f64)>,
) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    for (name, device, value, worker) in records.iter().filter_map(pick) {
        let at = pairs.iter().position(|pair| pair.name == name);
        let at = at.unwrap_or_else(|| {
            pairs.push(Pair {
                name,
                ours: Vec::new(),
                theirs: Vec::new(),
                ours_worker: Vec::new(),
                theirs_worker: Vec::new(),
            });
            pairs.len() - 1
        });
        if let Some(pair) = pairs.get_mut(at) {
            if device == RNET {
                pair.ours.push(value);
                pair.ours_worker.push(worker);
            } else if device == C_VHOST {
                pair.theirs.push(value);
                pair.theirs_worker.push(worker);
            }
        }
    }
    pairs
}

/// Packets per second by case, and by number of queue pairs where there are several.
pub fn throughput(records: &[Record]) -> Vec<Pair> {
    pairs(records, |record| match record {
        Record::Throughput(r) => {
            let name = match r.pairs {
                1 => r.case.clone(),
                pairs => format!("{}, {pairs} queue pairs", r.case),
            };
            Some((name, &r.device, r.packets_per_second, r.worker_ns))
        }
        _ => None,
    })
}

/// Median times of one packet by case, in nanoseconds.
pub fn latency(records: &[Record]) -> Vec<Pair> {
    pairs(records, |record| match record {
        Record::Latency(r) => Some((r.case.clone(), &r.device, r.median_ns, r.worker_ns)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Better, FAST_CASE, Pair};

    #[test]
    fn worse_is_what_no_run_makes_up_for() {
        let pair = |name: &str, ours: &[f64], theirs: &[f64]| Pair {
            name: name.into(),
            ours: ours.to_vec(),
            theirs: theirs.to_vec(),
            ours_worker: Vec::new(),
            theirs_worker: Vec::new(),
        };
        let close = pair("x", &[90.0, 101.0], &[100.0, 102.0]);
        assert_eq!(close.verdict(Better::High), "holds");
        let slow = pair("x", &[90.0, 99.0], &[100.0, 102.0]);
        assert_eq!(slow.verdict(Better::High), "WORSE");
        assert_eq!(slow.verdict(Better::Low), "holds");
        let fast = pair(FAST_CASE, &[110.0], &[100.0]);
        assert_eq!(fast.verdict(Better::High), "MISSED");
    }
}
