// SPDX-License-Identifier: GPL-2.0

//! The calls around the dirty log: what they refuse, the event descriptor, a log that goes away.

use crate::cases::common::frames::send_frame;
use crate::cases::common::log::{END, Logged, USED};
use crate::cases::common::{Case, Context, accepts, case, check, lets_c_off, refuses, ring_case};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::log::{DirtyLog, LOG_PAGE, log_used};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::{self, MemoryRegion, feature};
use crate::driver::vhost::{RX, TX};
use crate::eventfd::EventFd;
use crate::host::procfs;
use crate::sys::ioctl::BadPointer;
use crate::sys::mapping::user_end;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::os::fd::{AsFd, AsRawFd};

pub(crate) const CASES: &[Case] = &[
    case("log.arguments", 20, arguments),
    ring_case("log.refused_base", 60, refused_base),
    ring_case("log.refused_table", 60, refused_table),
    ring_case("log.signal", 60, signal),
    ring_case("log.closed", 60, closed),
];

/// Log addresses that no process has, and one that a large log leaves.
fn beyond() -> [u64; 3] {
    [0xffff_8880_0000_0000, u64::MAX - 4096, user_end() - 8]
}

fn arguments(ctx: &Context) -> Result<()> {
    let vhost = ctx.open()?;
    refuses(
        "SET_LOG_BASE before SET_OWNER",
        libc::EPERM,
        vhost.set_log_base(0),
    )?;
    refuses(
        "SET_LOG_FD before SET_OWNER",
        libc::EPERM,
        vhost.set_log_fd(-1),
    )?;
    accepts("SET_OWNER", vhost.set_owner())?;
    for pointer in [BadPointer::Null, BadPointer::Kernel, BadPointer::Top] {
        for number in [uapi::SET_LOG_BASE.number(), uapi::SET_LOG_FD.number()] {
            let what = format!("call {number:#x} on {pointer:?}");
            refuses(&what, libc::EFAULT, vhost.bad(number, pointer))?;
        }
    }
    let event = EventFd::new()?;
    let fd = event.as_fd().as_raw_fd();
    for _ in 0..3 {
        accepts("SET_LOG_FD", vhost.set_log_fd(fd))?;
        accepts("SET_LOG_FD of -1", vhost.set_log_fd(-1))?;
    }
    accepts("SET_LOG_FD", vhost.set_log_fd(fd))?;
    refuses("a closed descriptor", libc::EBADF, vhost.set_log_fd(9999))?;
    refuses("a negative descriptor", libc::EBADF, vhost.set_log_fd(-2))?;
    let (pipe, _other) = rustix::pipe::pipe()?;
    refuses("a pipe", libc::EINVAL, vhost.set_log_fd(pipe.as_raw_fd()))?;
    refuses(
        "itself",
        libc::EINVAL,
        vhost.set_log_fd(vhost.as_fd().as_raw_fd()),
    )?;
    // Nothing can be wrong with an address that nobody uses yet.
    for address in [0, 1].into_iter().chain(beyond()) {
        accepts(
            "SET_LOG_BASE with nothing bound",
            vhost.set_log_base(address),
        )?;
    }
    accepts(
        "SET_OWNER after RESET_OWNER",
        vhost.reset_owner().and_then(|()| vhost.set_owner()),
    )
}

/// An address that cannot be is refused as soon as a bound queue would log there.
fn refused_base(ctx: &Context) -> Result<()> {
    for address in beyond() {
        let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
        let features = device.setup.features;
        let log = DirtyLog::new(END)?;
        let vhost = &device.vhost;
        accepts("SET_LOG_BASE without logging", vhost.set_log_base(address))?;
        refuses(
            "LOG_ALL",
            libc::EFAULT,
            vhost.set_features(features | feature::LOG_ALL),
        )?;
        let ring = log_used(&device, TX, Some(USED[1]));
        refuses("a logged used ring", libc::EINVAL, ring)?;
        traffic::exchange(&mut device, Plan::new(ctx.seed, 50, |_| 100))
            .context("after features and a ring were refused")?;

        let vhost = &device.vhost;
        accepts("SET_LOG_BASE", vhost.set_log_base(log.addr()))?;
        accepts("LOG_ALL", vhost.set_features(features | feature::LOG_ALL))?;
        let result = vhost.set_log_base(address);
        refuses("SET_LOG_BASE with LOG_ALL", libc::EFAULT, result)?;
        log_is_used(ctx, &mut device, &log, true, false)?;

        accepts("no LOG_ALL", device.vhost.set_features(features))?;
        for (index, at) in [RX, TX].into_iter().zip(USED) {
            accepts("a logged used ring", log_used(&device, index, Some(at)))?;
        }
        let result = device.vhost.set_log_base(address);
        refuses("SET_LOG_BASE with logged rings", libc::EFAULT, result)?;
        log_is_used(ctx, &mut device, &log, false, true)?;

        // Without a backend it is taken, and refused when there is to be one.
        for index in [RX, TX] {
            device.unbind(index)?;
        }
        accepts(
            "SET_LOG_BASE with nothing bound",
            device.vhost.set_log_base(address),
        )?;
        for index in [RX, TX] {
            let result = device.vhost.set_backend(index, device.tap.number());
            refuses("a backend", libc::EFAULT, result)?;
        }
        accepts("SET_LOG_BASE", device.vhost.set_log_base(log.addr()))?;
        for index in [RX, TX] {
            device.bind(index)?;
        }
        log_is_used(ctx, &mut device, &log, false, true).context("at last")?;
    }
    Ok(())
}

