// SPDX-License-Identifier: GPL-2.0

//! Numbered frames through a device: sent, awaited in order, compared byte for byte.

use crate::driver::device::NetDevice;
use crate::driver::queue::Queue;
use crate::driver::uapi::feature;
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::{Deadline, PATIENCE};
use anyhow::{Context, Result, bail};
use std::os::fd::AsFd;
use std::time::Duration;

/// Payload of each segment of the TCP frames.
const SEGMENT: u16 = 1448;

/// What frames a flow is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Seed of the content.
    pub seed: u64,
    /// How many frames.
    pub count: u64,
    /// The most frames under way.
    pub window: u64,
    /// Length of each frame by its number.
    pub size: fn(u64) -> usize,
    /// Whether they are TCP frames to be segmented later.
    pub tcp: bool,
    /// Whether they are TCP frames as they are, for interfaces that pass nothing but IP.
    pub ip: bool,
}

impl Plan {
    /// Frames of the sizes `size` answers, 64 under way.
    #[must_use]
    pub fn new(seed: u64, count: u64, size: fn(u64) -> usize) -> Self {
        Self {
            seed,
            count,
            window: 64,
            size,
            tcp: false,
            ip: false,
        }
    }

    fn build(&self, sequence: u64, out: &mut Vec<u8>) {
        let len = (self.size)(sequence);
        if self.tcp || self.ip {
            frame::build_tcp(self.seed, sequence, len, out);
        } else {
            frame::build(self.seed, sequence, len, out);
        }
    }

    fn header(&self, sequence: u64) -> NetHeader {
        if !self.tcp {
            return NetHeader::default();
        }
        let large = (self.size)(sequence) > frame::TCP_HEADERS + usize::from(SEGMENT);
        NetHeader {
            flags: 1,
            gso_type: u8::from(large),
            hdr_len: 54,
            gso_size: if large { SEGMENT } else { 0 },
            csum_start: 34,
            csum_offset: 16,
            ..NetHeader::default()
        }
    }

    /// Compares what both ends of the wire must agree on; the header length is but a hint.
    fn expect_header(&self, sequence: u64, got: NetHeader) -> Result<()> {
        let want = self.header(sequence);
        let got = NetHeader {
            hdr_len: want.hdr_len,
            num_buffers: 0,
            ..got
        };
        if want != got {
            bail!("header of frame {sequence}: {want:?} expected, {got:?} received");
        }
        Ok(())
    }
}

/// One direction of traffic.
pub trait Flow {
    /// Does what can be done now; true if anything moved.
    ///
    /// # Errors
    ///
    /// When a frame is lost, doubled, reordered or changed.
    fn pump(&mut self, device: &mut NetDevice) -> Result<bool>;

    /// Whether all frames have arrived and all buffers are back.
    fn done(&self, device: &NetDevice) -> bool;

    /// Frames that have arrived.
    fn seen(&self) -> u64;

    /// Where the flow stands, for a failure's message.
    fn describe(&self, device: &NetDevice) -> String;
}

/// Numbered frames that go one way, and how far they have come.
#[derive(Debug)]
pub struct Numbered<Way> {
    plan: Plan,
    /// Frames posted, or sent by the peer, so far.
    pub sent: u64,
    /// Frames that have arrived so far.
    pub seen: u64,
    /// Settings of this direction only.
    pub way: Way,
    buffer: Vec<u8>,
    expected: Vec<u8>,
}

/// From the guest to the peer.
#[derive(Debug, Default)]
pub struct FromGuest;

/// From the peer to the guest.
#[derive(Debug)]
pub struct ToGuest {
    /// Whether buffers are posted again; not by a driver that leaves its ring as it is.
    pub refills: bool,
    /// Frames before this one may be lost.
    pub may_lose: u64,
}

impl Default for ToGuest {
    fn default() -> Self {
        Self {
            refills: true,
            may_lose: 0,
        }
    }
}

/// Frames from the guest to the peer.
pub type TxFlow = Numbered<FromGuest>;

/// Frames from the peer to the guest.
pub type RxFlow = Numbered<ToGuest>;

impl<Way: Default> Numbered<Way> {
    /// A flow at its start.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            sent: 0,
            seen: 0,
            way: Way::default(),
            buffer: Vec::new(),
            expected: Vec::new(),
        }
    }
}

impl<Way> Numbered<Way> {
    /// Ends the flow with what is under way.
    pub fn finish(&mut self) {
        self.extend(0);
    }

    /// Ends the flow after `more` frames.
    pub fn extend(&mut self, more: u64) {
        self.plan.count = self.sent + more;
    }

    /// Whether one more frame may be under way.
    fn may_send(&self) -> bool {
        self.sent < self.plan.count && self.sent - self.seen < self.plan.window
    }

    fn stand(&self, way: &str, queue: &Queue) -> String {
        format!(
            "{way}: {} of {} sent, {} seen, {} chains out",
            self.sent,
            self.plan.count,
            self.seen,
            queue.ring.pending()
        )
    }
}

impl TxFlow {
    fn post(&mut self, device: &mut NetDevice) -> Result<bool> {
        let mut moved = false;
        while self.may_send() {
            self.plan.build(self.sent, &mut self.buffer);
            if !device.tx_post(self.plan.header(self.sent), &self.buffer)? {
                break;
            }
            self.sent += 1;
            moved = true;
        }
        device.tx.flush()?;
        Ok(moved)
    }
}

