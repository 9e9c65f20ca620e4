// SPDX-License-Identifier: GPL-2.0

//! Whether a device may have several workers.

use crate::cases::common::{Context, Kind, refuses};
use crate::driver::uapi;
use crate::sys::mapping::Mapping;
use anyhow::Result;

/// Every call about workers.
pub(crate) const CALLS: &[(&str, u64)] = &[
    ("NEW_WORKER", uapi::NEW_WORKER.number()),
    ("FREE_WORKER", uapi::FREE_WORKER.number()),
    ("ATTACH_VRING_WORKER", uapi::ATTACH_VRING_WORKER.number()),
    ("GET_VRING_WORKER", uapi::GET_VRING_WORKER.number()),
];

/// Whether the device has these calls; else they are tested to be unknown, as in-tree vhost-net
/// leaves them to vhost-scsi.
pub(crate) fn has_workers(ctx: &Context) -> Result<bool> {
    if ctx.kind == Kind::Rnet {
        return Ok(true);
    }
    let vhost = ctx.owned()?;
    let map = Mapping::new(4096)?;
    for (name, number) in CALLS {
        refuses(name, libc::ENOTTY, vhost.raw(*number, &map, 0))?;
    }
    Ok(false)
}
