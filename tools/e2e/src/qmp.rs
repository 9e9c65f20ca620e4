// SPDX-License-Identifier: GPL-2.0
//! QEMU's machine protocol (QMP): commands and their replies, one JSON object per line.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a QEMU.
pub struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    /// Talks to the QEMU that listens at `path`.
    ///
    /// # Errors
    ///
    /// When nobody listens there, or the greeting is not that of QMP.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut qmp = Self {
            reader: BufReader::new(stream),
        };
        let greeting = qmp.read()?;
        ensure!(greeting.get("QMP").is_some(), "not a QEMU: {greeting}");
        qmp.run("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs `command` with `arguments`; answers what it returned.
    ///
    /// # Errors
    ///
    /// The error that QEMU replies with.
    pub fn run(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.reader.get_mut(), "{line}")?;
        loop {
            // Events may come first.
            let mut answer = self.read().with_context(|| command.to_owned())?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command} {arguments}: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.reader
            .read_line(&mut line)
            .context("QEMU says nothing")?;
        serde_json::from_str(&line).with_context(|| format!("QEMU says {line:?}"))
    }
}

/// Connects to a socket that QEMU is about to create.
///
/// # Errors
///
/// When it does not.
pub fn connect(path: &Path) -> Result<UnixStream> {
    let start = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(_) if start.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
}
