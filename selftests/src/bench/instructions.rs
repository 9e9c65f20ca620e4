// SPDX-License-Identifier: GPL-2.0

//! Run time of the worker per packet, for a machine whose clock counts instructions.
//!
//! Under `-icount shift=0` on one processor, one nanosecond of a thread's run time is one
//! instruction. Elsewhere the figures are nanoseconds, as noisy as that machine is. The driver runs
//! before the worker whenever it can, so the worker always finds a batch complete: frames to be
//! received wait in the tap before buffers are given. And it pauses between batches, so the worker
//! goes through all of what a batch is to it: to be woken, to work, to call, to ask for kicks and
//! to sleep. A batch of one is thus the case of a guest that waits for each answer.

use super::case::{Case, Direction};
use super::record::Instructions;
use super::rig::{Rig, Wire, frame_of, packets_from_guest, peer_of, tap_of, workers_at_rest};
use crate::host::peer::Peer;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::thread;
use std::time::Duration;

const TAP: &str = "tap0";
/// Long enough for a worker to find that nothing is left to do.
const PAUSE: Duration = Duration::from_micros(50);

/// Sends `packets` from the guest, batch by batch.
fn transmit(rig: &mut Rig, packets: u64) -> Result<()> {
    let batch = rig.case.batch();
    for _ in 0..packets / u64::from(batch) {
        rig.tx.post(batch)?;
        rig.tx.complete(batch, true)?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Sends `packets` to the guest, batch by batch.
fn receive(rig: &mut Rig, peer: &mut Peer, packets: u64) -> Result<()> {
    let (batch, parts) = (rig.case.batch(), rig.case.parts());
    let header = rig.case.header();
    for _ in 0..packets / u64::from(batch) {
        for _ in 0..batch {
            peer.send(header, &rig.frame)?;
        }
        rig.rx.post(batch * parts)?;
        // A guest wants to know of its first frame at once.
        rig.rx.complete(batch * parts, false)?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn go(rig: &mut Rig, peer: Option<&mut Peer>, packets: u64) -> Result<()> {
    match peer {
        Some(peer) => receive(rig, peer, packets),
        None => transmit(rig, packets),
    }
}

/// Measures `case` on the device at `path`.
///
/// # Errors
///
/// When frames are lost or changed, or the device is silent.
pub fn measure(path: &Path, case: Case, budget: u64, run: u32) -> Result<Instructions> {
    let tap = tap_of(&case, TAP, false)?;
    let mut peer = match case.direction {
        Direction::Tx => None,
        Direction::Rx => Some(peer_of(&case, &tap)?),
    };
    let frame = frame_of(&case, Wire::Silent);
    let mut rig = Rig::new(path, case, tap, frame)?;
    let packets = case.packets(budget);
    // Every buffer and every page of the rings is touched once before it counts.
    let warm = packets.max(u64::from(case.queue).next_multiple_of(u64::from(case.batch())));
    go(&mut rig, peer.as_mut(), warm).context("warm-up")?;
    if case.direction == Direction::Rx {
        let last = rig.rx.next() + case.queue - case.parts();
        rig.check_received(last % case.queue)?;
    }
    let before = workers_at_rest()?;
    let sent_before = packets_from_guest(TAP)?;
    let ring = |rig: &Rig| match case.direction {
        Direction::Tx => (rig.tx.kicks, rig.tx.calls),
        Direction::Rx => (rig.rx.kicks, rig.rx.calls),
    };
    let (kicks, calls) = ring(&rig);
    go(&mut rig, peer.as_mut(), packets)?;
    let after = workers_at_rest()?;
    let sent = packets_from_guest(TAP)? - sent_before;
    if case.direction == Direction::Tx && sent != packets {
        bail!("{packets} packets sent, {sent} at the tap");
    }
    let per_packet = |count: u64| count as f64 / packets as f64;
    let (kicks_after, calls_after) = ring(&rig);
    Ok(Instructions {
        case: case.name(),
        device: path.display().to_string(),
        run,
        packets,
        per_packet: per_packet(after.run_ns - before.run_ns),
        kicks: per_packet(kicks_after - kicks),
        calls: per_packet(calls_after - calls),
        slices: per_packet(after.slices - before.slices),
    })
}
