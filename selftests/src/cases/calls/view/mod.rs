// SPDX-License-Identifier: GPL-2.0

//! What the operator sees of a device in debugfs.

use crate::cases::common::frames;
use crate::cases::common::iommu::Behind;
use crate::cases::common::view::{self, Keys, View};
use crate::cases::common::{Case, Context, accepts, check, lets_c_off, ring_case};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::iotlb::VERSION_2;
use crate::driver::queue::Queue;
use crate::driver::ring::Format;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::host::procfs;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

pub(crate) mod wakes;

pub(crate) const CASES: &[Case] = &[
    ring_case("view.device", 60, device),
    ring_case("view.before_start", 60, before_start),
    ring_case("view.traffic", 60, traffic_moves_indexes),
    ring_case("view.stopped", 60, stopped),
    ring_case("view.refused", 60, refused),
    ring_case("view.gone", 60, gone),
    ring_case("view.iommu", 60, behind_an_iommu),
];

const FEATURES: u64 = feature::VERSION_1 | feature::MRG_RXBUF;

/// All files of a device.
const FILES: [(&str, u32); 5] = [
    ("state", 0o400),
    ("rx/state", 0o400),
    ("tx/state", 0o400),
    ("rx/wake", 0o200),
    ("tx/wake", 0o200),
];

/// The names of the two queues.
const QUEUES: [(&str, u32); 2] = [("rx", RX), ("tx", TX)];

/// The device itself: owner, features, workers, both here and in fdinfo.
fn device(ctx: &Context) -> Result<()> {
    let device = NetDevice::start(&ctx.device, Setup::new(FEATURES))?;
    if lets_c_off(ctx)? {
        return Ok(());
    }
    let view = View::of(&device.vhost)?;
    let pid = std::process::id().to_string();
    let info = view::fdinfo(&device.vhost)?;
    check(info.contains(&format!("owner:\t{pid}\n")), || info.clone())?;
    let worker = device.vhost.new_worker()?;
    let mut threads: Vec<_> = procfs::workers()?.iter().map(|it| it.tid).collect();
    threads.sort_unstable();
    check(threads.len() == 2, || format!("workers {threads:?}"))?;
    let (low, high) = (device.setup.features, device.setup.more_features);
    check(high == 0, || "more features than expected".into())?;
    Deadline::patient().until("all workers to be shown", || {
        let keys = view.read("state")?;
        let shown = keys.find("workers").unwrap_or_default().split(' ');
        let mut shown: Vec<u32> = shown.filter_map(|tid| tid.parse().ok()).collect();
        shown.sort_unstable();
        check(keys.get("owner")? == pid, || format!("{keys:?}"))?;
        Ok(shown == threads)
    })?;
    accepts("FREE_WORKER", device.vhost.free_worker(worker))?;
    let keys = view.read("state")?;
    let mut names: Vec<_> = keys.get("features")?.split(' ').collect();
    names.sort_unstable();
    let mut wanted = vec!["mrg_rxbuf", "version_1"];
    if ctx.device.format == Format::Packed {
        wanted.push("ring_packed");
    }
    wanted.sort_unstable();
    check(names == wanted, || format!("features {names:?}"))?;
    let hex = format!("{low:#x}");
    check(keys.get("features_hex")? == hex, || {
        format!("{keys:?}, not {hex}")
    })
}

/// A queue without a backend waits for nothing; without an owner there is no directory.
fn before_start(ctx: &Context) -> Result<()> {
    let device = NetDevice::prepare(&ctx.device, Setup::new(FEATURES), "tap0", false)?;
    if lets_c_off(ctx)? {
        return Ok(());
    }
    let view = View::of(&device.vhost)?;
    for (queue, _) in QUEUES {
        let idle = [
            ("started", "no"),
            ("stopped", "no"),
            ("fault", "none"),
            ("backend", "none"),
            ("waits_for", "nothing"),
            ("iotlb", "no"),
            ("log", "no"),
        ];
        view.until(queue, &idle)?;
        // It is harmless.
        view.wake(queue)?;
        let keys = view.until(queue, &idle)?;
        check(keys.find("interface").is_none(), || format!("{keys:?}"))?;
    }
    accepts("RESET_OWNER", device.vhost.reset_owner())?;
    check(!view.exists()?, || "a directory without an owner".into())?;
    let info = view::fdinfo(&device.vhost)?;
    check(!info.contains("owner:"), || info.clone())?;
    accepts("SET_OWNER", device.vhost.set_owner())?;
    check(view.exists()?, || "no directory of the second owner".into())
}