impl Flow for TxFlow {
    fn pump(&mut self, device: &mut NetDevice) -> Result<bool> {
        let mut moved = self.post(device)?;
        moved |= device.tx_reap()? > 0;
        while let Some(header) = device.peer.receive(&mut self.buffer)? {
            self.plan.build(self.seen, &mut self.expected);
            frame::expect("transmitted", self.seen, &self.expected, &self.buffer)?;
            if self.plan.tcp {
                self.plan.expect_header(self.seen, header)?;
            }
            self.seen += 1;
            moved = true;
            if self.seen > self.sent {
                bail!("{} frames seen, {} sent", self.seen, self.sent);
            }
        }
        Ok(moved)
    }

    fn done(&self, device: &NetDevice) -> bool {
        self.seen == self.plan.count && device.tx.ring.pending() == 0
    }

    fn seen(&self) -> u64 {
        self.seen
    }

    fn describe(&self, device: &NetDevice) -> String {
        self.stand("transmit", &device.tx)
    }
}

impl RxFlow {
    fn check(&mut self, device: &NetDevice, header: NetHeader) -> Result<()> {
        self.plan.build(self.seen, &mut self.expected);
        while self.seen < self.way.may_lose && self.expected != self.buffer {
            self.seen += 1;
            self.plan.build(self.seen, &mut self.expected);
        }
        frame::expect("received", self.seen, &self.expected, &self.buffer)?;
        let features = device.setup.features;
        let mut known = header;
        if features & feature::NET_HDR != 0 {
            // C leaves what the driver had there in the end of the header that it makes.
            (known.hash, known.outer_th, known.inner_nh) = (0, 0, 0);
        }
        self.plan.expect_header(self.seen, known)?;
        let size = device.setup.header();
        let total = size + self.buffer.len();
        let want = if features & feature::MRG_RXBUF != 0 {
            total.div_ceil(device.setup.rx_buffers.1)
        } else {
            usize::from(features & feature::VERSION_1 != 0)
        };
        let counted = features & (feature::MRG_RXBUF | feature::VERSION_1) != 0;
        if counted && usize::from(header.num_buffers) != want {
            bail!(
                "frame {} announces {} buffers, not {want}",
                self.seen,
                header.num_buffers
            );
        }
        Ok(())
    }
}

impl Flow for RxFlow {
    fn pump(&mut self, device: &mut NetDevice) -> Result<bool> {
        let mut moved = false;
        if self.way.refills {
            device.rx_fill()?;
            device.rx.flush()?;
        }
        while self.may_send() {
            self.plan.build(self.sent, &mut self.buffer);
            device
                .peer
                .send(self.plan.header(self.sent), &self.buffer)?;
            self.sent += 1;
            moved = true;
        }
        while let Some(header) = device.rx_take(&mut self.buffer)? {
            if self.seen == self.sent {
                bail!("a frame arrived that was not sent");
            }
            self.check(device, header)?;
            self.seen += 1;
            moved = true;
        }
        Ok(moved)
    }

    fn done(&self, _device: &NetDevice) -> bool {
        self.seen == self.plan.count
    }

    fn seen(&self) -> u64 {
        self.seen
    }

    fn describe(&self, device: &NetDevice) -> String {
        self.stand("receive", &device.rx)
    }
}

/// Waits until the device calls or the peer has a frame; false after `time`.
///
/// # Errors
///
/// When a descriptor is broken.
pub fn wait_activity(device: &mut NetDevice, time: Duration) -> Result<bool> {
    let rx_ready = device.rx.arm()?;
    let tx_ready = device.tx.arm()?;
    if rx_ready || tx_ready {
        return Ok(true);
    }
    let fds = [
        device.rx.call.as_fd(),
        device.tx.call.as_fd(),
        device.peer.as_fd(),
    ];
    Deadline::after(time).readable(&fds)
}

/// Runs flows until all are done.
///
/// # Errors
///
/// When a frame is wrong, or nothing moves for long.
pub fn run(device: &mut NetDevice, flows: &mut [&mut dyn Flow]) -> Result<()> {
    run_until(device, flows, |device, flows| {
        flows.iter().all(|flow| flow.done(device))
    })
}

/// Runs flows until `end` says so.
///
/// # Errors
///
/// As [`run`].
pub fn run_until(
    device: &mut NetDevice,
    flows: &mut [&mut dyn Flow],
    end: impl Fn(&NetDevice, &[&mut dyn Flow]) -> bool,
) -> Result<()> {
    loop {
        let mut moved = false;
        for flow in flows.iter_mut() {
            moved |= flow.pump(device).with_context(|| flow.describe(device))?;
        }
        if end(device, flows) {
            return Ok(());
        }
        if !moved && !wait_activity(device, PATIENCE)? {
            let state: Vec<_> = flows.iter().map(|flow| flow.describe(device)).collect();
            bail!("nothing moved for {PATIENCE:?}; {}", state.join("; "));
        }
    }
}

/// Sends frames from the guest and checks them at the peer.
///
/// # Errors
///
/// As [`run`].
pub fn transmit(device: &mut NetDevice, plan: Plan) -> Result<()> {
    run(device, &mut [&mut TxFlow::new(plan)])
}

/// Sends frames from the peer and checks them in the guest.
///
/// # Errors
///
/// As [`run`].
pub fn receive(device: &mut NetDevice, plan: Plan) -> Result<()> {
    run(device, &mut [&mut RxFlow::new(plan)])
}

/// Both directions at once.
///
/// # Errors
///
/// As [`run`].
pub fn exchange(device: &mut NetDevice, plan: Plan) -> Result<()> {
    run(
        device,
        &mut [&mut TxFlow::new(plan), &mut RxFlow::new(plan)],
    )
}
