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
pub(crate) mod workers;

pub(crate) use crate::case::{Case, Context, Kind, Role, Skip, case, ring_case, role};
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

/// Kicks a queue if C leaves it stopped where `vhost_rnet` goes on by itself. Each caller says why
/// C stops.
pub(crate) fn wake_c(ctx: &Context, queue: &Queue) -> Result<()> {
    match ctx.kind {
        Kind::C => queue.kick.force(),
        Kind::Rnet => Ok(()),
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