/// Compares where a ring is with what is shown of it.
fn check_place(ctx: &Context, device: &NetDevice, queue: &Queue, keys: &Keys) -> Result<()> {
    let place = device.address(queue);
    let format = match ctx.device.format {
        Format::Split => "split",
        Format::Packed => "packed",
    };
    let wanted = [
        ("format", format.to_owned()),
        ("size", queue.ring.size().to_string()),
        ("descriptors", format!("{:#x}", place.desc)),
        ("driver_area", format!("{:#x}", place.avail)),
        ("device_area", format!("{:#x}", place.used)),
    ];
    for (key, value) in wanted {
        check(keys.get(key)? == value, || {
            format!("{keys:?}, not {key} {value}")
        })?;
    }
    Ok(())
}

/// Each index moves by what was sent, and each queue tells what it waits for.
fn traffic_moves_indexes(ctx: &Context) -> Result<()> {
    const COUNT: u64 = 37;
    let mut device = NetDevice::start(&ctx.device, Setup::new(FEATURES))?;
    if lets_c_off(ctx)? {
        return Ok(());
    }
    let view = View::of(&device.vhost)?;
    let quiet = [
        ("available", "no"),
        ("kicks", "wanted"),
        ("waits_for", "kick"),
    ];
    let before = view.until("tx", &quiet)?;
    traffic::transmit(&mut device, Plan::new(ctx.seed, COUNT, |_| 100))?;
    let after = view.until("tx", &quiet)?;
    check_place(ctx, &device, &device.tx, &after)?;
    check(device.tx.shape.one_descriptor(), || {
        "a frame has one descriptor".into()
    })?;
    let lap = match ctx.device.format {
        Format::Split => 1 << 16,
        Format::Packed => u64::from(device.tx.ring.size()),
    };
    for key in ["taken", "used"] {
        let (from, to) = (before.number(key)?, after.number(key)?);
        check(to == (from + COUNT) % lap, || {
            format!("{key} from {from} to {to}")
        })?;
    }
    for key in ["seen", "driver"] {
        let (taken, other) = (after.number("taken")?, after.number(key)?);
        check(taken == other, || format!("{key} {other}, taken {taken}"))?;
    }
    let tids: Vec<_> = procfs::workers()?
        .iter()
        .map(|it| it.tid.to_string())
        .collect();
    let common = [
        ("started", "yes"),
        ("stopped", "no"),
        ("fault", "none"),
        ("iotlb", "no"),
        ("log", "no"),
        ("backend", "tap"),
        ("interface", "tap0"),
        ("worker", tids[0].as_str()),
    ];
    view.until("tx", &common)?;
    // Buffers wait for a packet.
    device.rx_fill()?;
    device.rx.flush()?;
    view.wake("rx")?;
    view.until("rx", &common)?;
    let keys = view.until("rx", &[("available", "yes"), ("waits_for", "packet")])?;
    check_place(ctx, &device, &device.rx, &keys)?;
    check(keys.find("driver").is_some(), || format!("{keys:?}"))?;
    // Calls are as the guest asks for them.
    for asks in [true, false, true] {
        let wanted = if asks {
            let _ = device.rx.ring.arm_call(1);
            "wanted"
        } else {
            device.rx.ring.disarm_call();
            "unwanted"
        };
        view.until("rx", &[("calls", wanted)])?;
    }
    Ok(())
}

