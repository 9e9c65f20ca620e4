// SPDX-License-Identifier: GPL-2.0

//! What cases of several families share.

pub(crate) mod accounting;
pub(crate) mod counts;
pub(crate) mod flood;
pub(crate) mod frames;
pub(crate) mod iommu;
pub(crate) mod live;
pub(crate) mod log;
pub(crate) mod migration;
pub(crate) mod owners;
pub(crate) mod pace;
pub(crate) mod stats;
pub(crate) mod view;
pub(crate) mod workers;

pub(crate) use crate::case::{Case, Context, Kind, Role, Skip, case, ring_case, role};
use crate::conformance::differences;
use crate::driver::queue::Queue;
use anyhow::{Context as _, Result, bail};
use std::io;
use std::time::Duration;

/// Fails unless `result` is the error number `errno`.
pub(crate) fn refuses<T: std::fmt::Debug>(
    what: &str,
    errno: i32,
    result: io::Result<T>,
) -> Result<()> {
    let name = |code| io::Error::from_raw_os_error(code);
    match result {
        Err(error) if error.raw_os_error() == Some(errno) => Ok(()),
        Err(error) => bail!("{what}: `{error}`, not `{}`", name(errno)),
        Ok(value) => bail!("{what}: succeeded with {value:?}, not `{}`", name(errno)),
    }
}

/// Fails unless `result` is a success.
pub(crate) fn accepts<T>(what: &str, result: io::Result<T>) -> Result<T> {
    result.with_context(|| format!("{what} was refused"))
}

/// Whether the device is C, which is let off some of what a case asks for. Each caller says what C
/// does instead.
///
/// Fails unless the case is listed in [`differences::IN_TRAFFIC`].
pub(crate) fn lets_c_off(ctx: &Context) -> Result<bool> {
    if ctx.kind == Kind::Rnet {
        return Ok(false);
    }
    check(differences::in_traffic(ctx.case).is_some(), || {
        format!(
            "`{}` is not in the table of differences in traffic",
            ctx.case
        )
    })?;
    Ok(true)
}

/// Kicks a queue if C leaves it stopped where `vhost_rnet` goes on by itself, as [`lets_c_off`].
/// Each caller says why C stops.
pub(crate) fn wake_c(ctx: &Context, queue: &Queue) -> Result<()> {
    match lets_c_off(ctx)? {
        true => queue.kick.force(),
        false => Ok(()),
    }
}

/// Fails unless `condition` holds.
pub(crate) fn check(condition: bool, what: impl FnOnce() -> String) -> Result<()> {
    if condition { Ok(()) } else { bail!(what()) }
}

/// Gives the device time to run into a fault that it does not report.
pub(crate) fn a_while() {
    std::thread::sleep(Duration::from_millis(100));
}
