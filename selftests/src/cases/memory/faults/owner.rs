// SPDX-License-Identifier: GPL-2.0

//! What an owner and its memory may go through while a device is in use.

use crate::cases::common::{
    Case, Context, Role, Skip, case, check, lets_c_off, owners, ring_case, role,
};
use crate::driver::away::{Away, whole_pages, without};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::split::Descriptor;
use crate::driver::traffic::{self, Flow, Plan, RxFlow, TxFlow};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::host::cgroup::Group;
use crate::host::procfs;
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::sys::mapping::{Mapping, PAGE};
use crate::sys::process::Forked;
use crate::sys::userfault::Userfault;
use crate::wait::{Deadline, PATIENCE};
use anyhow::{Context as _, Result};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open,
};
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ring_case("faults.transmit_memory", 90, transmit_memory),
    ring_case("faults.receive_memory", 90, receive_memory),
    case("faults.swap", 90, swap),
    case("faults.stopped_owner", 90, stopped_owner),
    case("faults.stopped_guest", 60, stopped_guest),
    case("faults.out_of_memory", 90, out_of_memory),
];

pub(crate) const ROLES: &[Role] = &[
    role("steady-traffic", steady_traffic),
    role("growing-owner", growing_owner),
];

fn plan(seed: u64) -> Plan {
    Plan {
        window: 200,
        ..Plan::new(seed, u64::MAX, |n| 60 + (n % 1400) as usize)
    }
}

fn prepare(ctx: &Context, tap: &str, features: u64) -> Result<NetDevice> {
    let setup = Setup::new(feature::VERSION_1 | features);
    let device = NetDevice::prepare(&ctx.device, setup, tap, false)?;
    device.bind(RX)?;
    device.bind(TX)?;
    Ok(device)
}

/// The memory of frames goes away while they are sent: the queue stops or tries again, and all of
/// them arrive once it is back. The other queue and other devices go on meanwhile.
fn transmit_memory(ctx: &Context) -> Result<()> {
    let mut other = prepare(ctx, "tap1", 0)?;
    for (round, (away, features)) in [
        (Away::Closed, 0),
        (Away::Unmapped, feature::EVENT_IDX),
        (Away::ReadOnly, feature::EVENT_IDX),
        (Away::Closed, feature::EVENT_IDX),
        (Away::Unmapped, 0),
    ]
    .into_iter()
    .enumerate()
    {
        let seed = ctx.seed + round as u64;
        let mut device = prepare(ctx, "tap0", features)?;
        let mut tx = TxFlow::new(plan(seed));
        traffic::run_until(&mut device, &mut [&mut tx], |_, flows| {
            flows[0].seen() > 300
        })?;
        let pages = whole_pages(&mut device, TX);
        // C says nothing and tries again for ever; who only reads does not mind.
        let stops = away != Away::ReadOnly && !lets_c_off(ctx)?;
        let mut stopped = 0;
        for number in 0..8 {
            // Every other time the device has all of the frames before it, else none.
            let racing = number % 2 == 0;
            if !racing {
                device.unbind(TX)?;
            }
            // It may have sent all that may be under way. The first and the last buffer lie beside
            // the pages: frames in them alone would be sent.
            Deadline::patient().until("frames to send", || {
                tx.pump(&mut device)?;
                Ok(racing || device.tx.ring.pending() > 2)
            })?;
            let memory = device.memory.clone();
            without(&memory, pages, away, || {
                if !racing {
                    device.bind(TX)?;
                }
                if stops && !racing {
                    let told = Deadline::patient().readable(&[&device.tx.err])?;
                    check(told, || {
                        let state = tx.describe(&device);
                        format!("the error descriptor was not signalled: {state}")
                    })?;
                }
                traffic::receive(&mut device, Plan::new(seed, 50, |_| 500))
                    .context("the receive queue")?;
                traffic::exchange(&mut other, Plan::new(seed, 50, |_| 500))
                    .context("another device")?;
                stopped += u64::from(device.tx.err.take()? > 0);
                Ok(())
            })
            .with_context(|| format!("{away:?}"))?;
            let seen = tx.seen;
            traffic::run_until(&mut device, &mut [&mut tx], |_, flows| {
                flows[0].seen() > seen + 300
            })
            .with_context(|| format!("after memory was {away:?}"))?;
        }
        println!("{away:?}: the queue stopped {stopped} times of 8");
        check(stops || stopped == 0, || "the queue was stopped".into())?;
        tx.finish();
        traffic::run(&mut device, &mut [&mut tx])?;
    }
    Ok(())
}

