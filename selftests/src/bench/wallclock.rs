// SPDX-License-Identifier: GPL-2.0

//! Packets per second and round trips, by the clock on the wall.
//!
//! Such figures hold for one machine at one time: compare devices only within one run of the
//! program, which takes turns between them.
//!
//! A guest that sends does so all the time. Frames to be received are made by system calls, which
//! take longer than the device does: they wait in the tap first, and only the time counts in which
//! the device hands them over.

use super::case::{Case, Direction};
use super::record::{Latency, Throughput};
use super::rig::{Rig, Wire, frame_of, peer_of, tap_of, workers_now};
use super::stats;
use crate::host::peer::Peer;
use crate::host::tap::Tap;
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context, Result, anyhow, bail};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const TAP: &str = "tap0";
/// Frames that wait in the tap at most, whose queue holds 500.
const WINDOW: u16 = 256;
/// How long a driver sleeps before it looks whether the run is over.
const NAP: Duration = Duration::from_millis(100);
/// Frames tried at most to find one for each queue of the tap.
const TRIES: u64 = 256;

/// What the threads of one run share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Whether another round of receiving begins; decided by one thread for all.
    again: AtomicBool,
    done: AtomicU64,
    /// Nanoseconds in which the device had something to do.
    busy: AtomicU64,
    kicks: AtomicU64,
    calls: AtomicU64,
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn note(&self, frames: u64) {
        self.done.fetch_add(frames, Ordering::Relaxed);
    }
}

/// The counters of a run at one moment.
struct Moment {
    time: Instant,
    done: u64,
    busy: u64,
    kicks: u64,
    calls: u64,
    run_ns: u64,
}

impl Moment {
    fn take(shared: &Shared) -> Result<Self> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok(Self {
            time: Instant::now(),
            done: load(&shared.done),
            busy: load(&shared.busy),
            kicks: load(&shared.kicks),
            calls: load(&shared.calls),
            run_ns: workers_now()?.run_ns,
        })
    }
}

/// Sends from the guest until the run is over.
fn transmit(mut rig: Rig, shared: &Shared) -> Result<()> {
    let (queue, batch) = (rig.case.queue, rig.case.batch());
    rig.tx.disarm();
    while !shared.stopped() {
        let free = queue - rig.tx.outstanding();
        if free >= batch {
            let kicks = rig.tx.kicks;
            rig.tx.post(batch)?;
            shared
                .kicks
                .fetch_add(rig.tx.kicks - kicks, Ordering::Relaxed);
        } else if rig.tx.nap(batch - free, NAP)? {
            rig.tx.disarm();
        }
        shared.note(u64::from(rig.tx.take()?));
        shared.calls.fetch_add(rig.tx.calls, Ordering::Relaxed);
        rig.tx.calls = 0;
    }
    Ok(())
}

/// Receives in the guest until the run is over: in rounds, of which all queues begin each part
/// together.
fn receive(
    mut rig: Rig,
    (mut peer, frame): (Peer, Vec<u8>),
    shared: &Shared,
    meet: &Barrier,
) -> Result<()> {
    let (header, parts) = (rig.case.header(), rig.case.parts());
    let frames = WINDOW.min(rig.case.queue / parts);
    let mut outcome = Ok(());
    loop {
        if outcome.is_ok() {
            outcome = (0..frames).try_for_each(|_| peer.send(header, &frame));
        }
        // A thread that failed still meets the others, until all of them stop.
        if outcome.is_err() {
            shared.stop.store(true, Ordering::Relaxed);
        }
        if meet.wait().is_leader() {
            shared.again.store(!shared.stopped(), Ordering::Relaxed);
        }
        meet.wait();
        if !shared.again.load(Ordering::Relaxed) {
            return outcome;
        }
        let start = Instant::now();
        let (kicks, calls) = (rig.rx.kicks, rig.rx.calls);
        outcome = rig.rx.post(frames * parts);
        if outcome.is_ok() {
            outcome = rig.rx.complete(frames * parts, false);
        }
        let leader = meet.wait().is_leader();
        shared.note(u64::from(frames));
        let add = |to: &AtomicU64, count| to.fetch_add(count, Ordering::Relaxed);
        add(&shared.kicks, rig.rx.kicks - kicks);
        add(&shared.calls, rig.rx.calls - calls);
        if leader {
            let time = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            add(&shared.busy, time);
        }
    }
}

