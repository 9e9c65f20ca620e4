// SPDX-License-Identifier: GPL-2.0

//! The short form of what `rnet-soak` does for long.

use crate::cases::common::{Case, Context, case};
use crate::soak;
use anyhow::Result;

pub(crate) const CASES: &[Case] = &[case("soak.short", 180, short)];

/// Changes in each period, by default.
const CHANGES: u64 = 70;

fn short(ctx: &Context) -> Result<()> {
    let changes = ctx.times(CHANGES);
    let report = soak::run(&ctx.device.path, ctx.seed, |_, report| {
        report.changes < changes
    })?;
    println!(
        "{} changes, {} frames, {} KiB less than before",
        report.changes, report.frames, report.lost
    );
    Ok(())
}
