// SPDX-License-Identifier: GPL-2.0
//! Showing the steps of a longer job, with their time.

use std::cell::RefCell;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The steps on show; there may be several at a time.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

thread_local! {
    /// The step that this thread is in.
    static CURRENT: RefCell<Option<ProgressBar>> = const { RefCell::new(None) };
}

/// Runs `work` as a step called `name`, and tells how long it took.
///
/// On a terminal the step is shown while it runs, with what [`progress`] was
/// told; elsewhere, as in CI, only its begin and end are.
pub fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let bar = BARS.add(ProgressBar::new_spinner());
    bar.set_style(ProgressStyle::with_template(
        "{spinner} {prefix}  {elapsed}  {wide_msg}",
    )?);
    bar.set_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    if bar.is_hidden() {
        eprintln!("  .. {name}");
    }
    let outer = CURRENT.replace(Some(bar.clone()));
    let result = work();
    CURRENT.set(outer);
    bar.finish_and_clear();
    let mark = if result.is_ok() { "ok" } else { "FAILED" };
    BARS.suspend(|| eprintln!("  {mark} {name}  {:.1} s", start.elapsed().as_secs_f64()));
    result.with_context(|| name.to_owned())
}

/// Shows how far this thread's step is, as `far` says, if there is a terminal to show it on.
pub fn progress(far: impl FnOnce() -> Option<String>) {
    let bar = CURRENT.with_borrow(Option::clone);
    if let Some(bar) = bar.filter(|bar| !bar.is_hidden()) {
        bar.set_message(far().unwrap_or_default());
    }
}
