// SPDX-License-Identifier: GPL-2.0
//! Commands for the guest, over a virtio port.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::qmp;

/// Starts the line with the status that ends an answer; see `tools/vm/guest-shell.sh`.
const END: &str = "@@";

/// A guest's shell.
pub struct Shell {
    reader: BufReader<UnixStream>,
}

impl Shell {
    /// Talks to the guest behind the socket at `path`, which waits up to `limit` for each answer.
    ///
    /// # Errors
    ///
    /// When QEMU does not listen there.
    pub fn connect(path: &Path, limit: Duration) -> Result<Self> {
        let stream = qmp::connect(path)?;
        stream.set_read_timeout(Some(limit))?;
        Ok(Self {
            reader: BufReader::new(stream),
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

    /// Has a line run whose answer nobody waits for.
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
            let mut line = String::new();
            let read = self
                .reader
                .read_line(&mut line)
                .with_context(|| format!("no answer; so far: {said}"))?;
            ensure!(read != 0, "QEMU ended; so far: {said}");
            match line.trim_end().strip_prefix(END) {
                Some(status) => return Ok((status.parse()?, said.trim().to_owned())),
                None => said.push_str(&line),
            }
        }
    }
}