/// A queue that a fault has stopped tells so, and waits for a kick.
fn stopped(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(FEATURES))?;
    if lets_c_off(ctx)? {
        return Ok(());
    }
    let view = View::of(&device.vhost)?;
    frames::send_short(&mut device)?;
    let keys = [
        ("stopped", "yes"),
        ("fault", "short_header"),
        ("available", "yes"),
        ("kicks", "wanted"),
        ("waits_for", "kick"),
    ];
    view.until("tx", &keys)?;
    // Looking again does not help, and does no harm.
    view.wake("tx")?;
    view.until("tx", &keys)?;
    view.until("rx", &[("stopped", "no"), ("fault", "none")])
        .map(|_| ())
}

/// Only root reads and wakes.
fn refused(ctx: &Context) -> Result<()> {
    let device = NetDevice::start(&ctx.device, Setup::new(FEATURES))?;
    if lets_c_off(ctx)? {
        return Ok(());
    }
    let view = View::of(&device.vhost)?;
    for (file, mode) in FILES {
        let path = view.path(file);
        let found = fs::metadata(&path)?.permissions().mode() & 0o777;
        check(found == mode, || format!("{file} has mode {found:o}"))?;
        let action = if mode == 0o400 {
            "cat \"$1\""
        } else {
            "echo > \"$1\""
        };
        let run = |program: &str, args: &[&str]| -> Result<bool> {
            let mut command = Command::new(program);
            command
                .args(args)
                .args(["sh", "-c", action, "sh"])
                .arg(&path);
            Ok(command
                .output()
                .with_context(|| program.to_owned())?
                .status
                .success())
        };
        check(run("env", &[])?, || format!("root cannot use {file}"))?;
        let other = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        check(!run("setpriv", &other)?, || {
            format!("anyone can use {file}")
        })?;
    }
    Ok(())
}

/// Files that are open when their device goes stay open, and show nothing any more; the module
/// stays until they are closed.
fn gone(ctx: &Context) -> Result<()> {
    let device = NetDevice::start(&ctx.device, Setup::new(FEATURES))?;
    if lets_c_off(ctx)? {
        return Ok(());
    }
    let references = || -> Result<u64> {
        let text = fs::read_to_string("/sys/module/vhost_rnet/refcnt")?;
        Ok(text.trim().parse()?)
    };
    let view = View::of(&device.vhost)?;
    let mut shown = Vec::new();
    let mut poked = Vec::new();
    for (file, mode) in FILES {
        match mode {
            0o400 => shown.push(File::open(view.path(file))?),
            _ => poked.push(File::options().write(true).open(view.path(file))?),
        }
    }
    let mut text = String::new();
    shown[0].read_to_string(&mut text)?;
    check(text.contains("owner:\t"), || text.clone())?;
    let before = references()?;
    drop(device);
    check(!view.exists()?, || {
        "the directory outlives its device".into()
    })?;
    for file in &mut shown {
        let mut text = String::new();
        check(file.read_to_string(&mut text).is_err(), || text.clone())?;
    }
    for file in &mut poked {
        check(file.write_all(b"1").is_err(), || {
            "a queue that is gone is woken".into()
        })?;
    }
    let count = FILES.len() as u64;
    let held = references()?;
    check(held >= count && held < before, || {
        format!("{before} references with the device, {held} without")
    })?;
    drop((shown, poked));
    let left = references()?;
    check(left + count <= held, || {
        format!("{held} references, {left} after closing")
    })
}

/// Behind an IOMMU the addresses are IO addresses, and the ring can still be read.
fn behind_an_iommu(ctx: &Context) -> Result<()> {
    let mut behind = Behind::start(ctx, Setup::new(FEATURES), VERSION_2)?;
    if lets_c_off(ctx)? {
        return Ok(());
    }
    let view = View::of(&behind.device.vhost)?;
    traffic::transmit(&mut behind.device, Plan::new(ctx.seed, 10, |_| 100))?;
    let quiet = [("iotlb", "yes"), ("available", "no"), ("waits_for", "kick")];
    let keys = view.until("tx", &quiet)?;
    check_place(ctx, &behind.device, &behind.device.tx, &keys)?;
    let (taken, driver) = (keys.number("taken")?, keys.number("driver")?);
    check(taken == driver, || {
        format!("taken {taken}, driver {driver}")
    })
}