/// Fails unless traffic works and marks received data, or used rings, in `log`.
fn log_is_used(
    ctx: &Context,
    device: &mut NetDevice,
    log: &DirtyLog,
    data: bool,
    used: bool,
) -> Result<()> {
    let _ = log.take();
    traffic::exchange(device, Plan::new(ctx.seed, 50, |_| 100))?;
    for index in [RX, TX] {
        device.unbind(index)?;
        device.bind(index)?;
    }
    let logged = log.take();
    let (buffers, len) = device.rx.buffers();
    // Without the first page and the last, which may have a part of a ring, too.
    let (start, end) = (buffers + LOG_PAGE, buffers + len as u64 - LOG_PAGE);
    let found = [(start, end), (USED[0], USED[0] + 1), (USED[1], USED[1] + 1)]
        .map(|(from, to)| logged.range(from / LOG_PAGE..to.div_ceil(LOG_PAGE)).count() > 0);
    check(found == [data, used, used], || {
        format!("data, used rings in the log: {found:?}, with {data} and {used}")
    })
}

/// Guest addresses whose bits would lie beyond user space.
fn refused_table(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    let features = device.setup.features;
    let log = DirtyLog::high(END)?;
    accepts("SET_LOG_BASE", device.vhost.set_log_base(log.addr()))?;
    let plain = device.memory.table();
    let mut far = plain.clone();
    far.push(MemoryRegion {
        guest: 1 << 63,
        ..plain[0]
    });
    accepts("a far region", device.vhost.set_memory(&far))?;
    let logging = features | feature::LOG_ALL;
    let result = device.vhost.set_features(logging);
    refuses("LOG_ALL with a far region", libc::EFAULT, result)?;
    accepts("no far region", device.vhost.set_memory(&plain))?;
    accepts("LOG_ALL", device.vhost.set_features(logging))?;
    let result = device.vhost.set_memory(&far);
    refuses("a far region with LOG_ALL", libc::EFAULT, result)?;
    log_is_used(ctx, &mut device, &log, true, false)?;
    let result = log_used(&device, RX, Some(1 << 63));
    refuses("a far used ring", libc::EINVAL, result)?;
    let result = log_used(&device, RX, Some(USED[0] + 2));
    refuses("a misaligned used ring", libc::EINVAL, result)?;
    log_is_used(ctx, &mut device, &log, true, false)?;
    device.unbind(RX)?;
    let result = log_used(&device, RX, Some(1 << 63));
    accepts("a far used ring of an unbound queue", result)?;
    let result = device.vhost.set_backend(RX, device.tap.number());
    refuses("a backend with a far used ring", libc::EFAULT, result)?;
    for (index, at) in [RX, TX].into_iter().zip(USED) {
        accepts("a logged used ring", log_used(&device, index, Some(at)))?;
    }
    device.bind(RX)?;
    log_is_used(ctx, &mut device, &log, true, true)
}

/// The descriptor of the log is signalled by every kind of write, while it is set.
fn signal(ctx: &Context) -> Result<()> {
    for (what, features, used) in [
        ("no log", 0, false),
        ("received data", feature::LOG_ALL, false),
        ("used rings", 0, true),
        ("both", feature::LOG_ALL, true),
    ] {
        let setup = Setup::new(feature::VERSION_1);
        let mut device = NetDevice::start(&ctx.device, setup)?;
        let log = DirtyLog::new(END)?;
        accepts("SET_LOG_BASE", device.vhost.set_log_base(log.addr()))?;
        accepts(
            "SET_FEATURES",
            device.vhost.set_features(device.setup.features | features),
        )?;
        if used {
            for (index, at) in [RX, TX].into_iter().zip(USED) {
                accepts("SET_VRING_ADDR", log_used(&device, index, Some(at)))?;
            }
        }
        let fds = [EventFd::new()?, EventFd::new()?];
        // The first, the second, none, and the first again.
        for (round, which) in (0..).zip([Some(0), Some(1), None, Some(0)]) {
            let fd = which.map_or(-1, |which: usize| fds[which].as_fd().as_raw_fd());
            accepts("SET_LOG_FD", device.vhost.set_log_fd(fd))?;
            // What was signalled until now does not count; binding signals too.
            let _ = [fds[0].take()?, fds[1].take()?];
            for (direction, logs) in [(RX, features != 0 || used), (TX, used)] {
                let plan = Plan::new(ctx.seed + round, 20, |_| 200);
                if direction == RX {
                    traffic::receive(&mut device, plan)?;
                } else {
                    traffic::transmit(&mut device, plan)?;
                }
                // Both: a receive queue that has buffers left may look at its ring once more.
                for index in [RX, TX] {
                    device.unbind(index)?;
                }
                let counts = [fds[0].take()?, fds[1].take()?];
                for index in [RX, TX] {
                    device.bind(index)?;
                }
                for (number, count) in counts.into_iter().enumerate() {
                    let expected = logs && which == Some(number);
                    check(expected == (count > 0), || {
                        format!("{what}, queue {direction}: {which:?} set, {counts:?} counted")
                    })?;
                }
            }
        }
    }
    Ok(())
}