/// A frame for each queue of a tap, as the tap spreads them by a hash of their addresses.
fn frames_for(case: &Case, taps: &[Tap], peer: &mut Peer) -> Result<Vec<Vec<u8>>> {
    let mut found: Vec<Option<Vec<u8>>> = vec![None; taps.len()];
    let mut buffer = vec![0; 1 << 17];
    for sequence in 0..TRIES {
        let mut bytes = Vec::new();
        frame::build_tcp(1, sequence, case.frame, &mut bytes);
        peer.send(case.header(), &bytes)?;
        for (tap, slot) in taps.iter().zip(&mut found) {
            if Deadline::after(Duration::ZERO).readable(&[tap.as_fd()])? {
                rustix::io::read(tap.as_fd(), &mut buffer).context("read of tap")?;
                slot.get_or_insert_with(|| bytes.clone());
            }
        }
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    found
        .into_iter()
        .map(|frame| frame.context("no frame goes to one of the queues"))
        .collect()
}

type Threads = Vec<JoinHandle<Result<()>>>;

fn start_tx(path: &Path, case: Case, taps: Vec<Tap>, shared: &Arc<Shared>) -> Result<Threads> {
    let frame = frame_of(&case, Wire::Silent);
    taps.into_iter()
        .map(|tap| {
            let rig = Rig::new(path, case, tap, frame.clone())?;
            let shared = shared.clone();
            Ok(thread::spawn(move || transmit(rig, &shared)))
        })
        .collect()
}

fn start_rx(path: &Path, case: Case, taps: Vec<Tap>, shared: &Arc<Shared>) -> Result<Threads> {
    let first = taps.first().context("no tap")?;
    let frames = if taps.len() > 1 {
        frames_for(&case, &taps, &mut Peer::with_headers(first.if_index())?)?
    } else {
        vec![frame_of(&case, Wire::Silent)]
    };
    let many = taps.len() > 1;
    let meet = Arc::new(Barrier::new(taps.len()));
    // All devices before any thread: a thread waits for all others.
    let mut ready = Vec::new();
    for (tap, frame) in taps.into_iter().zip(frames) {
        let peer = if many {
            Peer::with_headers(tap.if_index())?
        } else {
            peer_of(&case, &tap)?
        };
        ready.push((Rig::new(path, case, tap, frame.clone())?, (peer, frame)));
    }
    let start = |(rig, wire)| {
        let (shared, meet) = (shared.clone(), meet.clone());
        thread::spawn(move || receive(rig, wire, &shared, &meet))
    };
    Ok(ready.into_iter().map(start).collect())
}

/// Measures packets per second of `pairs` devices on one tap.
///
/// # Errors
///
/// When a device fails, or no frame passes.
pub fn throughput(
    path: &Path,
    (case, pairs): (Case, usize),
    time: Duration,
    run: u32,
) -> Result<Throughput> {
    let taps = (0..pairs)
        .map(|_| tap_of(&case, TAP, pairs > 1))
        .collect::<Result<Vec<_>>>()?;
    let shared = Arc::new(Shared::default());
    let threads = match case.direction {
        Direction::Tx => start_tx(path, case, taps, &shared)?,
        Direction::Rx => start_rx(path, case, taps, &shared)?,
    };
    thread::sleep(time / 4);
    let before = Moment::take(&shared)?;
    thread::sleep(time);
    let after = Moment::take(&shared)?;
    shared.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a thread panicked"))??;
    }
    let packets = after.done - before.done;
    if packets == 0 {
        bail!("no frame passed in {time:?}");
    }
    let seconds = match case.direction {
        Direction::Tx => (after.time - before.time).as_secs_f64(),
        Direction::Rx => (after.busy - before.busy) as f64 / 1e9,
    };
    let packets = packets as f64;
    Ok(Throughput {
        case: case.name(),
        device: path.display().to_string(),
        run,
        pairs,
        packets_per_second: packets / seconds,
        worker_ns: (after.run_ns - before.run_ns) as f64 / packets,
        kicks: (after.kicks - before.kicks) as f64 / packets,
        calls: (after.calls - before.calls) as f64 / packets,
    })
}

