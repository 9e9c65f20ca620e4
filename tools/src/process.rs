// SPDX-License-Identifier: GPL-2.0
//! Running a child with its output in a log and a hard time limit.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use selftests::wait::Deadline;

use crate::steps;
use crate::{cause, progress};

/// Number of lines of a log that an error message shows.
const TAIL_LINES: usize = 25;

/// The time between two looks at how far a child is.
const LOOK: Duration = Duration::from_millis(500);

/// The cargo that runs us.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
}

/// Waits for `child`; kills it and answers `None` once `limit` has passed.
///
/// Shows meanwhile how far it is, as `far` says.
pub fn wait_timeout(
    child: &mut Child,
    limit: Duration,
    far: impl Fn() -> Option<String>,
) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let ended = Deadline::after(left.min(LOOK)).ended(child)?;
        if ended.is_some() {
            return Ok(ended);
        }
        if left.is_zero() {
            child
                .kill()
                .context("killing a child past its time limit")?;
            child.wait()?;
            return Ok(None);
        }
        steps::progress(&far);
    }
}

/// Runs `command`, whose output is appended to `log`.
///
/// # Errors
///
/// When it fails or takes longer than `limit`, with the cause as [`cause::of`] tells it, or else the
/// log's tail.
pub fn run_logged(command: &mut Command, log: &Path, limit: Duration) -> Result<()> {
    run_counted(command, log, limit, None)
}

/// As [`run_logged`], for a `command` that writes about as many `lines`.
pub fn run_counted(
    command: &mut Command,
    log: &Path,
    limit: Duration,
    lines: Option<usize>,
) -> Result<()> {
    let out = File::options().create(true).append(true).open(log)?;
    let before = usize::try_from(out.metadata()?.len())?;
    command.stdout(out.try_clone()?).stderr(out);
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    let far = || progress::of_lines(text(log).get(before..)?, lines);
    match wait_timeout(&mut child, limit, far)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => match cause::of(text(log).get(before..).unwrap_or_default()) {
            Some(cause) => bail!("{cause}; see {}:\n{}", log.display(), tail(log)),
            None => bail!("{status}, see {}:\n{}", log.display(), tail(log)),
        },
        None => bail!(
            "not finished after {} s, see {}:\n{}",
            limit.as_secs(),
            log.display(),
            tail(log)
        ),
    }
}

/// As [`run_logged`], with a new `log`.
pub fn run_logged_anew(command: &mut Command, log: &Path, limit: Duration) -> Result<()> {
    std::fs::write(log, "").with_context(|| format!("writing {}", log.display()))?;
    run_logged(command, log, limit)
}

/// Runs `command` and returns the text it printed; an error shows its stderr.
pub fn output(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&bytes(command)?).into_owned())
}

/// Runs `command` and returns what it printed; an error shows its stderr.
pub fn bytes(command: &mut Command) -> Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command
        .output()
        .with_context(|| format!("starting {program}"))?;
    if !out.status.success() {
        bail!(
            "{program} failed ({}): {}",
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(out.stdout)
}

/// Returns what is in the log at `path`, or nothing if it can't be read.
pub fn text(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns the last lines of `path`, indented, or nothing if it can't be read.
pub fn tail(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(16 << 10)))?;
        file.read_to_end(&mut bytes)
    });
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    lines[from..]
        .iter()
        .map(|line| format!("    {line}\n"))
        .collect()
}

/// Returns `words` as one line that a shell reads back as the same words.
pub fn shell_quote<S: AsRef<str>>(words: &[S]) -> String {
    let quoted: Vec<String> = words
        .iter()
        .map(|word| format!("'{}'", word.as_ref().replace('\'', r"'\''")))
        .collect();
    quoted.join(" ")
}

#[cfg(test)]
mod tests {
    use super::shell_quote;

    #[test]
    fn quoting_survives_a_shell() {
        let words = ["a b", "it's", "$HOME", "", "\"x\"\n;"];
        let script = format!("printf '%s|' {}", shell_quote(&words));
        let out = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8(out.stdout).unwrap(),
            "a b|it's|$HOME||\"x\"\n;|"
        );
    }
}