/// Takes what has arrived, each whole and later than the one before, until frame `last`.
fn drain(device: &mut NetDevice, seed: u64, next: &mut u64, last: u64) -> Result<()> {
    let (mut got, mut expected) = (Vec::new(), Vec::new());
    let size = plan(seed).size;
    Deadline::patient().until("the last frame", || {
        device.rx_fill()?;
        device.rx.flush()?;
        while device.rx_take(&mut got)?.is_some() {
            // Some are lost, of which the guest is not told.
            loop {
                frame::build(seed, *next, size(*next), &mut expected);
                *next += 1;
                if expected == got {
                    break;
                }
                check(*next <= last, || "a frame that was not sent so".into())?;
            }
        }
        Ok(*next > last)
    })
}

/// The memory for frames goes away while they come: some are lost, and none comes in part.
fn receive_memory(ctx: &Context) -> Result<()> {
    let mut other = prepare(ctx, "tap1", 0)?;
    for (round, (away, features)) in [
        (Away::Closed, 0),
        (Away::Unmapped, feature::EVENT_IDX | feature::MRG_RXBUF),
        (Away::ReadOnly, feature::EVENT_IDX),
        (Away::ReadOnly, feature::MRG_RXBUF),
    ]
    .into_iter()
    .enumerate()
    {
        let seed = ctx.seed + round as u64;
        let mut device = prepare(ctx, "tap0", features)?;
        let (mut sent, mut next, mut stops) = (0, 0, 0);
        let pages = whole_pages(&mut device, RX);
        for _ in 0..8 {
            let mut send = |device: &mut NetDevice| -> Result<()> {
                let mut bytes = Vec::new();
                for _ in 0..80 {
                    frame::build(seed, sent, (plan(seed).size)(sent), &mut bytes);
                    device.peer.send(NetHeader::default(), &bytes)?;
                    sent += 1;
                }
                Ok(())
            };
            device.rx_fill()?;
            device.rx.flush()?;
            send(&mut device)?;
            if lets_c_off(ctx)? {
                // Memory that goes away between packet and header kills its queue: it then neither
                // waits for packets nor asks for kicks.
                procfs::idle()?;
            }
            let memory = device.memory.clone();
            without(&memory, pages, away, || {
                send(&mut device)?;
                if !lets_c_off(ctx)? {
                    let told = Deadline::patient().readable(&[&device.rx.err])?;
                    check(told, || "the error descriptor was not signalled".into())?;
                }
                traffic::transmit(&mut device, Plan::new(seed, 50, |_| 500))
                    .context("the transmit queue")?;
                traffic::exchange(&mut other, Plan::new(seed, 50, |_| 500))
                    .context("another device")?;
                procfs::idle()
            })
            .with_context(|| format!("{away:?}"))?;
            stops += device.rx.err.take()?;
            // The marker comes after all that was sent meanwhile.
            send(&mut device)?;
            drain(&mut device, seed, &mut next, sent - 1)
                .with_context(|| format!("after memory was {away:?}, {stops} errors told"))?;
        }
        println!("{away:?}: {stops} errors told");
        traffic::exchange(&mut device, Plan::new(seed, 100, |_| 500))?;
    }
    Ok(())
}

/// A disk in memory to swap to, until it is dropped.
struct Swap(String);

impl Swap {
    fn new() -> Result<Self> {
        let loaded = Command::new("modprobe")
            .args(["zram", "num_devices=0"])
            .output()?;
        let hot_add = "/sys/class/zram-control/hot_add";
        if !loaded.status.success() || !fs::exists(hot_add)? {
            return Err(Skip("this kernel has no zram".into()).into());
        }
        let number = fs::read_to_string(hot_add).context("new zram")?;
        let swap = Self(number.trim().to_owned());
        let size = format!("/sys/block/zram{}/disksize", swap.0);
        fs::write(size, "256M").context("size of zram")?;
        let disk = swap.disk();
        for program in ["mkswap", "swapon"] {
            let output = Command::new(program).arg(&disk).output()?;
            check(output.status.success(), || format!("{program}: {output:?}"))?;
        }
        Ok(swap)
    }

