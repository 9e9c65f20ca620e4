// SPDX-License-Identifier: GPL-2.0

//! Backends that are accepted although they cannot carry frames at the moment, or ever.

use crate::cases::common::{Case, Context, accepts, case, check, lets_c_off, refuses, wake_c};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX, Vhost};
use crate::host::peer::Peer;
use crate::host::procfs;
use crate::host::tap::Tap;
use crate::host::wire::{Kind, Wire, ip};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::sys::net;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::os::fd::{AsFd, AsRawFd};

pub(crate) const CASES: &[Case] = &[
    case("accept.packet", 60, packet),
    case("accept.detached", 60, detached),
    case("accept.gone", 60, gone),
    case("accept.attached_again", 60, attached_again),
    case("accept.layer_3", 60, layer_3),
    case("accept.waiting", 60, waiting),
    case("accept.error", 60, error),
];

/// Sets a backend on both queues with the same result, and unbinds.
fn both(vhost: &Vhost, what: &str, fd: i32, errno: Option<i32>) -> Result<()> {
    for queue in [RX, TX] {
        let result = vhost.set_backend(queue, fd);
        match errno {
            Some(errno) => refuses(what, errno, result)?,
            None => {
                accepts(what, result)?;
                accepts("unbind", vhost.set_backend(queue, -1))?;
            }
        }
    }
    Ok(())
}

fn setup() -> Setup {
    let mut setup = Setup::new(feature::VERSION_1);
    setup.tcp = true;
    setup
}

fn exchange(ctx: &Context, device: &mut NetDevice) -> Result<()> {
    let plan = Plan {
        ip: true,
        ..Plan::new(ctx.seed, 100, |_| 200)
    };
    traffic::exchange(device, plan)
}

/// A packet socket is accepted without an interface; one whose interface is down reports an error
/// once.
fn packet(ctx: &Context) -> Result<()> {
    let wire = Wire::new(Kind::Packet, 0)?;
    let mut device = NetDevice::start_on(&ctx.device, &wire, setup())?;
    device.unbind(RX)?;
    device.unbind(TX)?;
    let unbound = net::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    both(
        &device.vhost,
        "without interface",
        unbound.as_raw_fd(),
        None,
    )?;
    wire.set_up(false)?;
    let fd = device.tap.number();
    both(&device.vhost, "interface down", fd, Some(libc::EINVAL))?;
    wire.set_up(true)?;
    both(&device.vhost, "interface was down", fd, Some(libc::EINVAL))?;
    let error = net::take_error(device.tap.as_fd())?;
    check(error == libc::ENETDOWN, || {
        format!("error {error} was pending")
    })?;
    device.bind(RX)?;
    device.bind(TX)?;
    exchange(ctx, &mut device)
}

/// A queue that is detached from its interface is still accepted as a backend.
fn detached(ctx: &Context) -> Result<()> {
    let setup = setup();
    let mut device = NetDevice::prepare(&ctx.device, setup, "tap0", true)?;
    let fd = device.tap.number();
    net::tun_set_queue(device.tap.as_fd(), false).context("detach")?;
    both(&device.vhost, "detached", fd, None)?;
    net::tun_set_queue(device.tap.as_fd(), true).context("attach")?;
    device.bind(RX)?;
    device.bind(TX)?;
    exchange(ctx, &mut device)?;
    // What is bound stays so; nothing passes meanwhile.
    for _ in 0..3 {
        net::tun_set_queue(device.tap.as_fd(), false).context("detach")?;
        procfs::idle()?;
        net::tun_set_queue(device.tap.as_fd(), true).context("attach")?;
        exchange(ctx, &mut device)?;
    }
    Ok(())
}

/// The interface was deleted: a tap says so, the others take frames and lose them.
fn gone(ctx: &Context) -> Result<()> {
    for (kind, errno) in [
        (Kind::Tap, Some(libc::EINVAL)),
        (Kind::Macvtap, None),
        (Kind::Ipvtap, None),
        (Kind::Packet, Some(libc::EINVAL)),
    ] {
        let wire = Wire::new(kind, 0)?;
        let device = NetDevice::start_on(&ctx.device, &wire, setup())?;
        device.unbind(RX)?;
        device.unbind(TX)?;
        wire.delete()?;
        both(&device.vhost, "deleted", device.tap.number(), errno)
            .with_context(|| format!("{kind:?}"))?;
    }
    Ok(())
}

/// Packets wait for buffers when their interface is deleted, and are put back into the ring of a file
/// that is then attached to another one. They may arrive, and those of the new interface do.
fn attached_again(ctx: &Context) -> Result<()> {
    let wire = Wire::new(Kind::Tap, 0)?;
    let mut setup = setup();
    setup.rx_buffers = (256, 2048);
    let mut device = NetDevice::start_on(&ctx.device, &wire, setup)?;
    let (mut bytes, mut got) = (Vec::new(), Vec::new());
    for (round, name) in (0..).zip(["again0", "again1", "again2"]) {
        for sequence in 0..100 {
            frame::build_tcp(ctx.seed, sequence, 200, &mut bytes);
            device.peer.send(NetHeader::default(), &bytes)?;
        }
        procfs::idle()?;
        match round {
            0 => wire.delete()?,
            _ => ip(&format!("link delete again{}\n", round - 1))?,
        }
        device.unbind(RX)?;
        device.unbind(TX)?;
        let config = device.setup.tap();
        device.tap.attach_again(name, config)?;
        device.peer = device.setup.peer(device.tap.if_index())?;
        device.bind(RX)?;
        device.bind(TX)?;
        device.rx_fill()?;
        device.rx.flush()?;
        let first = 1000;
        for sequence in first..first + 100 {
            frame::build_tcp(ctx.seed, sequence, 200, &mut bytes);
            device.peer.send(NetHeader::default(), &bytes)?;
        }
        let mut next = first;
        Deadline::patient().until("the new interface's packets", || {
            while device.rx_take(&mut got)?.is_some() {
                frame::build_tcp(ctx.seed, next, 200, &mut bytes);
                if got == bytes {
                    next += 1;
                } else {
                    check(next == first, || format!("packet {next} is another"))?;
                }
            }
            device.rx_fill()?;
            device.rx.flush()?;
            Ok(next == first + 100)
        })?;
        while device.rx_take(&mut got)?.is_some() {}
        // No buffers are left for the next round.
        device.reset_queue(RX, 0)?;
    }
    Ok(())
}

