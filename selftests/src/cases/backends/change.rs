// SPDX-License-Identifier: GPL-2.0

//! Backends that change, fail or go away under traffic: chains come back, and the queues go on.

use crate::cases::common::{Case, Context, Role, accepts, case, check, lets_c_off, role};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan, RxFlow, TxFlow};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::host::procfs;
use crate::host::tap::{OFFLOAD_CSUM, OFFLOAD_TSO4};
use crate::host::wire::{Kind, Wire, ip};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::runner;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::io::Read;
use std::process::Stdio;

pub(crate) const CASES: &[Case] = &[
    case("change.link", 180, |ctx| on_all(ctx, link)),
    case("change.carrier", 180, |ctx| on_all(ctx, carrier)),
    case("change.deleted", 180, |ctx| on_all(ctx, deleted)),
    case("change.closed", 180, |ctx| on_all(ctx, closed)),
    case("change.namespace", 180, |ctx| on_all(ctx, namespace)),
    case("change.offloads", 180, |ctx| on_all(ctx, offloads)),
    case("change.header_size", 180, |ctx| on_all(ctx, header_size)),
];

pub(crate) const ROLES: &[Role] = &[role("hold-namespace", hold_namespace)];

const KINDS: [Kind; 4] = [Kind::Tap, Kind::Macvtap, Kind::Ipvtap, Kind::Packet];

/// Length of the frames that are allowed to be lost.
const LOOSE: usize = 200;

/// A device on a wire of which something will change.
struct Rig {
    wire: Wire,
    device: NetDevice,
    seed: u64,
    /// Frames of the loose kind so far.
    poured: u64,
}

/// Runs a case on each kind of backend; on taps also with a limit on what is in flight, which makes
/// the device send each frame by itself.
fn on_all(ctx: &Context, run: fn(&Context, &mut Rig) -> Result<()>) -> Result<()> {
    for kind in KINDS {
        for limit in [None, Some(100_000)] {
            if limit.is_some() && !kind.is_tap() {
                continue;
            }
            let mut rig = Rig::new(ctx, kind)?;
            if let Some(bytes) = limit {
                rig.device.tap.set_send_buffer(bytes)?;
            }
            rig.strict()
                .and_then(|()| run(ctx, &mut rig))
                .with_context(|| format!("{kind:?}, send buffer {limit:?}"))?;
        }
    }
    Ok(())
}

impl Rig {
    fn new(ctx: &Context, kind: Kind) -> Result<Self> {
        let wire = Wire::new(kind, 0)?;
        let mut setup = Setup::new(feature::VERSION_1 | feature::MRG_RXBUF | feature::EVENT_IDX);
        setup.tx_buffers = (128, 10240);
        if kind.is_tap() {
            setup.offloads = OFFLOAD_CSUM | OFFLOAD_TSO4;
        }
        setup.tcp = true;
        let device = NetDevice::start_on(&ctx.device, &wire, setup)?;
        Ok(Self {
            wire,
            device,
            seed: ctx.seed,
            poured: 0,
        })
    }

    /// Frames both ways, of which none may be lost.
    fn strict(&mut self) -> Result<()> {
        self.clear()?;
        let plan = Plan {
            ip: true,
            ..Plan::new(self.seed, 200, |n| 60 + 7 * n as usize)
        };
        traffic::exchange(&mut self.device, plan)
    }

    /// Posts the next frame of the loose kind, and has the peer send it too.
    fn pour_one(&mut self) -> Result<()> {
        let mut bytes = Vec::new();
        frame::build_tcp(!self.seed, self.poured, LOOSE, &mut bytes);
        self.poured += 1;
        check(self.poured < 1 << 16, || {
            "sequence numbers are used up".into()
        })?;
        self.device.tx_post(NetHeader::default(), &bytes)?;
        // Refused while the link is down.
        let _ = self.device.peer.send(NetHeader::default(), &bytes);
        Ok(())
    }

    /// Frames both ways, as many as rings and sockets take now, whatever becomes of them.
    fn pour(&mut self) -> Result<()> {
        self.device.rx_fill()?;
        self.device.rx.flush()?;
        for _ in 0..100 {
            self.pour_one()?;
        }
        self.device.tx.flush()?;
        Ok(())
    }

    /// Waits until all chains to transmit are back.
    fn settle(&mut self) -> Result<()> {
        let device = &mut self.device;
        Deadline::patient().until("all chains to come back", || {
            device.tx_reap()?;
            Ok(device.tx.ring.pending() == 0)
        })?;
        procfs::idle()?;
        self.drain()?;
        let device = &mut self.device;
        let faults = [device.rx.err.take()?, device.tx.err.take()?];
        check(faults == [0, 0], || format!("errors signalled: {faults:?}"))
    }