    fn disk(&self) -> String {
        format!("/dev/zram{}", self.0)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // What is left goes with the machine.
        let _ = Command::new("swapoff").arg(self.disk()).output();
        let _ = fs::write("/sys/class/zram-control/hot_remove", &self.0);
    }
}

/// Rings and buffers are swapped out again and again: the worker has to fault them in.
fn swap(ctx: &Context) -> Result<()> {
    let swap = Swap::new()?;
    for features in [0, feature::EVENT_IDX | feature::MRG_RXBUF] {
        let mut device = prepare(ctx, "tap0", features)?;
        if features != 0 {
            // Rings that are looked at while they are away.
            for index in [RX, TX] {
                device.vhost.set_busy_timeout(index, 1000)?;
            }
        }
        let before = procfs::vmstat("pswpin")?;
        let (mut tx, mut rx) = (TxFlow::new(plan(ctx.seed)), RxFlow::new(plan(ctx.seed)));
        let (mut out, mut rounds) = (0, 0u64);
        while rounds < 50 {
            let moved = tx.pump(&mut device)? | rx.pump(&mut device)?;
            let written = procfs::vmstat("pswpout")?;
            for region in device.memory.table() {
                let (map, offset) = device.memory.mapping(region.guest);
                map.page_out(offset, map.len() - offset)?;
            }
            out += procfs::vmstat("pswpout")? - written;
            rounds += 1;
            let alive = moved || traffic::wait_activity(&mut device, PATIENCE)?;
            check(alive, || tx.describe(&device))?;
        }
        tx.finish();
        rx.finish();
        traffic::run(&mut device, &mut [&mut tx, &mut rx])?;
        let back = procfs::vmstat("pswpin")? - before;
        println!("{out} pages swapped out, {back} in");
        check(out > 1000 && back > 1000, || {
            "hardly anything was swapped".into()
        })?;
        let faults = [device.rx.err.take()?, device.tx.err.take()?];
        check(faults == [0, 0], || format!("errors signalled: {faults:?}"))?;
    }
    drop(swap);
    Ok(())
}

/// Says again and again that frames have moved both ways.
fn steady_traffic(ctx: &Context) -> Result<()> {
    let mut device = prepare(ctx, "tap1", feature::EVENT_IDX)?;
    loop {
        traffic::exchange(&mut device, Plan::new(ctx.seed, 50, |_| 300))?;
        owners::say_ready()?;
    }
}

/// Waits for another sign of life.
fn expect_sign(child: &mut Child) -> Result<()> {
    let output = child.stdout.as_mut().context("no output")?;
    check(Deadline::patient().readable(&[&*output])?, || {
        "the owner does nothing".into()
    })?;
    let mut byte = [0];
    let got = output.read(&mut byte)?;
    check(got == 1 && byte == *b"!", || "the owner gave up".into())
}

/// An owner is stopped by a signal, its worker with it, and goes on, or dies stopped.
fn stopped_owner(ctx: &Context) -> Result<()> {
    for round in 0..6 {
        let mut child = owners::start(ctx, "steady-traffic", Stdio::null())?;
        let pid = Pid::from_child(&child);
        let stop = |child: &mut Child| -> Result<()> {
            expect_sign(child)?;
            kill_process(pid, Signal::STOP)?;
            Deadline::patient().until("all threads to stop", || {
                let threads = procfs::threads(child.id())?;
                check(threads.len() == 2, || format!("{threads:?}"))?;
                let state = |tid| procfs::state_of(child.id(), tid);
                Ok(threads
                    .iter()
                    .all(|one| state(one.tid).is_ok_and(|state| state == 'T')))
            })?;
            owners::still_works(ctx)
        };
        for _ in 0..3 {
            stop(&mut child)?;
            // Signs of before.
            while Deadline::after(Duration::ZERO)
                .readable(&[child.stdout.as_ref().context("no output")?])?
            {
                expect_sign(&mut child)?;
            }
            kill_process(pid, Signal::CONT)?;
            for _ in 0..3 {
                expect_sign(&mut child)?;
            }
        }
        if round % 2 == 0 {
            stop(&mut child)?;
        }
        owners::kill(child, Duration::ZERO)?;
        owners::still_works(ctx)?;
    }
    Ok(())
}

