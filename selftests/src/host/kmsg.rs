// SPDX-License-Identifier: GPL-2.0

//! Lines of ours in the kernel's log, which say what had begun when the kernel complained.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;

/// What has begun, as the log says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// A case of this name.
    Case(String),
    /// An episode.
    Episode {
        /// Its fuzzer's name.
        fuzzer: String,
        /// Its seed.
        seed: u64,
    },
}

/// What the line of a case begins with.
const CASE: &str = "rnet-selftest: ";

/// What the line of an episode begins with.
const EPISODE: &str = "rnet-fuzz: ";

/// What is between an episode's fuzzer and its seed.
const SEED: &str = " seed ";

impl Begun {
    /// Writes it to the kernel's log, if this process may.
    pub fn note(&self) {
        // Opened anew: the kernel limits how fast lines come through one opening.
        if let Ok(mut log) = OpenOptions::new().write(true).open("/dev/kmsg") {
            let _ = log.write_all(format!("{self}\n").as_bytes());
        }
    }

    /// Reads it from a line of the kernel's log.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let text = line.split_once("] ").map_or(line, |(_, text)| text);
        // The kernel begins some lines of its own with the name of the process, too.
        if let Some(name) = text.strip_prefix(CASE) {
            return (!name.contains(' ')).then(|| Self::Case(name.to_owned()));
        }
        let (fuzzer, seed) = text.strip_prefix(EPISODE)?.split_once(SEED)?;
        Some(Self::Episode {
            fuzzer: fuzzer.to_owned(),
            seed: seed.parse().ok()?,
        })
    }
}

impl fmt::Display for Begun {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Case(name) => write!(to, "{CASE}{name}"),
            Self::Episode { fuzzer, seed } => write!(to, "{EPISODE}{fuzzer}{SEED}{seed}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Begun;

    #[test]
    fn lines_are_read_as_they_are_written() {
        for begun in [
            Begun::Case("rx.integrity".to_owned()),
            Begun::Episode {
                fuzzer: "ioctls".to_owned(),
                seed: u64::MAX,
            },
        ] {
            for time in ["", "[   12.345678] ", "[   12.345678][  T123] "] {
                assert_eq!(
                    Begun::parse(&format!("{time}{begun}")).as_ref(),
                    Some(&begun)
                );
            }
        }
    }

    #[test]
    fn other_lines_are_none() {
        for line in [
            "",
            "[    1.0] vhost_rnet: loading out-of-tree module taints kernel.",
            "[    1.0] rnet-selftest: page allocation failure: order:0, mode:0xcc0(GFP_KERNEL)",
            "[    1.0] rnet-fuzz: page allocation failure: order:0, mode:0xcc0(GFP_KERNEL)",
            "[    1.0] rnet-fuzz: guest seed",
        ] {
            assert_eq!(Begun::parse(line), None);
        }
    }
}
