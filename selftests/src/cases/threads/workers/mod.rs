// SPDX-License-Identifier: GPL-2.0

//! Several workers for a device.

pub(crate) mod calls;
pub(crate) mod live;

use crate::cases::common::{accepts, check};
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
