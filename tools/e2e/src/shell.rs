// SPDX-License-Identifier: GPL-2.0
//! Running commands in the guest, over a virtio port.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::pulse::Pulse;
use crate::qmp;

/// The prefix of the line with the status that ends a reply; see `tools/vm/guest-shell.sh`.
const END: &str = "@@";

/// The message of QEMU when KVM stops a guest for good.
pub const STOPPED: &str = "KVM internal error";

/// The message in QEMU's log about a guest that gives no answer and no pulse.
pub const STILL: &str = "the guest stands still";

/// After this long without output, QEMU's log is searched for [`STOPPED`].
const SILENCE: Duration = Duration::from_secs(1);

/// A guest's shell.
pub struct Shell {
    reader: BufReader<UnixStream>,
    /// QEMU's log.
    log: PathBuf,
    pulse: Option<Pulse>,
    limit: Duration,
}

impl Shell {
    /// Talks to the guest behind the socket at `path`, whose QEMU prints to `log` and which may have
    /// a `pulse`; waits up to `limit` for each line of an answer.
    ///
    /// # Errors
    ///
    /// When QEMU does not listen there.
    pub fn connect(path: &Path, log: &Path, pulse: Option<Pulse>, limit: Duration) -> Result<Self> {
        let stream = qmp::connect(path)?;
        stream.set_read_timeout(Some(SILENCE.min(limit)))?;
        Ok(Self {
            reader: BufReader::new(stream),
            log: log.to_owned(),
            pulse,
            limit,
        })
    }

    /// Waits for the guest to have booted.
    ///
    /// # Errors
    ///
    /// When it does not in time.
    pub fn wait(&mut self) -> Result<()> {
        let (_, said) = self.answer().context("the guest does not boot")?;
        ensure!(said.is_empty(), "the guest's first words: {said}");
        Ok(())
    }

    /// Runs a line; answers what it printed.
    ///
    /// # Errors
    ///
    /// When it fails, with what it printed, or does not end in time.
    pub fn run(&mut self, line: &str) -> Result<String> {
        self.send(line)?;
        match self.answer().with_context(|| format!("guest: {line}"))? {
            (0, said) => Ok(said),
            (status, said) => bail!("guest: {line}: ended with {status}: {said}"),
        }
    }

    /// Sends a line without waiting for a reply.
    ///
    /// # Errors
    ///
    /// When QEMU is gone.
    pub fn send(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.reader.get_mut(), "{line}")?)
    }

    fn answer(&mut self) -> Result<(i32, String)> {
        let mut said = String::new();
        loop {
            let line = self
                .line()
                .with_context(|| format!("no answer; so far: {said}"))?;
            match line.trim_end().strip_prefix(END) {
                Some(status) => return Ok((status.parse()?, said.trim().to_owned())),
                None => said.push_str(&line),
            }
        }
    }

    fn line(&mut self) -> Result<String> {
        let start = Instant::now();
        let mut line = String::new();
        loop {
            // A part of a line that came before the time limit stays in `line`.
            match self.reader.read_line(&mut line) {
                Ok(0) => bail!("QEMU ended"),
                Ok(_) => return Ok(line),
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
                Err(_) => {
                    let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                    ensure!(!log.contains(STOPPED), "{STOPPED}");
                    let still = self.pulse.as_mut().is_some_and(Pulse::stopped);
                    if start.elapsed() >= self.limit {
                        ensure!(!still, "{}", self.note(STILL)?);
                        bail!("silence");
                    }
                }
            }
        }
    }

    /// Appends `message` to QEMU's log, and returns it.
    fn note<'a>(&self, message: &'a str) -> Result<&'a str> {
        let mut log = File::options().append(true).open(&self.log)?;
        writeln!(log, "{message}")?;
        Ok(message)
    }
}