/// Sends a frame whose page is missing, and then one that is nowhere, and waits to be told.
fn bad_sender(ctx: &Context, page: &Mapping, told: &Mapping) -> Result<()> {
    const AT: u64 = 1 << 40;
    let mut device = prepare(ctx, "tap1", 0)?;
    device.plug(AT, page)?;
    let missing = Userfault::new().context("userfaultfd")?;
    missing.take(page, 0, page.len())?;
    for (index, addr) in [(0, AT), (1, 2 * AT)] {
        let descriptor = Descriptor {
            addr,
            len: 112,
            ..Descriptor::default()
        };
        device
            .tx
            .split()
            .write_desc(&device.memory, index, descriptor);
        device.tx.split().write_avail(&device.memory, index, index);
    }
    device.tx.split().set_avail_index(&device.memory, 2);
    device.tx.flush_from(0)?;
    told.store_u16(0, u16::try_from(missing.number())?, Ordering::Release);
    let stopped = Deadline::patient().readable(&[&device.tx.err])?;
    check(stopped, || "the error descriptor was not signalled".into())
}

/// The guest breaks a rule just when its owner is stopped: the owner learns of it all the same.
fn stopped_guest(ctx: &Context) -> Result<()> {
    let (page, told) = (Mapping::new(PAGE)?, Mapping::new(2)?);
    for _ in 0..3 {
        told.store_u16(0, 0, Ordering::Relaxed);
        let child = Forked::start(|| {
            let result = bad_sender(ctx, &page, &told);
            if let Err(error) = &result {
                println!("the owner: {error:#}");
            }
            u8::from(result.is_err())
        })?;
        Deadline::patient().until("a missing page", || {
            Ok(told.load_u16(0, Ordering::Acquire) != 0)
        })?;
        let pid = Pid::from_raw(child.id().try_into()?).context("no process")?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let number = i32::from(told.load_u16(0, Ordering::Acquire));
        let missing = pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty())?;
        let missing = Userfault::from_fd(missing);
        let met = Deadline::patient().readable(&[&missing])?;
        check(met, || "the worker does not meet the page".into())?;
        child.signal(libc::SIGSTOP)?;
        let stopped = |tid| procfs::state_of(child.id(), tid).is_ok_and(|state| state == 'T');
        Deadline::patient().until("the owner to stop", || Ok(stopped(child.id())))?;
        missing.fill(page.addr() as u64, page.len())?;
        Deadline::patient().until("the worker to stop", || {
            let threads = procfs::threads(child.id())?;
            Ok(threads.iter().all(|thread| stopped(thread.tid)))
        })?;
        child.signal(libc::SIGCONT)?;
        let status = child.wait()?;
        check(status.success(), || {
            format!("the owner ended with {status}")
        })?;
    }
    owners::still_works(ctx)
}

/// Moves frames and takes more and more memory.
fn growing_owner(ctx: &Context) -> Result<()> {
    let device = prepare(ctx, "tap1", feature::EVENT_IDX)?;
    let mut taken = Vec::new();
    owners::until_killed(ctx, device, |_| {
        taken.push(Mapping::new(1 << 20)?);
        Ok(())
    })
}

/// An owner runs out of its group's memory under traffic and is killed for it; nobody else is.
fn out_of_memory(ctx: &Context) -> Result<()> {
    let group = Group::new("rnet-small")?;
    if !group.has("memory")? {
        return Err(Skip("this kernel does not limit the memory of groups".into()).into());
    }
    group.enable("memory")?;
    group.set("memory.max", "64M")?;
    for round in 0..3 {
        group.enter()?;
        let child = owners::start(ctx, "growing-owner", Stdio::null());
        group.leave()?;
        let mut child = child.with_context(|| format!("round {round}"))?;
        owners::still_works(ctx)?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        check(Deadline::patient().readable(&[&pidfd])?, || {
            "the owner lives on".into()
        })?;
        let status = child.wait()?;
        check(status.signal() == Some(libc::SIGKILL), || {
            format!("the owner ended with {status}")
        })?;
        owners::still_works(ctx)?;
        let events = group.get("memory.events")?;
        let kills = events
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "));
        check(kills == Some(&(round + 1).to_string()), || events.clone())?;
    }
    group.remove()
}