    /// Takes what has arrived at both ends, which must be whole, and the number of the last of
    /// each.
    fn drain(&mut self) -> Result<[Option<u64>; 2]> {
        let device = &mut self.device;
        let (mut got, mut expected) = (Vec::new(), Vec::new());
        let mut sequence_of = |what, got: &[u8]| -> Result<_> {
            let sequence = u64::from(u16::from_be_bytes([got[1], got[2]]));
            frame::build_tcp(!self.seed, sequence, LOOSE, &mut expected);
            frame::expect(what, sequence, &expected, got)?;
            Ok(Some(sequence))
        };
        let mut last = [None; 2];
        loop {
            match device.peer.receive(&mut got) {
                Ok(Some(_)) => last[0] = sequence_of("transmitted", &got)?,
                Ok(None) => break,
                // Told once that its link is down.
                Err(_) => {}
            }
        }
        while device.rx_take(&mut got)?.is_some() {
            last[1] = sequence_of("received", &got)?;
        }
        Ok(last)
    }

    /// Waits until no frame of before is under way: the latest has come, and none overtakes.
    fn clear(&mut self) -> Result<()> {
        let mut latest = None;
        let mut arrived = [false; 2];
        let mut tries = 0;
        Deadline::patient().until("frames to pass again", || {
            if tries % 50 == 0 {
                latest = Some(self.poured);
                arrived = [false; 2];
                self.device.rx_fill()?;
                self.device.rx.flush()?;
                self.pour_one()?;
                self.device.tx.flush()?;
            }
            tries += 1;
            self.device.tx_reap()?;
            for (arrived, last) in arrived.iter_mut().zip(self.drain()?) {
                *arrived |= last == latest;
            }
            Ok(arrived == [true; 2])
        })
    }

    /// Waits until all chains to transmit are back from a backend that is gone.
    ///
    /// C forgets those that it sent to a tap in a batch.
    fn settle_gone(&mut self, ctx: &Context) -> Result<()> {
        if self.wire.kind == Kind::Tap && lets_c_off(ctx)? {
            return procfs::idle();
        }
        self.settle()
    }

    /// Replaces wire, backend and peer by new ones of the same kind.
    fn replace(&mut self) -> Result<()> {
        let wire = Wire::new(self.wire.kind, 1)?;
        let setup = &self.device.setup;
        self.device.tap = wire.backend(setup.tap())?;
        self.device.peer = setup.peer(wire.far_index()?)?;
        self.wire = wire;
        self.device.bind(RX)?;
        if self.device.tx.ring.pending() == 0 {
            return self.device.bind(TX);
        }
        let base = self.device.tx.ring.base();
        self.device.reset_queue(TX, u16::try_from(base)?)
    }
}

/// Goes on after the interface was down, without a call: what came meanwhile is lost.
fn link(_: &Context, rig: &mut Rig) -> Result<()> {
    for round in 0..3 {
        rig.pour()?;
        rig.wire.set_up(false)?;
        rig.pour()?;
        if round % 2 == 0 {
            rig.settle().context("link down")?;
        }
        rig.wire.set_up(true)?;
        rig.pour()?;
        rig.strict()
            .with_context(|| format!("after {round} changes"))?;
    }
    Ok(())
}

/// The same with the far end down; that of a tap is the tap.
fn carrier(_: &Context, rig: &mut Rig) -> Result<()> {
    for round in 0..3 {
        rig.pour()?;
        rig.wire.set_far_up(false)?;
        rig.pour()?;
        rig.settle().context("no carrier")?;
        rig.wire.set_far_up(true)?;
        rig.strict()
            .with_context(|| format!("after {round} changes"))?;
    }
    Ok(())
}

/// The interface is deleted: chains still come back, and another backend can be set.
fn deleted(ctx: &Context, rig: &mut Rig) -> Result<()> {
    rig.pour()?;
    rig.wire.delete()?;
    for _ in 0..3 {
        rig.pour()?;
        rig.settle_gone(ctx)?;
    }
    rig.replace()?;
    rig.strict()
}

/// The device keeps its backend when the owner's descriptor is closed.
fn closed(_: &Context, rig: &mut Rig) -> Result<()> {
    let other = Wire::new(rig.wire.kind, 2)?;
    let tap = other.backend(rig.device.setup.tap())?;
    rig.pour()?;
    drop(std::mem::replace(&mut rig.device.tap, tap));
    rig.strict()
}

