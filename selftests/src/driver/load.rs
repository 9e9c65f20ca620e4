// SPDX-License-Identifier: GPL-2.0

//! Several devices in one process, each with traffic both ways.

use crate::driver::device::NetDevice;
use crate::driver::traffic::{Flow, Plan, RxFlow, TxFlow};
use crate::wait::{Deadline, PATIENCE};
use anyhow::{Context, Result, bail};
use std::os::fd::AsFd;

/// A device and its traffic.
#[derive(Debug)]
pub struct Line {
    /// The device.
    pub device: NetDevice,
    /// Frames from its guest.
    pub tx: TxFlow,
    /// Frames to its guest.
    pub rx: RxFlow,
}

impl Line {
    /// A running device, with `plan` each way.
    #[must_use]
    pub fn new(device: NetDevice, plan: Plan) -> Self {
        Self {
            device,
            tx: TxFlow::new(plan),
            rx: RxFlow::new(plan),
        }
    }

    /// Does what can be done now; true if anything moved.
    ///
    /// # Errors
    ///
    /// When a frame is lost, doubled, reordered or changed.
    pub fn pump(&mut self) -> Result<bool> {
        let tx = self.tx.pump(&mut self.device);
        let tx = tx.with_context(|| self.tx.describe(&self.device))?;
        let rx = self.rx.pump(&mut self.device);
        Ok(tx | rx.with_context(|| self.rx.describe(&self.device))?)
    }

    /// Whether all frames have arrived.
    #[must_use]
    pub fn done(&self) -> bool {
        self.tx.done(&self.device) && self.rx.done(&self.device)
    }

    /// Frames that have arrived, both ways.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.tx.seen + self.rx.seen
    }

    /// Ends both flows with what is under way.
    pub fn finish(&mut self) {
        self.tx.finish();
        self.rx.finish();
    }
}

/// Gives each line its turn; waits if none has anything to do.
///
/// # Errors
///
/// When a frame is wrong, or nothing moves for long.
pub fn pump(lines: &mut [Line]) -> Result<()> {
    let mut moved = false;
    for (number, line) in lines.iter_mut().enumerate() {
        moved |= line.pump().with_context(|| format!("device {number}"))?;
    }
    if moved || wait(lines)? {
        return Ok(());
    }
    let stuck = lines.iter().filter(|line| !line.done());
    let stuck: Vec<_> = stuck
        .map(|line| line.tx.describe(&line.device) + ", " + &line.rx.describe(&line.device))
        .collect();
    bail!("nothing moved for {PATIENCE:?}: {}", stuck.join("; "))
}

/// Waits until a device calls or a peer has a frame; false after a long time.
fn wait(lines: &mut [Line]) -> Result<bool> {
    for line in &mut *lines {
        if line.device.rx.arm()? | line.device.tx.arm()? {
            return Ok(true);
        }
    }
    let mut fds = Vec::new();
    for Line { device, .. } in &*lines {
        fds.extend([
            device.rx.call.as_fd(),
            device.tx.call.as_fd(),
            device.peer.as_fd(),
        ]);
    }
    Deadline::patient().readable(&fds)
}

/// Runs all lines to their end.
///
/// # Errors
///
/// As [`pump`].
pub fn run(lines: &mut [Line]) -> Result<()> {
    while !lines.iter().all(Line::done) {
        pump(lines)?;
    }
    Ok(())
}
