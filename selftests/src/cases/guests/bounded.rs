// SPDX-License-Identifier: GPL-2.0

//! Rounds end and the owner's calls get their turn, however much work a guest makes of few packets.
//! The bounds are in packets, which are the same on any machine.

use crate::cases::common::counts::Counts;
use crate::cases::common::flood::Flood;
use crate::cases::common::owners::{say_ready, start, still_works};
use crate::cases::common::{
    Case, Context, Kind, Role, a_while, accepts, case, check, lets_c_off, ring_case, role,
};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::layout::Described;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, feature};
use crate::driver::vhost::{RX, TX};
use crate::host::tap;
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ring_case("bounded.rx_descriptors", 120, |ctx| calls(ctx, RX)),
    ring_case("bounded.tx_descriptors", 120, |ctx| calls(ctx, TX)),
    ring_case("bounded.rx_bytes", 120, bytes),
    ring_case("bounded.killed", 120, killed),
    case("bounded.busy_polling", 120, busy_polling),
];

pub(crate) const ROLES: &[Role] = &[role("endless-tables", endless)];

/// Descriptors of the table that all chains share; a chain may have one more.
const TABLE: u16 = 2047;
/// Chains in a ring.
const CHAINS: u16 = 32768;
/// Frames that the tap keeps for the guest.
const QUEUED: u16 = 2048;
/// The length of each frame.
const LEN: u16 = 60;
/// The length of the header before it.
const HEADER: u16 = 12;
/// Packets that may pass before a call has its turn: far less than a round has of others (256).
const SOON: u16 = 64;
/// Packets in which rounds are counted: those of two rounds of others.
const MANY: u64 = 512;
/// Packets in a round whose packets take thousands of descriptors each, with room for rounds that
/// read the end of another's.
const FEW: u64 = 16;

/// Makes a device with a flooded queue.
///
/// All entries of its available ring name one chain of [`TABLE`] descriptors. All of these are
/// empty but the last, which is `len` bytes long.
fn shared_table(ctx: &Context, index: u32, len: u16) -> Result<(NetDevice, Flood)> {
    let features = feature::VERSION_1 | feature::MRG_RXBUF | feature::INDIRECT;
    let mut setup = Setup::new(features);
    let size = if index == RX {
        &mut setup.rx_size
    } else {
        &mut setup.tx_size
    };
    *size = CHAINS;
    let mut device = NetDevice::start(&ctx.device, setup)?;
    tap::set_queue_length("tap0", QUEUED)?;
    let memory = device.memory.clone();
    let queue = device.queue(index);
    let layout = queue.layout;
    let (table, room) = queue.buffers();
    let content = table + 16 * u64::from(TABLE);
    check(room > 16 * usize::from(TABLE) + 2048, || {
        "no room for the table".into()
    })?;
    let write = if index == RX { DESC_WRITE } else { 0 };
    memory.fill(content, HEADER.into(), 0);
    let bytes = frame::unseen(ctx.seed, LEN.into());
    memory.write(content + u64::from(HEADER), &bytes);
    for at in 0..TABLE {
        let last = at + 1 == TABLE;
        let entry = Described {
            addr: content,
            len: if last { len.into() } else { 0 },
            flags: write | if last { 0 } else { DESC_NEXT },
        };
        layout.write_entry(&memory, table, at, entry);
    }
    let chain = Described {
        addr: table,
        len: 16 * u32::from(TABLE),
        flags: DESC_INDIRECT,
    };
    let flood = Flood::of_chain(&mut device, index, chain)?;
    Ok((device, flood))
}

/// Sends frames to the guest that no peer looks at, until the tap is full of them.
fn fill_tap(ctx: &Context, device: &mut NetDevice) {
    let bytes = frame::unseen(ctx.seed, LEN.into());
    for _ in 0..QUEUED {
        // Frames that find no room are dropped.
        let _ = device.peer.send(NetHeader::default(), &bytes);
    }
}

