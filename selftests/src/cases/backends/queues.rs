// SPDX-License-Identifier: GPL-2.0

//! Several queues of one interface, and taps that stop their senders.

use crate::cases::common::{Case, Context, Skip, case, check};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan, RxFlow};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::host::procfs;
use crate::host::tap::{OFFLOAD_CSUM, OFFLOAD_TSO4, Tap, TapConfig};
use crate::host::wire::{self, Kind, Wire};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result, bail};

pub(crate) const CASES: &[Case] = &[
    case("queues.tap", 60, |ctx| queues(ctx, Kind::Tap)),
    case("queues.macvtap", 60, |ctx| queues(ctx, Kind::Macvtap)),
    case("queues.ipvtap", 60, |ctx| queues(ctx, Kind::Ipvtap)),
    case("queues.backpressure", 60, backpressure),
];

const QUEUES: usize = 4;
/// Frames of each device, and of the peer.
const FRAMES: u64 = 300;
/// Length of a frame.
const LEN: usize = 400;

/// A device for each queue; all have traffic at the same time.
fn queues(ctx: &Context, kind: Kind) -> Result<()> {
    let wire = Wire::new(kind, 0)?;
    let mut setup = Setup::new(feature::VERSION_1 | feature::EVENT_IDX);
    setup.tcp = true;
    setup.offloads = OFFLOAD_CSUM | OFFLOAD_TSO4;
    let config = TapConfig {
        multiqueue: true,
        ..setup.tap()
    };
    let mut devices = (0..QUEUES)
        .map(|_| {
            let backend = wire.backend(config)?;
            let device = NetDevice::on(
                &ctx.device,
                setup.clone(),
                backend,
                setup.peer(wire.far_index()?)?,
            )?;
            device.bind(RX)?;
            device.bind(TX)?;
            Ok(device)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut state = State {
        posted: [0; QUEUES],
        transmitted: [0; QUEUES],
        sent: 0,
        received: [0; QUEUES],
        seen: [[false; FRAMES as usize]; QUEUES],
        arrived: [false; FRAMES as usize],
        seed: ctx.seed,
    };
    let pauses = Deadline::patient();
    while !state.done() {
        if !state.pump(&mut devices)? {
            if pauses.passed() {
                bail!("no end: {state:?}");
            }
            std::thread::yield_now();
        }
    }
    // Each frame has ports of its own, by which the interface spreads them.
    check(state.received.iter().all(|frames| *frames > 0), || {
        format!("frames per queue: {:?}", state.received)
    })
}

/// Where the traffic of [`queues`] stands.
#[derive(Debug)]
struct State {
    posted: [u64; QUEUES],
    transmitted: [u64; QUEUES],
    sent: u64,
    received: [u64; QUEUES],
    /// Which of each device's frames the peer has seen.
    seen: [[bool; FRAMES as usize]; QUEUES],
    /// Which of the peer's frames have arrived.
    arrived: [bool; FRAMES as usize],
    seed: u64,
}

impl State {
    fn done(&self) -> bool {
        self.transmitted == [FRAMES; QUEUES] && self.received.iter().sum::<u64>() == FRAMES
    }

    /// Does what can be done now; true if anything moved.
    fn pump(&mut self, devices: &mut [NetDevice]) -> Result<bool> {
        let mut moved = false;
        let mut bytes = Vec::new();
        for (number, device) in devices.iter_mut().enumerate() {
            moved |= self.transmit(number, device)?;
            moved |= self.receive(number, device)?;
        }
        let received = self.received.iter().sum::<u64>();
        while self.sent < FRAMES && self.sent < received + 64 {
            frame::build_tcp(self.seed, self.sent, LEN, &mut bytes);
            devices[0].peer.send(NetHeader::default(), &bytes)?;
            self.sent += 1;
            moved = true;
        }
        // Every peer sees all frames; the first is enough.
        for device in &mut devices[1..] {
            while device.peer.receive(&mut bytes)?.is_some() {}
        }
        while devices[0].peer.receive(&mut bytes)?.is_some() {
            self.seen(&bytes)?;
            moved = true;
        }
        Ok(moved)
    }

    fn transmit(&mut self, number: usize, device: &mut NetDevice) -> Result<bool> {
        let mut bytes = Vec::new();
        device.tx_reap()?;
        let start = self.posted[number];
        while self.posted[number] < FRAMES && self.posted[number] < self.transmitted[number] + 64 {
            frame::build_tcp(self.seed_of(number), self.posted[number], LEN, &mut bytes);
            if !device.tx_post(NetHeader::default(), &bytes)? {
                break;
            }
            self.posted[number] += 1;
        }
        device.tx.flush()?;
        Ok(self.posted[number] > start)
    }

    fn receive(&mut self, number: usize, device: &mut NetDevice) -> Result<bool> {
        let (mut got, mut expected) = (Vec::new(), Vec::new());
        let mut moved = false;
        device.rx_fill()?;
        device.rx.flush()?;
        while device.rx_take(&mut got)?.is_some() {
            let sequence = sequence(&got);
            frame::build_tcp(self.seed, sequence, LEN, &mut expected);
            frame::expect("received", sequence, &expected, &got)?;
            self.received[number] += 1;
            let before = std::mem::replace(&mut self.arrived[sequence as usize], true);
            check(!before, || format!("frame {sequence} came twice"))?;
            moved = true;
        }
        Ok(moved)
    }

    /// A frame from some device, not seen before.
    ///
    /// In any order: a worker that moves to another CPU leaves frames in the old one's backlog,
    /// where later ones overtake them.
    fn seen(&mut self, got: &[u8]) -> Result<()> {
        let sequence = sequence(got);
        let mut expected = Vec::new();
        for number in 0..QUEUES {
            frame::build_tcp(self.seed_of(number), sequence, LEN, &mut expected);
            if expected == got {
                let seen = self.seen[number].get_mut(sequence as usize);
                let before = seen.is_none_or(|seen| std::mem::replace(seen, true));
                self.transmitted[number] += 1;
                return check(!before, || {
                    format!("frame {sequence} of device {number} came twice")
                });
            }
        }
        bail!("a frame at the peer is no device's: {got:?}")
    }

    fn seed_of(&self, number: usize) -> u64 {
        self.seed + 1000 * (1 + number as u64)
    }
}

/// The number that a frame was built with.
fn sequence(frame: &[u8]) -> u64 {
    u64::from(u16::from_be_bytes([frame[1], frame[2]]))
}

/// Frames that the peer sends while the guest has few buffers, more than the tap's ring holds.
const BACKLOG: u64 = 1500;

/// A tap that stops its queue loses nothing that the interface's queue has room for, and goes on
/// with the first buffers; one that does not stop loses what its ring does not hold.
fn backpressure(ctx: &Context) -> Result<()> {
    if !Tap::can_stop()? {
        return Err(Skip("taps cannot stop their senders".into()).into());
    }
    let arrived = arrivals(overfilled(ctx, Tap::new)?)?;
    check((500..BACKLOG).contains(&arrived), || {
        format!("{arrived} frames without backpressure")
    })?;
    let mut device = overfilled(ctx, Tap::stopping)?;
    for round in 0..3 {
        let mut flow = RxFlow::new(Plan::new(ctx.seed, BACKLOG, |_| 100));
        flow.sent = BACKLOG;
        traffic::run(&mut device, &mut [&mut flow]).with_context(|| format!("round {round}"))?;
        overfill(ctx, &mut device)?;
    }
    Ok(())
}

/// How many frames wait for a device.
fn arrivals(mut device: NetDevice) -> Result<u64> {
    let (mut got, mut arrived) = (Vec::new(), 0);
    loop {
        device.rx_fill()?;
        device.rx.flush()?;
        procfs::idle()?;
        let before = arrived;
        while device.rx_take(&mut got)?.is_some() {
            arrived += 1;
        }
        if arrived == before {
            return Ok(arrived);
        }
    }
}

/// A device without buffers to receive on a tap that has more frames for it than it can hold.
fn overfilled(ctx: &Context, tap: fn(&str, TapConfig) -> Result<Tap>) -> Result<NetDevice> {
    let mut setup = Setup::new(feature::VERSION_1);
    setup.rx_size = 64;
    setup.rx_buffers.0 = 64;
    let tap = tap("tap0", setup.tap())?;
    wire::tc(&format!(
        "qdisc replace dev tap0 root pfifo limit {BACKLOG}\n"
    ))?;
    let peer = setup.peer(tap.if_index())?;
    let mut device = NetDevice::on(&ctx.device, setup, tap, peer)?;
    device.peer.set_queued(true)?;
    device.bind(RX)?;
    overfill(ctx, &mut device)?;
    Ok(device)
}

fn overfill(ctx: &Context, device: &mut NetDevice) -> Result<()> {
    let mut bytes = Vec::new();
    for sequence in 0..BACKLOG {
        frame::build(ctx.seed, sequence, 100, &mut bytes);
        device.peer.send(NetHeader::default(), &bytes)?;
    }
    procfs::idle()
}
