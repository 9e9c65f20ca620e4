// SPDX-License-Identifier: GPL-2.0

//! The module behind the device: it stays while it is in use, and goes without a trace.

use crate::cases::common::{Case, Context, Kind, Skip, case, check, frames, owners};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::packet::frame;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::fs;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    case("module.in_use", 60, in_use),
    case("module.reload", 120, reload),
    case("module.frames_left", 60, frames_left),
];

/// The name of the module behind the device, and the path of its reference count.
fn module(ctx: &Context) -> Result<(&'static str, String)> {
    let name = if ctx.kind == Kind::C {
        "vhost_net"
    } else {
        "vhost_rnet"
    };
    let path = format!("/sys/module/{name}/refcnt");
    if !fs::exists(&path)? {
        return Err(Skip(format!("{name} is built in")).into());
    }
    Ok((name, path))
}

/// The module cannot go while a device is open, and its count is right afterwards.
fn in_use(ctx: &Context) -> Result<()> {
    let (module, path) = module(ctx)?;
    let count = || -> Result<u64> {
        let text = fs::read_to_string(&path).context("module reference count")?;
        text.trim().parse().context("module reference count")
    };
    let before = count()?;
    let devices = (0..10).map(|_| ctx.owned()).collect::<Result<Vec<_>>>()?;
    let held = count()?;
    check(held == before + 10, || {
        format!("{before} references, {held} with ten devices")
    })?;
    let status = Command::new("rmmod")
        .arg(module)
        .output()
        .context("rmmod")?
        .status;
    check(!status.success(), || {
        "the module went with devices open".into()
    })?;
    drop(devices);
    let after = count()?;
    check(after == before, || {
        format!("{before} references, {after} after closing")
    })
}

/// Loads the module, from its file if that was given.
fn load(ctx: &Context, name: &str) -> Result<Output> {
    let mut command = match &ctx.module {
        Some(file) => {
            let mut insmod = Command::new("insmod");
            insmod.arg(file);
            insmod
        }
        None => {
            let mut modprobe = Command::new("modprobe");
            modprobe.arg(name);
            modprobe
        }
    };
    command.output().context("load the module")
}

/// Skips the case if the module could not be loaded again.
fn loadable(ctx: &Context, name: &str) -> Result<()> {
    if ctx.module.is_none() {
        let known = Command::new("modinfo").arg(name).output()?.status;
        if !known.success() {
            return Err(Skip(format!("{name} is not installed, nor its file given")).into());
        }
    }
    Ok(())
}

/// Waits until the module has gone.
fn unload(name: &str) -> Result<()> {
    Deadline::patient().until("the module to go", || {
        Ok(Command::new("rmmod").arg(name).output()?.status.success())
    })
}

/// Frames that nobody has received when the module goes are received, or dropped, afterwards.
fn frames_left(ctx: &Context) -> Result<()> {
    const FRAMES: u64 = 24;
    const LEN: usize = 60_000;
    let (name, _) = module(ctx)?;
    loadable(ctx, name)?;
    let mut setup = Setup::new(feature::VERSION_1);
    setup.tx_buffers = (32, LEN + 12);
    let mut device = NetDevice::start(&ctx.device, setup)?;
    let (mut bytes, mut got) = (Vec::new(), Vec::new());
    frames::send_all(ctx, &mut device, 0..FRAMES, |_| LEN)?;
    let NetDevice {
        vhost,
        tap,
        mut peer,
        ..
    } = device;
    drop(vhost);
    unload(name)?;
    for sequence in 0..FRAMES / 2 {
        frame::build(ctx.seed, sequence, LEN, &mut bytes);
        Deadline::patient().until("a frame", || Ok(peer.receive(&mut got)?.is_some()))?;
        frame::expect("transmitted", sequence, &bytes, &got)?;
    }
    // With the rest of the frames.
    drop((peer, tap));
    let output = load(ctx, name)?;
    check(output.status.success(), || format!("{output:?}"))?;
    owners::still_works(ctx)
}

/// The module goes and comes back, again and again, while others try to use it.
fn reload(ctx: &Context) -> Result<()> {
    let rounds = ctx.times(12);
    let (name, _) = module(ctx)?;
    loadable(ctx, name)?;
    let stop = AtomicBool::new(false);
    let (mut opened, mut missed) = (0u64, 0u64);
    std::thread::scope(|scope| -> Result<()> {
        let user = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                // Not there, or about to go.
                let Ok(vhost) = ctx.open() else {
                    missed += 1;
                    std::thread::yield_now();
                    continue;
                };
                // The module stays while the first device is open, and can go right after the
                // second's worker ends.
                let setup = Setup::new(feature::VERSION_1);
                // Programs that are started meanwhile may still hold the tap of the last one.
                let name = format!("tap{opened}");
                let mut device = NetDevice::prepare(&ctx.device, setup, &name, false)?;
                drop(vhost);
                device.bind(TX)?;
                device.bind(RX)?;
                traffic::exchange(&mut device, Plan::new(ctx.seed + opened, 20, |_| 100))?;
                drop(device);
                opened += 1;
                // The module can only go between two of these.
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        let turn = || -> Result<()> {
            unload(name)?;
            check(!fs::exists(&ctx.device.path)?, || "the node stays".into())?;
            let output = load(ctx, name)?;
            check(output.status.success(), || format!("{output:?}"))
        };
        let result =
            (0..rounds).try_for_each(|round| turn().with_context(|| format!("round {round}")));
        stop.store(true, Ordering::Relaxed);
        user.join().expect("no thread panics")?;
        result
    })?;
    println!("{rounds} times gone and back, opened {opened} times, missing {missed} times");
    // A slow machine may never see the short moment in which the module is gone.
    check(opened > 0, || "nobody was in the way".into())?;
    owners::still_works(ctx)
}
