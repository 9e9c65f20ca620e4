// SPDX-License-Identifier: GPL-2.0

//! Leaks: calls and packets that are repeated until anything they leave behind can be measured.

use crate::cases::common::{Case, Context, accepts, case, check, refuses};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::iotlb::{Message, VERSION_1};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX, Vhost};
use crate::eventfd::EventFd;
use crate::host::procfs::{self, MemoryUse};
use crate::host::wire::{Kind, Wire};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::sys::net;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::os::fd::{AsFd, AsRawFd};
use std::{fs, io};

pub(crate) const CASES: &[Case] = &[
    case("history.event_descriptors", 60, event_descriptors),
    case("history.backends", 60, backends),
    case("history.short_frames", 120, short_frames),
    case("history.mappings", 60, mappings),
];

/// The id of the next event descriptor; larger when one is never freed.
fn next_event_id() -> Result<u64> {
    procfs::event_id(&EventFd::new()?)
}

/// Event descriptors that are set, refused or replaced are all released.
fn event_descriptors(ctx: &Context) -> Result<()> {
    type Set = fn(&Vhost, u32, i32) -> io::Result<()>;
    let calls: [(&str, Set); 4] = [
        ("SET_LOG_FD", |vhost, _, fd| vhost.set_log_fd(fd)),
        ("SET_VRING_KICK", Vhost::set_kick),
        ("SET_VRING_CALL", Vhost::set_call),
        ("SET_VRING_ERR", Vhost::set_err),
    ];
    for (name, set) in calls {
        let vhost = ctx.owned()?;
        let (pipe, _end) = rustix::pipe::pipe()?;
        let id = next_event_id()?;
        let before = MemoryUse::now()?;
        for round in 0..ctx.times(8000) {
            // CAST: one of two.
            let queue = (round % 2) as u32;
            let event = EventFd::new()?;
            let fd = event.as_fd().as_raw_fd();
            accepts(name, set(&vhost, queue, fd))?;
            if round % 3 == 0 {
                accepts(name, set(&vhost, queue, fd))?;
            }
            refuses(name, libc::EINVAL, set(&vhost, queue, pipe.as_raw_fd()))?;
            if round % 5 == 0 {
                accepts(name, set(&vhost, queue, -1))?;
            }
        }
        for queue in [RX, TX] {
            accepts(name, set(&vhost, queue, -1))?;
        }
        Deadline::patient()
            .until("event descriptors to be freed", || {
                Ok(next_event_id()? <= id)
            })
            .context(name)?;
        before.returns(512, 16 << 10).context(name)?;
    }
    Ok(())
}

/// How many packet sockets there are in this network.
fn packet_sockets() -> Result<usize> {
    let text = fs::read_to_string("/proc/self/net/packet").context("list packet sockets")?;
    Ok(text.lines().skip(1).count())
}

/// A backend that was bound, bound again, replaced, refused and unbound is freed when it is closed.
fn backends(ctx: &Context) -> Result<()> {
    for kind in [Kind::Tap, Kind::Packet] {
        let sockets = packet_sockets()?;
        let wire = Wire::new(kind, 0)?;
        let name = wire.name.clone();
        let mut device = NetDevice::start_on(&ctx.device, &wire, Setup::new(feature::VERSION_1))?;
        let (pipe, _end) = rustix::pipe::pipe()?;
        let before = MemoryUse::now()?;
        for round in 0..ctx.times(3000) {
            // CAST: one of two.
            let queue = (round % 2) as u32;
            match round % 7 {
                0 | 1 => device.bind(queue)?,
                2 | 3 => {
                    let result = device.vhost.set_backend(queue, pipe.as_raw_fd());
                    refuses("a pipe", libc::ENOTSOCK, result)?;
                }
                _ => {
                    device.unbind(queue)?;
                    device.bind(queue)?;
                }
            }
        }
        before.returns(512, 16 << 10)?;
        traffic::exchange(&mut device, Plan::new(ctx.seed, 50, |_| 100))?;
        drop(device);
        Deadline::patient().until("the backend to go", || {
            // A tun interface is deleted when its last descriptor is closed.
            let gone = kind != Kind::Tap || net::if_index(&name).is_err();
            Ok(gone && packet_sockets()? == sockets)
        })?;
    }
    Ok(())
}

/// Frames that are too short for Ethernet, sent between good ones, leak no memory.
fn short_frames(ctx: &Context) -> Result<()> {
    for kind in [Kind::Tap, Kind::Macvtap] {
        let wire = Wire::new(kind, 0)?;
        let mut device = NetDevice::start_on(&ctx.device, &wire, Setup::new(feature::VERSION_1))?;
        send_short(&mut device, ctx.times(40))?;
        let before = MemoryUse::now()?;
        // A leak would be some 600 bytes for each frame, so send enough frames for it to be
        // measured.
        send_short(&mut device, ctx.times(400).max(200))?;
        before.returns(8 << 10, 16 << 10)?;
        let errors = device.tx.err.take()?;
        check(errors == 0, || format!("{errors} errors for short frames"))?;
        traffic::exchange(&mut device, Plan::new(ctx.seed, 50, |_| 100))?;
    }
    Ok(())
}

/// Sends as many rings full of frames that are short, all but one of eight, and takes those back.
fn send_short(device: &mut NetDevice, rings: u64) -> Result<()> {
    let (mut bytes, mut got) = (Vec::new(), Vec::new());
    for _ in 0..rings {
        let mut sent = 0;
        loop {
            let good = sent % 8 == 7;
            // Only the frames that are not too short arrive; their content is not checked.
            frame::build(0, 0, if good { 60 } else { sent % 14 }, &mut bytes);
            if !device.tx_post(NetHeader::default(), &bytes)? {
                break;
            }
            sent += 1;
        }
        device.tx.flush()?;
        let (mut back, mut arrived) = (0, 0);
        Deadline::patient().until("short frames to come back", || {
            back += device.tx_reap()?;
            while device.peer.receive(&mut got)?.is_some() {
                check(got.len() == 60, || format!("a frame of {}", got.len()))?;
                arrived += 1;
            }
            Ok(back == sent && arrived == sent / 8)
        })?;
    }
    Ok(())
}

/// An owner that maps without end, and never unmaps, is remembered up to a limit.
fn mappings(ctx: &Context) -> Result<()> {
    let features = feature::VERSION_1 | feature::ACCESS_PLATFORM;
    let device = NetDevice::prepare(&ctx.device, Setup::new(features), "tap0", false)?;
    let user = device.memory.user(crate::driver::device::GUEST_BASE);
    let map = |number: u64| -> Result<()> {
        // Never next to each other, so that they cannot become one.
        let update = Message::update(number << 13, 4096, user);
        accepts("an update", device.vhost.send(VERSION_1, update))
    };
    // Enough to fill what there may be.
    let first = 3000;
    (0..first).try_for_each(map)?;
    let before = MemoryUse::now()?;
    // A mapping takes at least 64 bytes, so make enough of them for a leak to be measured.
    let more = 0..ctx.times(20_000).max(5000);
    more.map(|number| first + number).try_for_each(map)?;
    before.returns(256, 16 << 10)
}
