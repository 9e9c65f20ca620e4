// SPDX-License-Identifier: GPL-2.0

//! Processes that own a device, and are killed.

use crate::cases::common::{Context, check};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Flow, Plan, RxFlow, TxFlow};
use crate::driver::uapi::feature;
use crate::runner;
use crate::wait::Deadline;
use anyhow::{Context as _, Result, bail};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(crate) fn say_ready() -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(b"!")
        .and_then(|()| out.flush())
        .context("tell the parent")
}

/// Tells the parent when frames have moved both ways, and goes on; from then on `change` is called
/// all the time.
pub(crate) fn until_killed(
    ctx: &Context,
    mut device: NetDevice,
    mut change: impl FnMut(&NetDevice) -> Result<()>,
) -> Result<()> {
    let plan = Plan {
        window: 200,
        ..Plan::new(ctx.seed, u64::MAX, |n| 60 + (n % 1400) as usize)
    };
    let (mut tx, mut rx) = (TxFlow::new(plan), RxFlow::new(plan));
    let mut told = false;
    loop {
        let moved = tx.pump(&mut device)? | rx.pump(&mut device)?;
        if !told && tx.seen > 0 && rx.seen > 0 {
            told = true;
            say_ready()?;
        }
        if !moved && !traffic::wait_activity(&mut device, crate::wait::PATIENCE)? {
            bail!("nothing moves");
        }
        if told {
            change(&device)?;
        }
    }
}

/// Starts a role and waits until it says that it is ready.
pub(crate) fn start(ctx: &Context, name: &str, stdin: Stdio) -> Result<Child> {
    start_as(runner::again(ctx, "--role", name)?, name, stdin)
}

/// As [`start`], by a command that plays the role.
pub(crate) fn start_as(mut command: Command, name: &str, stdin: Stdio) -> Result<Child> {
    let mut child = command
        .stdout(Stdio::piped())
        .stdin(stdin)
        .spawn()
        .context("start a role")?;
    let mut stdout = child.stdout.take().context("its output")?;
    let answered = Deadline::patient().readable(&[&stdout])?;
    let mut byte = [0];
    let got = if answered { stdout.read(&mut byte)? } else { 0 };
    if got != 1 || byte != *b"!" {
        let _ = child.kill();
        let mut rest = String::from_utf8_lossy(&byte[..got]).into_owned();
        let _ = stdout.read_to_string(&mut rest);
        let status = child.wait()?;
        bail!("{name} did not get ready ({status}): {rest}");
    }
    child.stdout = Some(stdout);
    Ok(child)
}

/// Kills with a signal that cannot be caught, and waits for the end.
pub(crate) fn kill(mut child: Child, after: Duration) -> Result<()> {
    // A different moment each time is the point here, not a wait for anything.
    std::thread::sleep(after);
    child.kill().context("kill")?;
    let status = child.wait()?;
    check(status.code().is_none(), || {
        format!("it ended by itself: {status}")
    })
}

pub(crate) fn still_works(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    traffic::exchange(&mut device, Plan::new(ctx.seed, 50, |_| 100))
}

/// Kills as many owners in a role, each a `step` later than the one before; then the device still
/// works.
pub(crate) fn one_by_one(ctx: &Context, name: &str, usual: u32, step: Duration) -> Result<()> {
    for (round, later) in (0..ctx.times(usual.into())).zip((0..usual).cycle()) {
        let child = start(ctx, name, Stdio::null())?;
        kill(child, step * later)?;
        still_works(ctx).with_context(|| format!("after kill {round}"))?;
    }
    Ok(())
}
