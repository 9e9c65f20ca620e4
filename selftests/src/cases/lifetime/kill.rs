// SPDX-License-Identifier: GPL-2.0

//! Owners that are killed at any moment.

use crate::cases::common::owners::{kill, one_by_one, say_ready, start, still_works, until_killed};
use crate::cases::common::{Case, Context, Role, case, check, refuses, ring_case, role};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::host::census;
use crate::sys::mapping::Mapping;
use crate::sys::process::Forked;
use anyhow::{Context as _, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ring_case("kill.under_traffic", 120, under_traffic),
    ring_case("kill.before_kick", 120, before_kick),
    case("kill.shared_device", 120, shared),
    ring_case("kill.random", 120, random),
];

pub(crate) const ROLES: &[Role] = &[
    role("endless-traffic", endless_traffic),
    role("idle-owner", idle_owner),
    role("adopt-and-die", adopt),
];

/// Moves frames both ways until killed.
fn endless_traffic(ctx: &Context) -> Result<()> {
    let setup = Setup::new(feature::VERSION_1 | feature::EVENT_IDX);
    let device = NetDevice::start(&ctx.device, setup)?;
    until_killed(ctx, device, |_| Ok(()))
}

/// Sets everything up, never kicks, and waits to be killed.
fn idle_owner(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    device.rx_fill()?;
    let _ = device.rx.ring.publish();
    device.tx_post(crate::packet::header::NetHeader::default(), &[0; 64])?;
    let _ = device.tx.ring.publish();
    say_ready()?;
    loop {
        std::thread::park();
    }
}

/// Becomes the owner of an inherited device, and waits to be killed while the parent has it open.
fn adopt(_ctx: &Context) -> Result<()> {
    use std::os::fd::AsFd;
    let fd = std::io::stdin().as_fd().try_clone_to_owned()?;
    let vhost = crate::driver::vhost::Vhost::from_fd(fd);
    vhost.set_owner().context("SET_OWNER")?;
    vhost.set_num(RX, 64)?;
    vhost.set_base(TX, 5)?;
    say_ready()?;
    loop {
        std::thread::park();
    }
}

fn under_traffic(ctx: &Context) -> Result<()> {
    one_by_one(ctx, "endless-traffic", 30, Duration::from_millis(3))
}

fn before_kick(ctx: &Context) -> Result<()> {
    for round in 0..ctx.times(30) {
        let child = start(ctx, "idle-owner", Stdio::null())?;
        kill(child, Duration::from_millis(round % 4))?;
        still_works(ctx).with_context(|| format!("after kill {round}"))?;
    }
    Ok(())
}

/// The owner dies while another process has the device open: nobody else owns it, closing works.
fn shared(ctx: &Context) -> Result<()> {
    use std::os::fd::AsFd;
    for round in 0..ctx.times(20) {
        let vhost = ctx.open()?;
        let fd = vhost.as_fd().try_clone_to_owned()?;
        let child = start(ctx, "adopt-and-die", Stdio::from(fd))?;
        kill(child, Duration::from_millis(round % 3))?;
        refuses("GET_VRING_BASE", libc::EPERM, vhost.base(TX))?;
        refuses("RESET_OWNER", libc::EPERM, vhost.reset_owner())?;
        refuses("SET_OWNER", libc::EBUSY, vhost.set_owner())?;
        drop(vhost);
        still_works(ctx).with_context(|| format!("after kill {round}"))?;
    }
    Ok(())
}

/// Owners at a time in [`random`].
const VICTIMS: usize = 4;

/// Kills in each period of [`random`], by default.
const KILLS: u64 = 40;

/// Owners that are killed, each on a tap of its own.
struct Victims<'a> {
    ctx: &'a Context,
    rng: SmallRng,
    alive: Vec<Forked>,
    /// A word for each: whether it has moved frames.
    moving: Mapping,
    /// How many were killed with frames on the move.
    killed_moving: u64,
}

impl<'a> Victims<'a> {
    fn start(ctx: &'a Context, rng: SmallRng) -> Result<Self> {
        let mut victims = Self {
            ctx,
            rng,
            alive: Vec::new(),
            moving: Mapping::new(2 * VICTIMS)?,
            killed_moving: 0,
        };
        for slot in 0..VICTIMS {
            let victim = victims.one(slot)?;
            victims.alive.push(victim);
        }
        Ok(victims)
    }

    fn one(&mut self, slot: usize) -> Result<Forked> {
        let seed = self.rng.random();
        self.moving.store_u16(2 * slot, 0, Ordering::Relaxed);
        let live = || {
            if let Err(error) = victim(self.ctx, slot, seed, &self.moving) {
                println!("owner {slot} gave up: {error:#}");
            }
            1
        };
        Ok(Forked::start(live)?)
    }

    /// Kills any of them at any moment, and starts another in its place.
    fn kill_one(&mut self) -> Result<()> {
        // This waits for nothing: the point is that the victim is interrupted at a random place.
        std::thread::sleep(Duration::from_micros(self.rng.random_range(0..30_000)));
        let slot = self.rng.random_range(0..VICTIMS);
        let victim = self.alive.swap_remove(slot);
        victim.signal(libc::SIGKILL)?;
        let status = victim.wait()?;
        check(status.signal() == Some(libc::SIGKILL), || {
            format!("owner {slot} ended with {status}")
        })?;
        self.killed_moving += u64::from(self.moving.load_u16(2 * slot, Ordering::Relaxed));
        let next = self.one(slot)?;
        self.alive.push(next);
        self.alive.swap(slot, VICTIMS - 1);
        Ok(())
    }
}

/// Sets a device up and moves frames both ways until killed; says when they do move.
fn victim(ctx: &Context, slot: usize, seed: u64, moving: &Mapping) -> Result<()> {
    let events = feature::EVENT_IDX * (seed % 2);
    let merge = feature::MRG_RXBUF * (seed / 2 % 2);
    let mut setup = Setup::new(feature::VERSION_1 | events | merge);
    // Little memory, so that it is set up quickly.
    (setup.rx_buffers.0, setup.tx_buffers.0) = (32, 32);
    let mut device = NetDevice::prepare(&ctx.device, setup, &format!("tap{slot}"), false)?;
    device.bind(TX)?;
    device.bind(RX)?;
    loop {
        let plan = Plan::new(seed, 20, |n| 60 + (n % 1400) as usize);
        traffic::exchange(&mut device, plan)?;
        moving.store_u16(2 * slot, 1, Ordering::Relaxed);
    }
}

/// Owners are killed while they set up their device or use it, and leave nothing behind.
fn random(ctx: &Context) -> Result<()> {
    // The first device makes the kernel allocate what it keeps; that is no leak.
    let kills = ctx.times(KILLS);
    still_works(ctx)?;
    let mut rng = SmallRng::seed_from_u64(ctx.seed);
    let mut victims = Victims::start(ctx, SmallRng::from_rng(&mut rng))?;
    for _ in 0..kills.div_ceil(2) {
        victims.kill_one()?;
    }
    drop(victims);
    let (mut all, mut moving) = (0, 0);
    let lost = census::expect_no_growth(|| {
        let mut victims = Victims::start(ctx, SmallRng::from_rng(&mut rng))?;
        for number in 0..kills {
            victims
                .kill_one()
                .with_context(|| format!("kill {number}"))?;
        }
        all += kills;
        moving += victims.killed_moving;
        Ok(kills)
    })?;
    println!("{all} owners killed, {moving} of them under traffic; {lost} KiB less than before");
    check(moving > 0 && moving < all, || {
        "all killed at the same stage".into()
    })?;
    still_works(ctx)
}
