// SPDX-License-Identifier: GPL-2.0
//! Reading what the guest reports on its port.

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// What the guest printed, line by line.
#[derive(Default)]
pub struct Transcript {
    lines: Vec<String>,
}

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

impl Transcript {
    /// Adds a line.
    pub fn push(&mut self, line: String) {
        self.lines.push(line);
    }

    /// Returns the text of section `name`.
    fn section(&self, name: &str) -> Result<String> {
        let mark = format!("@@{name}");
        let mut lines = self.lines.iter().skip_while(|line| **line != mark);
        lines
            .next()
            .with_context(|| format!("the guest did not get to \"{name}\""))?;
        let text: Vec<&str> = lines
            .take_while(|line| !line.starts_with("@@"))
            .map(String::as_str)
            .collect();
        Ok(text.join("\n"))
    }

    /// Returns pings sent, pings answered, and the mean round trip in ms.
    pub fn ping(&self) -> Result<(u32, u32, f64)> {
        pings(&self.section("ping")?)
    }

    /// Returns how many bytes came back unchanged.
    pub fn echoed(&self) -> Result<u64> {
        let text = self.section("echo")?;
        match text.lines().find_map(|line| line.strip_prefix("same ")) {
            Some(size) => Ok(size.parse()?),
            None => bail!("echoed data differ: {text}"),
        }
    }

    /// Returns the bits per second that an iperf3 run's receiver saw.
    pub fn throughput(&self, name: &str) -> Result<f64> {
        let text = self.section(name)?;
        let output: IperfOutput =
            serde_json::from_str(&text).with_context(|| format!("iperf3 said: {text}"))?;
        if let Some(error) = output.error {
            bail!("iperf3 ({name}): {error}");
        }
        let sum = output.end.and_then(|end| end.sum_received);
        Ok(sum.context("iperf3 gave no sum")?.bits_per_second)
    }

    /// Returns round trips per second of pings sent one after the other.
    pub fn requests(&self) -> Result<f64> {
        let (sent, answered, mean) = pings(&self.section("requests")?)?;
        // A mean of zero or none at all is no rate.
        if answered < sent || mean.is_nan() || mean <= 0.0 {
            bail!("{answered} of {sent} requests answered");
        }
        Ok(1000.0 / mean)
    }

    /// Returns the interrupts of the network device's queues.
    pub fn interrupts(&self) -> Result<u64> {
        let text = self.section("interrupts")?;
        let mut total = 0;
        for line in text.lines() {
            if line.contains("-input.") || line.contains("-output.") {
                total += line
                    .split_whitespace()
                    .skip(1)
                    .map_while(|word| word.parse::<u64>().ok())
                    .sum::<u64>();
            }
        }
        Ok(total)
    }

    /// Fails unless the guest came to its end.
    pub fn ended(&self) -> Result<()> {
        self.section("end").map(drop)
    }
}

/// Reads what ping says: sent, answered, mean round trip in ms.
fn pings(text: &str) -> Result<(u32, u32, f64)> {
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
    use super::Transcript;

    fn transcript(text: &str) -> Transcript {
        let mut transcript = Transcript::default();
        text.lines()
            .for_each(|line| transcript.push(line.to_owned()));
        transcript
    }

    #[test]
    fn a_good_run_is_read() {
        let run = transcript(
            "@@ping\n\
             10 packets transmitted, 9 packets received, 10% packet loss\n\
             round-trip min/avg/max = 0.5/0.7/1.1 ms\n\
             @@echo\nsame 4096\n\
             @@sends\n{\"end\":{\"sum_received\":{\"bits_per_second\":1e9}}}\n\
             @@requests\n\
             9 packets transmitted, 9 packets received, 0% packet loss\n\
             round-trip min/avg/max = 0.1/0.5/1.1 ms\n\
             @@interrupts\n\
             25: 10 20 PCI-MSIX-0000:00:03.0 1-edge virtio1-input.0\n\
             26: 1 2 PCI-MSIX-0000:00:03.0 2-edge virtio1-output.0\n\
             27: 7 7 PCI-MSIX-0000:00:02.0 2-edge virtio0-virtqueues\n\
             @@end\n",
        );
        assert_eq!(run.ping().unwrap(), (10, 9, 0.7));
        assert_eq!(run.echoed().unwrap(), 4096);
        assert_eq!(run.throughput("sends").unwrap(), 1e9);
        assert_eq!(run.requests().unwrap(), 2000.0);
        assert_eq!(run.interrupts().unwrap(), 33);
        run.ended().unwrap();
    }

    #[test]
    fn failures_are_told() {
        let run = transcript(
            "@@ping\n\
             10 packets transmitted, 0 packets received, 100% packet loss\n\
             @@echo\ncmp: /tmp/returned differ: byte 7\n\
             @@sends\n{\"end\":{},\"error\":\"unable to connect\"}\n",
        );
        let (sent, answered, mean) = run.ping().unwrap();
        assert_eq!((sent, answered), (10, 0));
        assert!(mean.is_nan());
        assert!(run.echoed().is_err());
        assert!(run.throughput("sends").is_err());
        assert!(run.throughput("receives").is_err());
        assert!(run.ended().is_err());
    }
}
