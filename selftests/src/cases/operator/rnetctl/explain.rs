// SPDX-License-Identifier: GPL-2.0

//! What `rnetctl explain` says of queues in each state that a test can make.

use super::{As, entry, id, json, rnetctl};
use crate::cases::common::frames::{self, single};
use crate::cases::common::iommu::Behind;
use crate::cases::common::owners;
use crate::cases::common::{Case, Context, Kind, case, check, lets_c_off};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::iotlb::VERSION_2;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::host::wire::{self, Wire};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::process::Stdio;

pub(crate) const CASES: &[Case] = &[
    case("rnetctl.explain_rest", 120, rest),
    case("rnetctl.explain_links", 120, links),
    case("rnetctl.explain_room", 90, room),
    case("rnetctl.explain_fault", 90, fault),
    case("rnetctl.explain_translation", 90, translation),
    case("rnetctl.explain_owner", 90, owner),
    case("rnetctl.explain_stopped", 90, stopped),
];

/// Waits until the rule that applies to a queue is `rule`.
fn until(id: &str, queue: &str, rule: &str) -> Result<()> {
    let mut last = String::new();
    let found = Deadline::patient().until(rule, || {
        let all = json(&["explain", "--json", id])?;
        let device = match id.contains(':') {
            true => entry(&all, id)?,
            false => &all[0],
        };
        let queues = device["queues"].as_array().context("no queues")?;
        let found = queues.iter().find(|found| found["queue"] == *queue);
        last = format!("{all:#}");
        Ok(found.is_some_and(|found| found["rule"] == *rule))
    });
    found.with_context(|| format!("{queue} is {last}"))
}

/// Whether the device is C; then `id` is explained as one of which nothing is known.
fn is_c(ctx: &Context, id: &str) -> Result<bool> {
    if ctx.kind == Kind::Rnet {
        return Ok(false);
    }
    for queue in ["rx", "tx"] {
        until(id, queue, "vhost_net")?;
    }
    lets_c_off(ctx)
}

/// Queues that have nothing to do, or cannot know that they have.
fn rest(ctx: &Context) -> Result<()> {
    let mut device =
        NetDevice::prepare(&ctx.device, Setup::new(feature::VERSION_1), "tap0", false)?;
    let id = id(&device.vhost);
    if is_c(ctx, &id)? {
        return Ok(());
    }
    until(&id, "rx", "not_started")?;
    until(&id, "tx", "not_started")?;
    device.bind(RX)?;
    device.bind(TX)?;
    until(&id, "tx", "nothing_to_send")?;
    // Only with a packet does the device notice that it has no buffers.
    let mut bytes = Vec::new();
    frame::build(ctx.seed, 0, 100, &mut bytes);
    device.peer.send(NetHeader::default(), &bytes)?;
    until(&id, "rx", "no_buffers")?;
    device.rx_fill()?;
    device.rx.flush()?;
    until(&id, "rx", "packet")?;
    check(device.tx_post(NetHeader::default(), &bytes)?, || {
        "no room".into()
    })?;
    let _ = device.tx.ring.publish();
    until(&id, "tx", "lost_kick")?;
    rnetctl(As::Root, &["explain", &id])?.expect(0, &[&format!("rnetctl wake {id} tx")])?;
    rnetctl(As::Root, &["wake", &id])?.expect(0, &["rx looks", "tx looks"])?;
    until(&id, "tx", "nothing_to_send")?;
    rnetctl(As::WithoutDebugfs, &["explain", &id])?
        .expect(0, &["state is not known", "mount debugfs"])?;
    Ok(())
}

/// Interfaces that are down, or not connected.
fn links(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    let id = id(&device.vhost);
    if is_c(ctx, &id)? {
        return Ok(());
    }
    device.rx_fill()?;
    device.rx.flush()?;
    until(&id, "rx", "packet")?;
    wire::ip("link set tap0 carrier off\n")?;
    until(&id, "rx", "no_carrier")?;
    wire::ip("link set tap0 carrier on\n")?;
    until(&id, "rx", "packet")?;
    wire::ip("link set tap0 down\n")?;
    until(&id, "rx", "interface_down")?;
    until(&id, "tx", "interface_down")?;
    rnetctl(As::Root, &["explain", "tap0"])?.expect(0, &["ip link set tap0 up"])?;
    wire::ip("link set tap0 up\n")?;
    until(&id, "rx", "packet")
}

/// An interface that takes no more.
fn room(ctx: &Context) -> Result<()> {
    let wire = Wire::new(wire::Kind::Macvtap, 0)?;
    let mut device = NetDevice::start_on(&ctx.device, &wire, Setup::new(feature::VERSION_1))?;
    let id = id(&device.vhost);
    if is_c(ctx, &id)? {
        return Ok(());
    }
    device.tap.set_send_buffer(20_000)?;
    traffic::transmit(&mut device, Plan::new(ctx.seed, 20, |_| 100))?;
    wire.hold()?;
    let mut bytes = Vec::new();
    for sequence in 0..200 {
        frame::build(ctx.seed, sequence, 1000, &mut bytes);
        check(device.tx_post(NetHeader::default(), &bytes)?, || {
            "no room".into()
        })?;
    }
    device.tx.flush()?;
    until(&id, "tx", "room")?;
    wire.open()?;
    until(&id, "tx", "nothing_to_send")
}

/// A queue that a fault of its guest has stopped.
fn fault(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    let id = id(&device.vhost);
    if is_c(ctx, &id)? {
        return Ok(());
    }
    frames::send_short(&mut device)?;
    until(&id, "tx", "stopped")?;
    rnetctl(As::Root, &["explain", &id])?.expect(
        0,
        &[
            "fault short_header has stopped the queue",
            "Turn: the guest's driver",
            "last fault",
        ],
    )?;
    Ok(())
}

/// A queue whose owner does not answer.
fn translation(ctx: &Context) -> Result<()> {
    Behind::start(ctx, single(0), VERSION_2)?.run(|device, iommu| {
        let id = id(&device.vhost);
        if is_c(ctx, &id)? {
            return Ok(());
        }
        traffic::exchange(device, Plan::new(ctx.seed, 20, |_| 100))?;
        let (start, len) = device.tx.buffers();
        iommu.hold();
        iommu.unmap(start, len as u64)?;
        frames::send_one(ctx, device, TX, 0)?;
        until(&id, "tx", "translation")?;
        iommu.release()?;
        until(&id, "tx", "nothing_to_send")
    })
}

/// A device without an owner.
fn owner(ctx: &Context) -> Result<()> {
    let vhost = ctx.open()?;
    let id = id(&vhost);
    if is_c(ctx, &id)? {
        return Ok(());
    }
    until(&id, "rx", "no_owner")?;
    rnetctl(As::Root, &["wake", &id])?.expect(4, &["it has no owner"])?;
    vhost.set_owner()?;
    until(&id, "rx", "not_started")?;
    vhost.reset_owner()?;
    until(&id, "rx", "no_owner")
}

/// A process that is stopped, with its workers.
fn stopped(ctx: &Context) -> Result<()> {
    let mut child = owners::start(ctx, "idle-owner", Stdio::null())?;
    let pid = Pid::from_child(&child);
    let id = child.id().to_string();
    if !is_c(ctx, &id)? {
        until(&id, "rx", "packet")?;
        kill_process(pid, Signal::STOP)?;
        until(&id, "tx", "process_stopped")?;
        kill_process(pid, Signal::CONT)?;
        until(&id, "rx", "packet")?;
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}
