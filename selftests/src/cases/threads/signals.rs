// SPDX-License-Identifier: GPL-2.0

//! Signals that arrive while a worker is started: the call is restarted and the caller does not
//! notice.

use crate::cases::common::{Case, Context, accepts, case, check, lets_c_off, workers};
use crate::driver::vhost::Vhost;
use crate::host::parameter::Parameter;
use crate::host::procfs;
use crate::sys::process::{interrupt_after, interruptions};
use anyhow::{Context as _, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::cell::Cell;
use std::io;
use std::time::Instant;

pub(crate) const CASES: &[Case] = &[
    case("signals.set_owner", 120, set_owner),
    case("signals.two_threads", 120, two_threads),
    case("signals.new_worker", 120, new_worker),
];

/// Makes `call` on what `prepare` answers, again and again, with a signal at any moment of it, and
/// fails unless all succeed.
fn interrupted<T>(
    ctx: &Context,
    what: &str,
    mut prepare: impl FnMut() -> Result<T>,
    mut call: impl FnMut(&T) -> io::Result<()>,
) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..31 {
        let on = prepare()?;
        let start = Instant::now();
        let result = call(&on);
        times.push(start.elapsed());
        accepts(what, result)?;
    }
    times.sort_unstable();
    let time = times[times.len() / 2];
    // CAST: far below a second.
    let most = 2 * time.as_micros().max(10) as u32;
    let mut rng = SmallRng::seed_from_u64(ctx.seed);
    let (calls, mut refused) = (ctx.times(500), 0);
    for number in 0..calls {
        let on = prepare()?;
        interrupt_after(rng.random_range(1..most)).context("a signal")?;
        match call(&on) {
            // C reports a thread that could not be started as a lack of memory.
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && lets_c_off(ctx)? => {
                refused += 1;
            }
            result => accepts(what, result).with_context(|| format!("call {number}"))?,
        }
    }
    let came = interruptions();
    println!("{came} signals in {calls} calls of {time:?}, {refused} refused");
    check(came > calls / 10, || "hardly any signal came".into())
}

fn set_owner(ctx: &Context) -> Result<()> {
    interrupted(ctx, "SET_OWNER", || ctx.open(), Vhost::set_owner)
}

/// A signal between two threads leaves none of them, so that the call can be made again.
fn two_threads(ctx: &Context) -> Result<()> {
    if !workers::has_workers(ctx)? {
        return Ok(());
    }
    let parameter = Parameter::new("threads_per_device")?;
    accepts("2", parameter.set("2"))?;
    interrupted(ctx, "SET_OWNER", || ctx.open(), Vhost::set_owner)?;
    // Each device is closed before the next one is opened.
    procfs::expect_workers(0)
}

fn new_worker(ctx: &Context) -> Result<()> {
    if !workers::has_workers(ctx)? {
        return Ok(());
    }
    let vhost = ctx.owned()?;
    let last = Cell::new(None);
    let free = || match last.take() {
        Some(id) => accepts("FREE_WORKER", vhost.free_worker(id)),
        None => Ok(()),
    };
    interrupted(ctx, "NEW_WORKER", free, |()| {
        last.set(Some(vhost.new_worker()?));
        Ok(())
    })
}
