// SPDX-License-Identifier: GPL-2.0

//! Owners that are killed at any moment.

use super::{Case, Context, Role, case, check, role};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Flow, Plan, RxFlow, TxFlow};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::host::census;
use crate::runner;
use crate::sys::mapping::Mapping;
use crate::sys::process::Forked;
use crate::wait::Deadline;
use anyhow::{Context as _, Result, bail};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(super) const CASES: &[Case] = &[
    case("kill.under_traffic", 120, under_traffic),
    case("kill.before_kick", 120, before_kick),
    case("kill.shared_device", 120, shared),
    case("kill.random", 120, random),
];

pub(super) const ROLES: &[Role] = &[
    role("endless-traffic", endless_traffic),
    role("idle-owner", idle_owner),
    role("adopt-and-die", adopt),
];

pub(super) fn say_ready() -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(b"!")
        .and_then(|()| out.flush())
        .context("tell the parent")
}

/// Moves frames both ways until killed.
fn endless_traffic(ctx: &Context) -> Result<()> {
    let setup = Setup::new(feature::VERSION_1 | feature::EVENT_IDX);
    let device = NetDevice::start(&ctx.device, setup)?;
    until_killed(ctx, device, |_| Ok(()))
}

/// Tells the parent when frames have moved both ways, and goes on; from then on `change` is called
/// all the time.
pub(super) fn until_killed(
    ctx: &Context,
    mut device: NetDevice,
    mut change: impl FnMut(&NetDevice) -> Result<()>,
) -> Result<()> {
    let plan = Plan {
        window: 200,
        ..Plan::new(ctx.seed, u64::MAX, |n| 60 + (n % 1400) as usize)
    };
    let (mut tx, mut rx) = (TxFlow::new(plan), RxFlow::new(plan));
    let mut told = false;
    loop {
        let moved = tx.pump(&mut device)? | rx.pump(&mut device)?;
        if !told && tx.seen > 0 && rx.seen > 0 {
            told = true;
            say_ready()?;
        }
        if !moved && !traffic::wait_activity(&mut device, crate::wait::PATIENCE)? {
            bail!("nothing moves");
        }
        if told {
            change(&device)?;
        }
    }
}

/// Sets everything up, never kicks, and waits to be killed.
fn idle_owner(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    device.rx_fill()?;
    let _ = device.rx.ring.publish();
    device.tx_post(crate::driver::uapi::NetHeader::default(), &[0; 64])?;
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

/// Starts a role and waits until it says that it is ready.
pub(super) fn start(ctx: &Context, name: &str, stdin: Stdio) -> Result<Child> {
    start_as(runner::again(ctx, "--role", name)?, name, stdin)
}

/// As [`start`], by a command that plays the role.
pub(super) fn start_as(mut command: Command, name: &str, stdin: Stdio) -> Result<Child> {
    let mut child = command
        .stdout(Stdio::piped())
        .stdin(stdin)
        .spawn()
        .context("start a role")?;
    let mut stdout = child.stdout.take().context("its output")?;
    let answered = Deadline::patient().readable(&[&stdout])?;
    let mut byte = [0];
    let got = if answered { stdout.read(&mut byte)? } else { 0 };
    if got != 1 || byte != *b"!" {
        let _ = child.kill();
        let mut rest = String::from_utf8_lossy(&byte).into_owned();
        let _ = stdout.read_to_string(&mut rest);
        let status = child.wait()?;
        bail!("{name} did not get ready ({status}): {rest}");
    }
    child.stdout = Some(stdout);
    Ok(child)
}

/// Kills with a signal that cannot be caught, and waits for the end.
pub(super) fn kill(mut child: Child, after: Duration) -> Result<()> {
    // A different moment each time is the point here, not a wait for anything.
    std::thread::sleep(after);
    child.kill().context("kill")?;
    let status = child.wait()?;
    check(status.code().is_none(), || {
        format!("it ended by itself: {status}")
    })
}

pub(super) fn still_works(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    traffic::exchange(&mut device, Plan::new(ctx.seed, 50, |_| 100))
}

/// Kills as many owners in a role, each a `step` later than the one before; then the device still works.
pub(super) fn one_by_one(ctx: &Context, name: &str, usual: u32, step: Duration) -> Result<()> {
    for (round, later) in (0..ctx.times(usual.into())).zip((0..usual).cycle()) {
        let child = start(ctx, name, Stdio::null())?;
        kill(child, step * later)?;
        still_works(ctx).with_context(|| format!("after kill {round}"))?;
    }
    Ok(())
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
        super::refuses("GET_VRING_BASE", libc::EPERM, vhost.base(TX))?;
        super::refuses("RESET_OWNER", libc::EPERM, vhost.reset_owner())?;
        super::refuses("SET_OWNER", libc::EBUSY, vhost.set_owner())?;
        drop(vhost);
        still_works(ctx).with_context(|| format!("after kill {round}"))?;
    }
    Ok(())
}

/// Owners at a time in [`random`].
const VICTIMS: usize = 4;

/// Kills in each period of [`random`], if it is not to go on longer.
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
        // No wait for anything: the next may be anywhere by then.
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
    // Little memory, to be there soon.
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
    // What is allocated once is there afterwards.
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
