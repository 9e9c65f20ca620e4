// SPDX-License-Identifier: GPL-2.0

//! Runs each case in a process of its own and reports in KTAP.

use crate::case::{Case, Context, Kind, Skip};
use crate::conformance::differences;
use crate::driver::ring::Format;
use crate::host::kmsg::Begun;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const EXIT_SKIP: u8 = 4;

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// With figures that the case printed.
    Pass(String),
    Skip(String),
    Fail(String),
}

/// A command that runs this program again on the same device.
///
/// # Errors
///
/// When the program cannot be found.
pub fn again(context: &Context, option: &str, name: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    let kind = if context.kind == Kind::C { "c" } else { "rnet" };
    command
        .arg("--device")
        .arg(&context.device.path)
        .args(["--kind", kind]);
    if let Some(module) = &context.module {
        command.arg("--module").arg(module);
    }
    if context.device.format == Format::Packed {
        command.arg("--packed");
    }
    command.args(["--seed", &context.seed.to_string()]);
    command.args(["--patience", &context.patience.to_string()]);
    command.args(["--factor", &context.factor.to_string(), option, name]);
    Ok(command)
}

/// Runs one case, or role, in this process and answers what the parent shall see.
#[must_use]
pub fn run_here(run: impl FnOnce(&Context) -> Result<()>, context: &Context) -> ExitCode {
    match run(context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(Skip(reason)) => {
                println!("{reason}");
                ExitCode::from(EXIT_SKIP)
            }
            None => {
                println!("{error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

/// Runs a case in this process on rings of its format, as [`run_here`]; on a device that does not
/// offer them it is skipped, but `vhost_rnet` has to.
#[must_use]
pub fn run_case(case: &Case, context: &Context) -> ExitCode {
    let mut context = context.clone();
    context.device.format = case.format;
    context.case = case.name;
    let run = |context: &Context| {
        let missing = case.format.features() & !context.open()?.features()?;
        if missing != 0 {
            let reason = format!("features {missing:#x} are not offered");
            return Err(match context.kind {
                Kind::C => Skip(reason).into(),
                Kind::Rnet => anyhow::Error::msg(reason),
            });
        }
        (case.run)(context)
    };
    run_here(run, &context)
}

/// Waits for a child, and for what it printed, until the deadline; `None` when it passes.
fn collect(child: &mut Child, deadline: Deadline) -> Result<Option<i32>> {
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("pidfd of the case")?;
    if deadline.readable(&[&pidfd])? {
        // A death by signal has no code; -1 is none that a case ends with.
        return Ok(Some(child.wait()?.code().unwrap_or(-1)));
    }
    Ok(None)
}

/// Runs `command` until the deadline, in a process group of which nothing is left then; what it
/// printed, and its exit code: -1 for a death by signal, `None` at the deadline.
///
/// # Errors
///
/// When it cannot be started.
pub fn run(command: &mut Command, deadline: Deadline) -> Result<(String, Option<i32>)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context("pipe")?;
    let mut reader = File::from(reader);
    command
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .stdin(Stdio::null())
        .process_group(0);
    let mut child = command.spawn().context("start a process")?;
    // The command holds the pipe's writing end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, output) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = reader.read_to_end(&mut text);
        // The runner may have given up on this process.
        let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
    });
    let code = collect(&mut child, deadline)?;
    // Helpers that a failed case left behind must not disturb the next one.
    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    if code.is_none() {
        let _ = collect(&mut child, Deadline::after(Duration::from_secs(5)))?;
    }
    let text = output
        .recv_timeout(Duration::from_secs(5))
        .unwrap_or_default();
    Ok((text, code))
}

fn outcome(case: &Case, context: &Context) -> Result<Outcome> {
    let mut command = again(context, "--case", &case.full_name())?;
    let (text, code) = run(&mut command, Deadline::after(context.timeout(case)))?;
    Ok(match code {
        Some(0) => Outcome::Pass(text),
        Some(code) if code == i32::from(EXIT_SKIP) => Outcome::Skip(text.trim().to_owned()),
        Some(-1) => Outcome::Fail(format!("died by a signal\n{text}")),
        Some(_) => Outcome::Fail(text),
        None => Outcome::Fail(format!(
            "no end within {:?}\n{text}",
            context.timeout(case) * context.patience
        )),
    })
}

/// Writes lines that are no results.
fn remark(to: &mut impl Write, text: &str) -> Result<()> {
    for line in text.lines() {
        writeln!(to, "# {line}")?;
    }
    Ok(())
}

/// Runs `cases` and writes a KTAP report; true if none failed.
///
/// # Errors
///
/// When the report cannot be written.
pub fn run_all(cases: &[Case], context: &Context, to: &mut impl Write) -> Result<bool> {
    writeln!(to, "KTAP version 1\n1..{}", cases.len())?;
    let device = context.device.path.display();
    writeln!(to, "# device {device}, seed {}", context.seed)?;
    let mut failed = 0;
    for (number, case) in (1..).zip(cases) {
        let name = case.full_name();
        Begun::Case(name.clone()).note();
        let start = Instant::now();
        let outcome = outcome(case, context)
            .unwrap_or_else(|error| Outcome::Fail(format!("the case could not be run: {error:#}")));
        let mut line = String::new();
        if let (Kind::C, Some(reason)) = (context.kind, differences::in_traffic(case.name)) {
            remark(to, &format!("not so with {device}: {reason}"))?;
        }
        match &outcome {
            Outcome::Pass(text) => {
                remark(to, text)?;
                write!(line, "ok {number} {name}")?;
            }
            Outcome::Skip(reason) => write!(line, "ok {number} {name} # SKIP {reason}")?,
            Outcome::Fail(text) => {
                failed += 1;
                remark(to, text)?;
                write!(line, "not ok {number} {name}")?;
            }
        }
        writeln!(to, "# {name} took {} ms", start.elapsed().as_millis())?;
        writeln!(to, "{line}")?;
        to.flush()?;
    }
    writeln!(to, "# {} passed, {failed} failed", cases.len() - failed)?;
    Ok(failed == 0)
}
