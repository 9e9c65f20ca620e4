// SPDX-License-Identifier: GPL-2.0

//! The counters of a device, by the keys that it shows them with.

use crate::cases::common::{Context, check, lets_c_off};
use crate::driver::device::NetDevice;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};

/// The counters of a device by their keys; none of C, which has no statistics.
pub(crate) struct Stats(Option<BTreeMap<String, u64>>);

impl Stats {
    /// Those of `device`.
    pub(crate) fn of(ctx: &Context, device: &NetDevice) -> Result<Self> {
        if lets_c_off(ctx)? {
            return Ok(Self(None));
        }
        let path = format!("/proc/self/fdinfo/{}", device.vhost.as_fd().as_raw_fd());
        let text = fs::read_to_string(&path).context(path)?;
        let pair = |line: &str| {
            let (key, value) = line.split_once(":\t")?;
            Some((key.to_owned(), value.parse().ok()?))
        };
        Ok(Self(Some(text.lines().filter_map(pair).collect())))
    }

    /// Whether there is the key.
    pub(crate) fn has(&self, key: &str) -> bool {
        let Self(stats) = self;
        stats.as_ref().is_some_and(|stats| stats.contains_key(key))
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Result<u64> {
        let Self(stats) = self;
        let value = stats.as_ref().and_then(|stats| stats.get(key));
        value.copied().with_context(|| format!("no key {key}"))
    }

    /// The sum of the counters of one family of a queue.
    pub(crate) fn sum(&self, family: &str) -> Result<u64> {
        let Self(stats) = self;
        let stats = stats.as_ref().context("no statistics")?;
        let prefix = format!("{family}_");
        let members = stats.iter().filter(|(key, _)| key.starts_with(&prefix));
        Ok(members.map(|(_, value)| value).sum())
    }

    /// Fails unless the counters of one family of a queue are these, and all others of it zero.
    pub(crate) fn expect(&self, family: &str, wanted: &[(&str, u64)]) -> Result<()> {
        let Self(Some(stats)) = self else {
            return Ok(());
        };
        let prefix = format!("{family}_");
        let counters = stats.iter().filter_map(|(key, value)| {
            let member = key.strip_prefix(&prefix)?;
            (*value != 0 && member != "ms").then_some((member, *value))
        });
        let counters: BTreeMap<_, _> = counters.collect();
        let wanted: BTreeMap<_, _> = wanted.iter().copied().collect();
        check(counters == wanted, || {
            format!("{family}: {counters:?}, not {wanted:?}")
        })
    }
}

/// Waits until the counters are as `expected`; C has none.
pub(crate) fn until(
    ctx: &Context,
    device: &NetDevice,
    what: &str,
    expected: impl Fn(&Stats) -> Result<bool>,
) -> Result<()> {
    if lets_c_off(ctx)? {
        return Ok(());
    }
    Deadline::patient().until(what, || expected(&Stats::of(ctx, device)?))
}
