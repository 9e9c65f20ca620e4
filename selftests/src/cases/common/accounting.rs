// SPDX-License-Identifier: GPL-2.0

//! Memory that is counted by control group.

use crate::cases::common::Skip;
use crate::host::cgroup::Group;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};

/// Makes a control group with memory accounting.
pub(crate) fn group(name: &str) -> Result<Group> {
    let group = Group::new(name)?;
    if !group.has("memory")? {
        return Err(Skip("this kernel does not count the memory of groups".into()).into());
    }
    group.enable("memory")?;
    Ok(group)
}

/// Memory of all kinds that the group has, in bytes.
pub(crate) fn current(group: &Group) -> Result<u64> {
    Ok(group.get("memory.current")?.trim().parse()?)
}

/// Waits until the group has at most `slack` bytes more than `before`.
pub(crate) fn returns(group: &Group, before: u64, slack: u64) -> Result<()> {
    let mut now = before;
    Deadline::patient()
        .until("the memory to be given back", || {
            now = current(group)?;
            Ok(now <= before + slack)
        })
        .with_context(|| format!("{before} bytes before, {now} now"))
}