/// A network namespace that lasts until the parent closes the pipe.
fn hold_namespace(_: &Context) -> Result<()> {
    crate::sys::process::unshare_network()?;
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// The interface moves to a namespace, and that ends.
fn namespace(ctx: &Context, rig: &mut Rig) -> Result<()> {
    let mut child = runner::again(ctx, "--role", "hold-namespace")?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the other namespace")?;
    let mut ready = [0; 6];
    let mut output = child.stdout.take().context("no output")?;
    output
        .read_exact(&mut ready)
        .context("the other namespace")?;
    rig.pour()?;
    ip(&format!(
        "link set {} netns {}\n",
        rig.wire.name,
        child.id()
    ))?;
    rig.pour()?;
    rig.settle().context("moved")?;
    drop(child.stdin.take());
    let status = child.wait()?;
    check(status.success(), || {
        format!("the namespace ended with {status}")
    })?;
    rig.pour()?;
    rig.settle_gone(ctx).context("ended")?;
    rig.replace()?;
    rig.strict()
}

/// What the guest takes unsegmented changes while frames of both kinds are under way.
fn offloads(ctx: &Context, rig: &mut Rig) -> Result<()> {
    if !rig.wire.kind.is_tap() {
        return Ok(());
    }
    let size = |n: u64| [60, 1502, 1503, 9000][(n % 4) as usize];
    let tx = Plan {
        tcp: true,
        ..Plan::new(ctx.seed, u64::MAX, size)
    };
    let rx = Plan {
        ip: true,
        ..Plan::new(ctx.seed, u64::MAX, |n| 60 + (n % 900) as usize)
    };
    let device = &mut rig.device;
    let (mut tx, mut rx) = (TxFlow::new(tx), RxFlow::new(rx));
    for round in 0..20 {
        let target = (round + 1) * 20;
        traffic::run_until(device, &mut [&mut tx, &mut rx], |_, flows| {
            flows.iter().all(|flow| flow.seen() >= target)
        })?;
        let offloads = [0, OFFLOAD_CSUM, OFFLOAD_CSUM | OFFLOAD_TSO4][(round % 3) as usize];
        device.tap.set_offloads(offloads)?;
    }
    tx.finish();
    rx.finish();
    traffic::run(device, &mut [&mut tx, &mut rx])?;
    for segment in [false, true, false] {
        let offloads = if segment {
            0
        } else {
            OFFLOAD_CSUM | OFFLOAD_TSO4
        };
        device.tap.set_offloads(offloads)?;
        large_frame(device, ctx.seed, segment)
            .with_context(|| format!("to be segmented: {segment}"))?;
    }
    Ok(())
}

/// A large TCP frame to the guest, which comes in one piece or in segments.
fn large_frame(device: &mut NetDevice, seed: u64, segment: bool) -> Result<()> {
    const LEN: usize = frame::TCP_HEADERS + 5 * 1448 + 100;
    let (mut sent, mut got, mut payload) = (Vec::new(), Vec::new(), Vec::new());
    frame::build_tcp(seed, 0, LEN, &mut sent);
    let header = NetHeader {
        flags: 1,
        gso_type: 1,
        hdr_len: 54,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
        ..NetHeader::default()
    };
    device.rx_fill()?;
    device.rx.flush()?;
    // Past the queue nobody cuts it up for an interface that cannot.
    device.peer.set_queued(true)?;
    device.peer.send(header, &sent)?;
    let mut pieces = 0;
    Deadline::patient().until("the whole frame", || {
        while let Some(header) = device.rx_take(&mut got)? {
            check((header.gso_type == 0) == segment, || format!("{header:?}"))?;
            check(got.len() > frame::TCP_HEADERS, || "a short segment".into())?;
            payload.extend_from_slice(&got[frame::TCP_HEADERS..]);
            pieces += 1;
        }
        Ok(payload.len() >= LEN - frame::TCP_HEADERS)
    })?;
    frame::expect("large", 0, &sent[frame::TCP_HEADERS..], &payload)?;
    let expected = if segment { 6 } else { 1 };
    check(pieces == expected, || {
        format!("{pieces} frames, not {expected}")
    })
}

/// A header of another size than the features say: frames may be lost, but not the queue.
fn header_size(_: &Context, rig: &mut Rig) -> Result<()> {
    if !rig.wire.kind.is_tap() {
        return Ok(());
    }
    for size in [10, 20, 24] {
        accepts("TUNSETVNETHDRSZ", rig.device.tap.set_header_size(size))?;
        for sequence in 0..50 {
            let mut bytes = Vec::new();
            frame::build_tcp(rig.seed, sequence, 200, &mut bytes);
            rig.device.tx_post(NetHeader::default(), &bytes)?;
            rig.device.peer.send(NetHeader::default(), &bytes)?;
        }
        rig.device.rx_fill()?;
        rig.device.rx.flush()?;
        rig.device.tx.flush()?;
        let device = &mut rig.device;
        Deadline::patient().until("all chains to come back", || {
            device.tx_reap()?;
            Ok(device.tx.ring.pending() == 0)
        })?;
        procfs::idle()?;
        let mut got = Vec::new();
        while device.peer.receive(&mut got)?.is_some() {}
        while device.rx_take(&mut got)?.is_some() {}
        accepts("TUNSETVNETHDRSZ", rig.device.tap.set_header_size(12))?;
        rig.strict()
            .with_context(|| format!("after a header of {size}"))?;
    }
    Ok(())
}