/// What an owner does with a queue.
type Call = (&'static str, fn(&NetDevice, u32) -> Result<()>);

const CALLS: &[Call] = &[
    ("SET_VRING_CALL", |device, index| {
        let fd = if index == RX {
            device.rx.call.as_fd()
        } else {
            device.tx.call.as_fd()
        };
        accepts(
            "SET_VRING_CALL",
            device.vhost.set_call(index, fd.as_raw_fd()),
        )
    }),
    ("SET_MEM_TABLE", |device, _| {
        let table = device.memory.table();
        accepts("SET_MEM_TABLE", device.vhost.set_memory(&table))
    }),
    ("unbinding", NetDevice::unbind),
];

/// Chains of thousands of descriptors count for what they are: a round has few of them, so that
/// neither calls nor the other queue wait long.
fn calls(ctx: &Context, index: u32) -> Result<()> {
    let (mut device, flood) = shared_table(ctx, index, HEADER + LEN)?;
    let before = counts(ctx, &device, index)?;
    for turn in 0..ctx.times(4) {
        for (what, call) in CALLS {
            if index == RX {
                fill_tap(ctx, &mut device);
            }
            flood.pour()?;
            let start = flood.progress();
            Deadline::patient().until("a packet", || Ok(flood.progress() != start))?;
            call(&device, index).context(*what)?;
            device.bind(index)?;
        }
        other_works(ctx, &mut device, index).with_context(|| format!("turn {turn}"))?;
    }
    if let Some(before) = before {
        let done = Counts::of(&device, index)?.since(before);
        expect_short(done, SOON.into())?;
    }
    Ok(())
}

/// What a queue has done so far, which C does not count.
fn counts(ctx: &Context, device: &NetDevice, index: u32) -> Result<Option<Counts>> {
    match lets_c_off(ctx)? {
        true => Ok(None),
        false => Counts::of(device, index).map(Some),
    }
}

/// Fails unless rounds had at most `most` packets on average.
fn expect_short(done: Counts, most: u64) -> Result<()> {
    println!("{} packets in {} rounds", done.packets, done.rounds);
    check(done.packets <= done.rounds * most, || {
        "a round goes on and on".into()
    })
}

/// Waits for [`MANY`] packets since `before`, and fails unless each round had a few only.
fn expect_few(before: Counts, now: impl Fn() -> Result<Counts>) -> Result<()> {
    let mut done = now()?.since(before);
    Deadline::patient().until("packets to be dropped", || {
        done = now()?.since(before);
        Ok(done.packets >= MANY)
    })?;
    expect_short(done, FEW)
}

fn other_works(ctx: &Context, device: &mut NetDevice, index: u32) -> Result<()> {
    let plan = Plan::new(ctx.seed, 10, |_| 100);
    if index == RX {
        traffic::transmit(device, plan).context("the transmit queue")
    } else {
        traffic::receive(device, plan).context("the receive queue")
    }
}

/// How many of `count` turns to take: C has no bound, and takes ten seconds for each.
fn some(ctx: &Context, count: usize) -> usize {
    match ctx.kind {
        Kind::C => 1,
        Kind::Rnet => count,
    }
}

/// Such chains hold one byte each, so that a packet takes more than a hundred thousand descriptors,
/// or is dropped for that: a round has few of them, calls return, and the other queue works.
fn bytes(ctx: &Context) -> Result<()> {
    let (mut device, flood) = shared_table(ctx, RX, 1)?;
    for (what, call) in &CALLS[..some(ctx, CALLS.len())] {
        fill_tap(ctx, &mut device);
        let before = counts(ctx, &device, RX)?;
        flood.pour()?;
        match before {
            Some(before) => {
                expect_few(before, || Counts::of(&device, RX)).context(*what)?;
                // More of them meanwhile.
                fill_tap(ctx, &mut device);
                flood.pour()?;
            }
            None => a_while(),
        }
        call(&device, RX).context(*what)?;
        other_works(ctx, &mut device, RX).context(*what)?;
        device.bind(RX)?;
    }
    Ok(())
}

/// Keeps both ring and tap full until killed.
fn endless(ctx: &Context) -> Result<()> {
    let (mut device, flood) = shared_table(ctx, RX, 1)?;
    fill_tap(ctx, &mut device);
    flood.pour()?;
    say_ready()?;
    let bytes = frame::unseen(ctx.seed, LEN.into());
    loop {
        // There may be no room in the tap.
        let _ = device.peer.send(NetHeader::default(), &bytes);
        flood.pour()?;
    }
}

/// An owner with such a guest can be killed, and closes its device by that.
fn killed(ctx: &Context) -> Result<()> {
    for round in 0..some(ctx, 6) as u64 {
        let mut child = start(ctx, "endless-tables", Stdio::null())?;
        if !lets_c_off(ctx)? {
            let now = || Counts::of_process(child.id(), RX);
            expect_few(now()?, now)?;
        }
        // A different moment each time is the point here, not a wait for anything.
        std::thread::sleep(Duration::from_millis(7 * round));
        child.kill().context("kill")?;
        let ended = Deadline::patient().ended(&mut child)?;
        check(ended.is_some(), || {
            format!("round {round}: the owner lives on")
        })?;
        still_works(ctx).with_context(|| format!("after kill {round}"))?;
    }
    Ok(())
}

/// While a queue waits busily, and there is always a packet before it gives up, calls have their
/// turn after no more of that than one wait.
fn busy_polling(ctx: &Context) -> Result<()> {
    /// Far more than a packet takes; what the device waits at most.
    const WAIT: u32 = 100_000;
    const PAUSE: Duration = Duration::from_millis(20);
    // C begins to wait anew with each packet, so that a call takes seconds.
    let rounds = if lets_c_off(ctx)? { 1 } else { ctx.times(10) };
    for index in [RX, TX] {
        let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
        accepts(
            "SET_VRING_BUSYLOOP_TIMEOUT",
            device.vhost.set_busy_timeout(index, WAIT),
        )?;
        let (vhost, memory) = (device.vhost.duplicate()?, device.memory.clone());
        let (layout, call) = {
            let queue = device.queue(index);
            (queue.split(), queue.call.as_fd().try_clone_to_owned()?)
        };
        let stop = AtomicBool::new(false);
        let worst = std::thread::scope(|scope| {
            let sender = scope.spawn(|| -> Result<()> {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let plan = Plan::new(ctx.seed + number, 1, |_| 100);
                    if index == RX {
                        traffic::receive(&mut device, plan)?;
                    } else {
                        traffic::transmit(&mut device, plan)?;
                    }
                    number += 1;
                    std::thread::sleep(PAUSE);
                }
                Ok(())
            });
            let calls = || -> Result<u16> {
                let mut worst = 0;
                for _ in 0..rounds {
                    let used = || layout.used_index(&memory);
                    let first = used();
                    Deadline::patient().until("packets", || {
                        check(!sender.is_finished(), || "the sender gave up".into())?;
                        Ok(used().wrapping_sub(first) >= 3)
                    })?;
                    let before = used();
                    accepts("SET_VRING_CALL", vhost.set_call(index, call.as_raw_fd()))?;
                    worst = worst.max(used().wrapping_sub(before));
                }
                Ok(worst)
            };
            let worst = calls();
            stop.store(true, Ordering::Relaxed);
            sender.join().expect("a sender does not panic")?;
            worst
        })?;
        println!("queue {index}: up to {worst} packets before a call");
        check(lets_c_off(ctx)? || worst <= SOON, || {
            format!("queue {index}: {worst} packets before a call")
        })?;
    }
    Ok(())
}