/// A tun interface, whose packets have no Ethernet header, is taken too, with a limit to what may
/// be in flight or without one.
fn layer_3(ctx: &Context) -> Result<()> {
    for limit in [1 << 20, i32::MAX] {
        layer_3_with(ctx, limit).with_context(|| format!("send buffer of {limit} bytes"))?;
    }
    Ok(())
}

fn layer_3_with(ctx: &Context, limit: i32) -> Result<()> {
    let setup = setup();
    let tap = Tap::layer_3("tun0", setup.tap())?;
    tap.set_send_buffer(limit)?;
    // Without a limit C sends by the batch, which is for Ethernet frames: those packets are lost.
    let sends = limit != i32::MAX || !lets_c_off(ctx)?;
    let peer = Peer::with_headers(tap.if_index())?;
    let mut device = NetDevice::on(&ctx.device, setup, tap, peer)?;
    device.bind(RX)?;
    device.bind(TX)?;
    let (mut bytes, mut got) = (Vec::new(), Vec::new());
    for sequence in 0..100 {
        device.rx_fill()?;
        device.rx.flush()?;
        frame::build_tcp(ctx.seed, sequence, 200, &mut bytes);
        let packet = &bytes[frame::ETH_HEADER..];
        device.tx_post(NetHeader::default(), packet)?;
        device.tx.flush()?;
        if sends {
            Deadline::patient().until("a packet at the peer", || {
                Ok(device.peer.receive(&mut got)?.is_some())
            })?;
            frame::expect("transmitted", sequence, packet, &got)?;
        }
        device.peer.send(NetHeader::default(), packet)?;
        Deadline::patient().until("a packet in the guest", || {
            Ok(device.rx_take(&mut got)?.is_some())
        })?;
        frame::expect("received", sequence, packet, &got)?;
        device.tx_reap()?;
    }
    Ok(())
}

/// Frames wait for room in an interface that is then deleted: they are lost, but their chains are
/// returned.
fn waiting(ctx: &Context) -> Result<()> {
    for kind in [Kind::Packet, Kind::Macvtap] {
        let wire = Wire::new(kind, 0)?;
        let mut device = NetDevice::start_on(&ctx.device, &wire, setup())?;
        if kind.is_tap() {
            device.tap.set_send_buffer(20_000)?;
        } else {
            net::set_option(
                device.tap.as_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDBUF,
                10_000,
            )?;
        }
        exchange(ctx, &mut device)?;
        wire.hold()?;
        let mut bytes = Vec::new();
        for sequence in 0..200 {
            frame::build_tcp(ctx.seed, sequence, 1000, &mut bytes);
            check(device.tx_post(NetHeader::default(), &bytes)?, || {
                "no room".into()
            })?;
        }
        device.tx.flush()?;
        procfs::idle()?;
        device.tx_reap()?;
        let left = device.tx.ring.pending();
        check(left > 100, || format!("only {left} chains wait"))?;
        wire.delete_all()?;
        Deadline::patient()
            .until("all chains to come back", || {
                device.tx_reap()?;
                Ok(device.tx.ring.pending() == 0)
            })
            .with_context(|| format!("{kind:?}, {left} were waiting"))?;
    }
    Ok(())
}

/// A packet socket remembers that its link was down until it is used, and says so to whoever begins
/// to wait for it. The queue still gets what comes once the link is up.
fn error(ctx: &Context) -> Result<()> {
    let wire = Wire::new(Kind::Packet, 0)?;
    let mut device = NetDevice::start_on(&ctx.device, &wire, setup())?;
    let (mut bytes, mut got) = (Vec::new(), Vec::new());
    for round in 0..3 {
        frame::build_tcp(ctx.seed, round, 300, &mut bytes);
        device.peer.send(NetHeader::default(), &bytes)?;
        // There are no buffers, so the queue waits for the guest and not for the socket, from which
        // someone else takes the frame.
        procfs::idle()?;
        net::receive(device.tap.as_fd(), &mut [0; 2048]).context("take the frame")?;
        wire.set_up(false)?;
        wire.set_up(true)?;
        device.rx_post()?;
        check(device.rx.flush()?, || "no kick wanted".into())?;
        procfs::idle()?;
        if lets_c_off(ctx)? {
            // C waits neither for the guest nor for the socket now.
            net::take_error(device.tap.as_fd())?;
            wake_c(ctx, &device.rx)?;
            procfs::idle()?;
        }
        device.peer.send(NetHeader::default(), &bytes)?;
        Deadline::patient().until("the frame", || Ok(device.rx_take(&mut got)?.is_some()))?;
        frame::expect("received", round, &bytes, &got)?;
    }
    Ok(())
}
