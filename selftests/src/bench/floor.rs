// SPDX-License-Identifier: GPL-2.0

//! What frames cost at the tap alone, with no ring and no vhost.
//!
//! This thread plays the worker's part with system calls: it writes each frame to the tap for the
//! guest, and reads each frame that the peer sent. Counted is its own processor time around those
//! loops. The cost of an empty system call is measured too, so that it can be taken off: a worker
//! in the kernel does not pay it. What is left is still more than a worker pays that hands frames
//! to the tap in batches, so it is an upper bound of the floor.

use super::case::{Case, Direction};
use super::record::Floor;
use super::rig::{Wire, frame_of, packets_from_guest, peer_of, tap_of};
use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};
use std::os::fd::AsFd;

const TAP: &str = "tap0";
/// Frames that wait in the tap at once, as many as a base case's batch.
const BATCH: u64 = 64;

/// Processor time of this thread in nanoseconds.
fn now() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // CAST: the time since the thread's start is positive and short.
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn result(case: &str, method: &str, run: u32, packets: u64, time: u64) -> Floor {
    Floor {
        case: case.to_owned(),
        method: method.to_owned(),
        run,
        packets,
        per_packet: time as f64 / packets as f64,
    }
}

/// Measures the way of `case` through the tap.
///
/// # Errors
///
/// When the tap does not take or give a frame whole.
pub fn measure(case: Case, packets: u64, run: u32) -> Result<Floor> {
    let packets = case.packets(packets).next_multiple_of(BATCH);
    match case.direction {
        Direction::Tx => write(case, packets, run),
        Direction::Rx => read(case, packets, run),
    }
}

fn write(case: Case, packets: u64, run: u32) -> Result<Floor> {
    let tap = tap_of(&case, TAP, false)?;
    let bytes = case.packet(&frame_of(&case, Wire::Silent));
    let go = || -> Result<u64> {
        let start = now();
        for _ in 0..packets {
            let written = rustix::io::write(tap.as_fd(), &bytes).context("write to tap")?;
            if written != bytes.len() {
                bail!("{written} of {} bytes written", bytes.len());
            }
        }
        Ok(now() - start)
    };
    go()?;
    let before = packets_from_guest(TAP)?;
    let time = go()?;
    let seen = packets_from_guest(TAP)? - before;
    if seen != packets {
        bail!("{packets} frames written, {seen} at the tap");
    }
    let method = "write(2) of header and frame to the tap, system call included";
    Ok(result(&case.name(), method, run, packets, time))
}

fn read(case: Case, packets: u64, run: u32) -> Result<Floor> {
    let tap = tap_of(&case, TAP, false)?;
    let mut peer = peer_of(&case, &tap)?;
    let frame = frame_of(&case, Wire::Silent);
    let mut buffer = vec![0; 1 << 17];
    let mut go = || -> Result<u64> {
        let mut time = 0;
        for _ in 0..packets / BATCH {
            for _ in 0..BATCH {
                peer.send(case.header(), &frame)?;
            }
            let start = now();
            for _ in 0..BATCH {
                let got = rustix::io::read(tap.as_fd(), &mut buffer).context("read of tap")?;
                if got != frame.len() + super::case::HEADER {
                    bail!("{got} bytes read for a frame of {}", frame.len());
                }
            }
            time += now() - start;
        }
        Ok(time)
    };
    go()?;
    let time = go()?;
    let method = "read(2) of header and frame from the tap, system call included";
    Ok(result(&case.name(), method, run, packets, time))
}

/// Measures a system call that does next to nothing.
#[must_use]
pub fn empty_call(packets: u64, run: u32) -> Floor {
    let start = now();
    for _ in 0..packets {
        std::hint::black_box(rustix::process::getppid());
    }
    let time = now() - start;
    result("system-call", "getppid(2)", run, packets, time)
}
