// SPDX-License-Identifier: GPL-2.0
//! Showing the steps of a longer job, with their time.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The steps on show; there may be several at a time.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Runs `work` as a step called `name`, and tells how long it took.
///
/// On a terminal the step is shown while it runs; elsewhere, as in CI, only
/// its begin and end are.
pub fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let bar = BARS.add(ProgressBar::new_spinner());
    bar.set_style(ProgressStyle::with_template("{spinner} {msg}  {elapsed}")?);
    bar.set_message(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    if bar.is_hidden() {
        eprintln!("  .. {name}");
    }
    let result = work();
    bar.finish_and_clear();
    let mark = if result.is_ok() { "ok" } else { "FAILED" };
    BARS.suspend(|| eprintln!("  {mark} {name}  {:.1} s", start.elapsed().as_secs_f64()));
    result.with_context(|| name.to_owned())
}
