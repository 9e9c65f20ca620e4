// SPDX-License-Identifier: GPL-2.0

//! Calls of all kinds from several threads on the same devices, which are replaced meanwhile, as
//! are their backends, while the memory behind their rings changes.
//!
//! Nothing is expected of a call but that it returns. When all devices are closed, their workers
//! are gone, and a new device works.

use super::{Counts, Fuzzer, PACKED, Stop, exchange, format};
use crate::case::{Context, Kind};
use crate::conformance::calls::{AVAIL, QUEUE, USED};
use crate::conformance::ioctls::of;
use crate::conformance::random::Pool;
use crate::conformance::side::Side;
use crate::conformance::step::{Action, Caller, Fd, Step};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::uapi::{DESC_AVAIL, DESC_USED, feature};
use crate::host::procfs;
use crate::sys::kcov::Coverage;
use crate::sys::process;
use crate::wait::Deadline;
use anyhow::{Context as _, Result, anyhow};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The fuzzer.
pub const FUZZER: Fuzzer = Fuzzer {
    name: "ioctls",
    episode,
    reaches: &["successes", "bound queues", "replaced devices"],
};

/// Threads that call.
const THREADS: usize = 3;

/// Makes calls at random on any of the devices.
fn calls(sides: &[Side], pool: &Pool, mut rng: SmallRng, steps: usize) -> Result<Counts> {
    let mut counts = Counts::default();
    let coverage = Coverage::start().context("kcov")?;
    for _ in 0..steps {
        let side = sides.choose(&mut rng).context("no device")?;
        match rng.random_range(0..200) {
            0..3 => {
                side.replace()?;
                counts.add("replaced devices", 1);
            }
            3 if rng.random_bool(0.1) => side.spoil_tap(
                *[Fd::Unattached, Fd::File]
                    .choose(&mut rng)
                    .unwrap_or(&Fd::File),
            )?,
            4 => {
                // All files stay open a little longer.
                process::in_child(|| std::thread::sleep(Duration::from_millis(3)))?;
                counts.add("forks", 1);
            }
            _ => {
                let step = pool.draw(&mut rng).by(match rng.random_range(0..40) {
                    0 => Caller::Child,
                    _ => Caller::Main,
                });
                let outcome = side.run(&step).with_context(|| step.to_string())?;
                counts.cover(coverage.as_ref());
                counts.add("operations", 1);
                if outcome.result.is_ok() {
                    counts.add("successes", 1);
                    let bound = step.name == "NET_SET_BACKEND" && !unbinds(&step);
                    counts.add("bound queues", bound.into());
                    counts.add(PACKED, asks_for_packed(&step).into());
                }
            }
        }
    }
    Ok(counts)
}

fn unbinds(step: &Step) -> bool {
    match &step.action {
        Action::Ioctl(_, argument) => argument.word(1) == Some(u32::MAX),
        _ => false,
    }
}

fn asks_for_packed(step: &Step) -> bool {
    let features = step.argument_of(of("SET_FEATURES"));
    // CAST: bit 34, in the upper half.
    let bit = (feature::RING_PACKED >> 32) as u32;
    let upper = features.and_then(|argument| argument.word(1));
    upper.is_some_and(|word| word & bit != 0)
}

/// Changes what the rings say, and kicks.
fn disturb(sides: &[Side], mut rng: SmallRng, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let side = sides.choose(&mut rng).context("no device")?;
        let part = *[0, AVAIL, AVAIL, USED].choose(&mut rng).unwrap_or(&0);
        let at = QUEUE * rng.random_range(0..2) + part + 2 * rng.random_range(0..32);
        let words = [0, 1, 2, 256, DESC_AVAIL, DESC_USED, rng.random()];
        let word = *words.choose(&mut rng).unwrap_or(&0);
        side.write_memory(usize::try_from(at)?, word);
        side.kick()?;
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

fn episode(ctx: &Context) -> Result<Counts> {
    let mut rng = SmallRng::seed_from_u64(ctx.seed);
    let steps = rng.random_range(100..400);
    // The in-tree driver waits as long as it is told, with the queue locked.
    let pool = Pool::all(ctx.kind == Kind::Rnet, format(ctx)?);
    let sides = [
        Side::new(&ctx.device.path, "tapa")?,
        Side::new(&ctx.device.path, "tapb")?,
    ];
    for side in &sides {
        side.run(&Step::nonblocking())?;
    }
    let stop = AtomicBool::new(false);
    let mut counts = Counts::default();
    std::thread::scope(|scope| {
        let guard = Stop(&stop);
        let callers: Vec<_> = (0..THREADS)
            .map(|_| {
                let rng = SmallRng::from_rng(&mut rng);
                scope.spawn(|| calls(&sides, &pool, rng, steps))
            })
            .collect();
        let rng = SmallRng::from_rng(&mut rng);
        let other = scope.spawn(|| disturb(&sides, rng, &stop));
        for caller in callers {
            let counted = caller.join().map_err(|_| anyhow!("a caller panicked"))??;
            counts.merge(&counted);
        }
        drop(guard);
        other.join().map_err(|_| anyhow!("a writer panicked"))?
    })?;
    drop(sides);
    procfs::expect_workers(0)?;
    Deadline::patient().until("kernel threads to end", || {
        Ok(procfs::kernel_workers()?.is_empty())
    })?;
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    exchange(&mut device, ctx.seed).context("a new device")?;
    Ok(counts)
}
