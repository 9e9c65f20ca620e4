// SPDX-License-Identifier: GPL-2.0
//! Telling a guest that stands still from one that waits for its network.

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The name of the guest's port for its pulse; see `tools/vm/guest-shell.sh`.
pub const PORT: &str = "pulse";

/// Without a pulse for this long, a guest stands still: it sends one every two seconds.
const STILL: Duration = Duration::from_secs(60);

/// What a program in the guest writes at regular times, in a file that only grows.
pub struct Pulse {
    file: PathBuf,
    len: u64,
    last: Instant,
}

impl Pulse {
    /// The pulse that QEMU writes to `file`.
    pub fn new(file: PathBuf) -> Self {
        Self {
            file,
            len: 0,
            last: Instant::now(),
        }
    }

    /// Looks for a pulse, and answers whether none has come for longer than a running guest takes.
    /// A guest that has never had one has not booted.
    pub fn stopped(&mut self) -> bool {
        let len = std::fs::metadata(&self.file).map_or(0, |file| file.len());
        let silence = self.silence(len, Instant::now());
        self.len != 0 && silence >= STILL
    }

    /// How long no pulse has come, if the file has `len` bytes `now`.
    fn silence(&mut self, len: u64, now: Instant) -> Duration {
        if len != self.len {
            self.len = len;
            self.last = now;
        }
        now.duration_since(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_growing_file_is_a_pulse() {
        let mut pulse = Pulse::new(PathBuf::new());
        let start = pulse.last;
        let mut silence = |len, seconds| {
            let now = start + Duration::from_secs(seconds);
            pulse.silence(len, now).as_secs()
        };
        assert_eq!(silence(0, 3), 3);
        assert_eq!(silence(1, 5), 0);
        assert_eq!(silence(1, 9), 4);
        assert_eq!(silence(4, 70), 0);
        assert_eq!(silence(4, 131), 61);
    }
}
