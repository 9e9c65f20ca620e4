// SPDX-License-Identifier: GPL-2.0
//! Parsing the output of programs in the guest.

use anyhow::{Context, Result, bail};
use serde::Deserialize;

#[derive(Deserialize)]
struct IperfOutput {
    error: Option<String>,
    end: Option<IperfEnd>,
}

#[derive(Deserialize)]
struct IperfEnd {
    sum_received: Option<IperfSum>,
}

#[derive(Deserialize)]
struct IperfSum {
    bits_per_second: f64,
}

/// Returns the bits per second that an iperf3 run's receiver saw.
pub fn throughput(text: &str) -> Result<f64> {
    let output: IperfOutput =
        serde_json::from_str(text).with_context(|| format!("iperf3 said: {text}"))?;
    if let Some(error) = output.error {
        bail!("iperf3: {error}");
    }
    let sum = output.end.and_then(|end| end.sum_received);
    Ok(sum.context("iperf3 gave no sum")?.bits_per_second)
}

/// Returns round trips per second of pings sent one after the other.
pub fn requests(text: &str) -> Result<f64> {
    let (sent, answered, mean) = pings(text)?;
    // A mean of zero or none at all is no rate.
    if answered < sent || mean.is_nan() || mean <= 0.0 {
        bail!("{answered} of {sent} requests answered");
    }
    Ok(1000.0 / mean)
}

/// Returns the interrupts of the network device's queues, from `/proc/interrupts`.
pub fn interrupts(text: &str) -> u64 {
    let of_queues = |line: &&str| line.contains("-input.") || line.contains("-output.");
    let counts = |line: &str| {
        line.split_whitespace()
            .skip(1)
            .map_while(|word| word.parse::<u64>().ok())
            .sum::<u64>()
    };
    text.lines().filter(of_queues).map(counts).sum()
}

/// Reads what ping says: sent, answered, mean round trip in ms.
pub fn pings(text: &str) -> Result<(u32, u32, f64)> {
    let counts = text
        .lines()
        .find(|line| line.contains("packets transmitted"))
        .with_context(|| format!("ping said: {text}"))?;
    let mut numbers = counts
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|word| word.parse::<u32>().ok());
    let sent = numbers.next().context("no count of pings")?;
    let answered = numbers.next().context("no count of answers")?;
    // "round-trip min/avg/max = 0.5/0.7/1.1 ms", absent without an answer.
    let mean = text
        .lines()
        .find_map(|line| line.split_once("min/avg/max = ")?.1.split('/').nth(1))
        .and_then(|mean| mean.parse().ok());
    Ok((sent, answered, mean.unwrap_or(f64::NAN)))
}

#[cfg(test)]
mod tests {
    use super::{interrupts, pings, requests, throughput};

    const GOOD: &str = "9 packets transmitted, 9 packets received, 0% packet loss\n\
                        round-trip min/avg/max = 0.1/0.5/1.1 ms\n";

    #[test]
    fn a_good_run_is_read() {
        assert_eq!(pings(GOOD).unwrap(), (9, 9, 0.5));
        assert_eq!(requests(GOOD).unwrap(), 2000.0);
        let iperf = "{\"end\":{\"sum_received\":{\"bits_per_second\":1e9}}}";
        assert_eq!(throughput(iperf).unwrap(), 1e9);
        let counts = interrupts(
            "25: 10 20 PCI-MSIX-0000:00:03.0 1-edge virtio1-input.0\n\
             26: 1 2 PCI-MSIX-0000:00:03.0 2-edge virtio1-output.0\n\
             27: 7 7 PCI-MSIX-0000:00:02.0 2-edge virtio0-virtqueues\n",
        );
        assert_eq!(counts, 33);
    }

    #[test]
    fn failures_are_told() {
        let none = "10 packets transmitted, 0 packets received, 100% packet loss\n";
        let (sent, answered, mean) = pings(none).unwrap();
        assert_eq!((sent, answered), (10, 0));
        assert!(mean.is_nan());
        assert!(requests(none).is_err());
        assert!(throughput("{\"end\":{},\"error\":\"unable to connect\"}").is_err());
        assert!(throughput("").is_err());
    }
}
