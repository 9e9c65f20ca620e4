// SPDX-License-Identifier: GPL-2.0

//! Several workers for a device.

pub(crate) mod calls;
pub(crate) mod live;

use crate::cases::common::workers::has_workers;
use crate::cases::common::{Context, accepts, check};
use crate::driver::vhost::{RX, TX, Vhost};
use anyhow::Result;

/// Fails unless the queues are attached to these workers.
fn expect(vhost: &Vhost, rx: u32, tx: u32) -> Result<()> {
    for (index, want) in [(RX, rx), (TX, tx)] {
        let got = accepts("GET_VRING_WORKER", vhost.worker(index))?;
        check(got == want, || {
            format!("queue {index} is attached to worker {got}, not {want}")
        })?;
    }
    Ok(())
}

/// Starts a worker that must get that id.
fn start(vhost: &Vhost, want: u32) -> Result<()> {
    let id = accepts("NEW_WORKER", vhost.new_worker())?;
    check(id == want, || format!("worker {id} started, not {want}"))
}

/// Runs a case on a device that may have several workers; of others only that they have no such
/// calls is tested.
fn with_workers(ctx: &Context, run: fn(&Context) -> Result<()>) -> Result<()> {
    if has_workers(ctx)? { run(ctx) } else { Ok(()) }
}