/// Runs `one` often enough to warm up, then `count` times, and answers the times it took.
fn times(count: u64, mut one: impl FnMut() -> Result<()>) -> Result<(Vec<f64>, u64)> {
    for _ in 0..count.div_ceil(4) {
        one()?;
    }
    let before = workers_now()?;
    let mut times = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        one()?;
        times.push(start.elapsed().as_secs_f64() * 1e9);
    }
    Ok((times, workers_now()?.run_ns - before.run_ns))
}

/// Measures one frame at a time, from peer to guest and back.
///
/// # Errors
///
/// When a frame is lost.
pub fn round_trip(path: &Path, frame: usize, count: u64, run: u32) -> Result<Latency> {
    let case = Case {
        batch: 1,
        ..Case::base(Direction::Rx, frame)
    };
    let tap = tap_of(&case, TAP, false)?;
    let mut peer = peer_of(&case, &tap)?;
    let bytes = frame_of(&case, Wire::Peer);
    let mut rig = Rig::new(path, case, tap, bytes.clone())?;
    rig.rx.post(case.queue)?;
    let mut got = Vec::new();
    let (times, run_ns) = times(count, || {
        peer.send(NetHeader::default(), &bytes)?;
        rig.rx.complete(1, false)?;
        rig.tx.post(1)?;
        while peer.receive(&mut got)?.is_none() {
            if !Deadline::patient().readable(&[peer.as_fd()])? {
                bail!("the frame did not come back");
            }
        }
        rig.tx.complete(1, false)?;
        rig.rx.post(1)
    })?;
    if got != bytes {
        bail!("the frame came back changed");
    }
    latency(format!("roundtrip-{frame}"), path, run, (&times, run_ns))
}

/// Measures one frame at a time, from the kick until the call that its buffer is back.
///
/// # Errors
///
/// When the device is silent.
pub fn kick_to_call(path: &Path, frame: usize, count: u64, run: u32) -> Result<Latency> {
    let case = Case {
        batch: 1,
        ..Case::base(Direction::Tx, frame)
    };
    let tap = tap_of(&case, TAP, false)?;
    let mut rig = Rig::new(path, case, tap, frame_of(&case, Wire::Silent))?;
    let (times, run_ns) = times(count, || {
        rig.tx.post(1)?;
        rig.tx.complete(1, false)
    })?;
    latency(format!("kick-{frame}"), path, run, (&times, run_ns))
}

fn latency(case: String, path: &Path, run: u32, (times, run_ns): (&[f64], u64)) -> Result<Latency> {
    Ok(Latency {
        case,
        device: path.display().to_string(),
        run,
        packets: times.len() as u64,
        median_ns: stats::median(times).context("no packets")?,
        p99_ns: stats::quantile(times, 0.99).context("no packets")?,
        worker_ns: run_ns as f64 / times.len() as f64,
    })
}

/// What [`throughput`] is measured for.
#[must_use]
pub fn cases() -> Vec<(Case, usize)> {
    let mut cases = Vec::new();
    for direction in [Direction::Tx, Direction::Rx] {
        for frame in [60, 1500, 65000] {
            cases.push((Case::base(direction, frame), 1));
        }
        for pairs in [2, 4] {
            cases.push((Case::base(direction, 60), pairs));
        }
    }
    cases
}
