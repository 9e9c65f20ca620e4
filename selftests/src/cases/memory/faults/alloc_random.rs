// SPDX-License-Identifier: GPL-2.0

//! Pages that cannot be had now and then, for a while.

use super::alloc::{PAGES, set_kind};
use crate::cases::common::pace::{Pace, expect_back};
use crate::cases::common::{Case, Context, Skip, accounting, case, check, frames};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Flow, Plan, RxFlow};
use crate::driver::uapi::feature;
use crate::driver::vhost::TX;
use crate::host::procfs;
use crate::packet::frame;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::PathBuf;

pub(crate) const CASES: &[Case] = &[case("faults.alloc_random", 300, random)];

/// How often pages fail, and how many frames are sent each time.
const ROUNDS: u64 = 6;
/// See [`ROUNDS`].
const FRAMES: u64 = 50;
/// What the driver itself may have taken meanwhile, in bytes.
const SLACK: u64 = 1 << 20;

/// A thread for which pages cannot be had at random, until this is dropped.
struct RandomFailure(PathBuf);

impl RandomFailure {
    fn new(tid: u32) -> Result<Self> {
        let path = PathBuf::from(format!("/proc/self/task/{tid}/make-it-fail"));
        if !fs::exists(&path)? {
            return Err(Skip("this kernel has no fault injection".into()).into());
        }
        set_kind("fail_page_alloc", PAGES)?;
        let chances = [("task-filter", "Y"), ("probability", "10"), ("times", "-1")];
        set_kind("fail_page_alloc", &chances)?;
        fs::write(&path, "1").context("make-it-fail")?;
        Ok(Self(path))
    }
}

impl Drop for RandomFailure {
    fn drop(&mut self) {
        // The thread may have ended; nobody else is to fail either.
        let _ = fs::write(&self.0, "0");
        let _ = set_kind("fail_page_alloc", &[("probability", "0")]);
    }
}

fn mixed_sizes(sequence: u64) -> usize {
    [60_000, 60, 9000, 30_000, 1500][(sequence % 5) as usize]
}

/// Pages that cannot be had at random, under frames that need many: some may get lost in the
/// network stack, but each chain comes back, and nothing is left of it. Afterwards all frames
/// arrive, in no more batches than before.
fn random(ctx: &Context) -> Result<()> {
    let group = accounting::group("rnet-random")?;
    group.enter()?;
    let mut setup = Setup::new(feature::VERSION_1);
    (setup.rx_buffers, setup.tx_buffers) = ((64, 1 << 16), (64, 1 << 16));
    let mut device = NetDevice::start(&ctx.device, setup)?;
    let worker = procfs::workers()?;
    let worker = worker.first().context("no worker")?.tid;
    traffic::exchange(&mut device, Plan::new(ctx.seed, 200, mixed_sizes))?;
    device.unbind(TX)?;
    let before = accounting::current(&group)?;
    device.bind(TX)?;
    let pace = Pace::of(ctx, &mut device)?;
    let (mut bytes, mut got) = (Vec::new(), Vec::new());
    let (mut next, mut lost) = (0, 0);
    let mut rx = RxFlow::new(Plan::new(ctx.seed, 0, mixed_sizes));
    for round in 0..ROUNDS {
        let failing = RandomFailure::new(worker)?;
        let sequences = round * FRAMES..(round + 1) * FRAMES;
        frames::post_all(ctx, &mut device, sequences, mixed_sizes)?;
        rx.extend(FRAMES);
        rx.way.may_lose = rx.sent + FRAMES;
        Deadline::patient().until("the chains to come back", || {
            rx.pump(&mut device)?;
            device.tx_reap()?;
            Ok(device.tx.ring.pending() == 0 && rx.sent == rx.way.may_lose)
        })?;
        drop(failing);
        while device.peer.receive(&mut got)?.is_some() {
            // Their order stays, so what came before has been lost.
            frame::build(ctx.seed, next, mixed_sizes(next), &mut bytes);
            while got != bytes {
                (next, lost) = (next + 1, lost + 1);
                check(next < (round + 1) * FRAMES, || {
                    "a frame that nobody sent".into()
                })?;
                frame::build(ctx.seed, next, mixed_sizes(next), &mut bytes);
            }
            next += 1;
        }
        // All arrive again, and show which of those before were lost.
        rx.extend(FRAMES);
        traffic::run(&mut device, &mut [&mut rx])
            .with_context(|| format!("received after round {round}"))?;
        // A queue asks for memory again after 64 long frames.
        traffic::exchange(&mut device, Plan::new(ctx.seed + 1, 200, mixed_sizes))
            .with_context(|| format!("after round {round}"))?;
        expect_back(ctx, &mut device, pace).with_context(|| format!("after round {round}"))?;
    }
    println!("lost {lost} of {}", ROUNDS * FRAMES);
    accounting::returns(&group, before, SLACK)?;
    drop(device);
    group.leave()?;
    group.remove()
}
