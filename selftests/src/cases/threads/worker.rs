// SPDX-License-Identifier: GPL-2.0

//! The worker thread, as operators see it.

use crate::cases::common::{Case, Context, accepts, case, check};
use crate::host::procfs;
use anyhow::Result;

pub(crate) const CASES: &[Case] = &[case("worker.name", 20, name)];

/// Operators and management tools find the worker by this name.
fn name(ctx: &Context) -> Result<()> {
    let vhost = ctx.open()?;
    check(procfs::workers()?.is_empty(), || {
        "a worker before SET_OWNER".into()
    })?;
    accepts("SET_OWNER", vhost.set_owner())?;
    let workers = procfs::workers()?.len();
    check(workers == 1, || {
        let all = procfs::threads(std::process::id());
        format!(
            "{workers} threads named vhost-{}, of {all:?}",
            std::process::id()
        )
    })?;
    let second = ctx.owned()?;
    check(procfs::workers()?.len() == 2, || {
        "the second device has no worker".into()
    })?;
    drop(second);
    procfs::expect_workers(1)?;
    accepts("RESET_OWNER", vhost.reset_owner())?;
    procfs::expect_workers(0)
}