/// The process takes the log away while the device runs.
fn closed(ctx: &Context) -> Result<()> {
    let mut logged = Logged::start(ctx, Setup::new(feature::VERSION_1), USED)?;
    for (round, (index, readable)) in (0..).zip([
        (RX, false),
        (TX, true),
        (TX, false),
        (RX, true),
        (RX, false),
    ]) {
        let plan = Plan::new(ctx.seed + round, 50, |_| 300);
        traffic::exchange(&mut logged.device, plan)?;
        logged.verify().with_context(|| format!("round {round}"))?;
        logged.again()?;
        logged.device.rx_fill()?;
        logged.device.rx.flush()?;
        // What binding and posting log is there by now, or would be missed by nobody.
        let memory = logged.log.memory();
        if readable {
            memory.protect_writes(0, memory.len())?;
        } else {
            memory.protect(0, memory.len(), false)?;
        }
        let before = logged.device.queue(index).ring.base();
        send_frame(ctx, &mut logged.device, index, 0, 100)?;
        lost(ctx, &mut logged.device, index, before)?;
        let good = DirtyLog::new(END)?;
        accepts(
            "SET_LOG_BASE",
            logged.device.vhost.set_log_base(good.addr()),
        )?;
        let memory = logged.log.memory();
        memory.protect(0, memory.len(), true)?;
        logged.log = good;
        restart(ctx, &mut logged, index).with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// Waits for what a device does that cannot log.
fn lost(ctx: &Context, device: &mut NetDevice, index: u32, before: u32) -> Result<()> {
    let queue = device.queue(index);
    if lets_c_off(ctx)? {
        // Goes on in silence: a migration would leave the page behind.
        return Deadline::patient().until("a frame that is not logged", || {
            Ok(device.queue(index).ring.base() != before)
        });
    }
    let told = Deadline::patient().readable(&[&queue.err])?;
    check(told, || format!("queue {index}: no error without a log"))?;
    if index != RX {
        return Ok(());
    }
    // It stays stopped, whatever else comes for the guest.
    procfs::idle()?;
    let error = queue.err.take()?;
    let used = device.rx.ring.ready();
    for _ in 0..50 {
        send_frame(ctx, device, RX, 0, 100)?;
    }
    procfs::idle()?;
    let more = device.rx.err.take()?;
    check(more == 0, || {
        format!("{error} errors, {more} more by packets")
    })?;
    let now = device.rx.ring.ready();
    check(now == used, || format!("used {used}, {now} without a log"))?;
    // For whoever counts them.
    device.rx.err.signal()
}

/// With a log again the queue goes on by itself; whether the frame that could not be logged is
/// lost, or comes twice, is left open.
fn restart(ctx: &Context, logged: &mut Logged, index: u32) -> Result<()> {
    let device = &mut logged.device;
    let mut bytes = Vec::new();
    let mut done = false;
    if index == RX {
        send_frame(ctx, device, RX, 0, 200)?;
    }
    Deadline::patient().until("the queue to go on", || {
        if index == RX {
            while device.rx_take(&mut bytes)?.is_some() {
                done |= bytes.len() == 200;
            }
        } else {
            device.tx_reap()?;
            done = device.tx.ring.pending() == 0;
        }
        Ok(done)
    })?;
    while device.peer.receive(&mut bytes)?.is_some() {}
    let errors = device.queue(index).err.take()?;
    let told = !lets_c_off(ctx)?;
    check((errors > 0) == told, || {
        format!("queue {index}: {errors} errors")
    })?;
    for queue in [RX, TX] {
        device.unbind(queue)?;
    }
    // What happened meanwhile is not compared.
    let _ = logged.log.take();
    logged.device.rx.written = Some(Vec::new());
    logged.again()
}
