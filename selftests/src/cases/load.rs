// SPDX-License-Identifier: GPL-2.0

//! Many devices at once, and who gets how much of a worker.

use super::{Case, Context, case, check};
use crate::device::{NetDevice, Setup};
use crate::frame;
use crate::load::{self, Line};
use crate::procfs;
use crate::split::{Descriptor, SplitLayout};
use crate::traffic::Plan;
use crate::uapi::{NetHeader, feature};
use crate::vhost::{RX, TX};
use crate::wait::Deadline;
use anyhow::Result;

pub(super) const CASES: &[Case] = &[
    case("load.devices", 120, devices),
    case("load.flooded", 120, flooded),
];

/// Devices of one process.
const DEVICES: u64 = 64;

/// All devices move frames at once; each frame is checked, and none waits until others are done.
fn devices(ctx: &Context) -> Result<()> {
    const FRAMES: u64 = 300;
    let mut lines = Vec::new();
    for number in 0..DEVICES {
        let events = feature::EVENT_IDX * (number % 2);
        let merge = feature::MRG_RXBUF * (number / 2 % 2);
        let mut setup = Setup::new(feature::VERSION_1 | events | merge);
        (setup.rx_size, setup.tx_size) = (64, 64);
        (setup.rx_buffers.0, setup.tx_buffers.0) = (64, 64);
        let device = NetDevice::prepare(&ctx.device, setup, &format!("tap{number}"), false)?;
        device.bind(RX)?;
        device.bind(TX)?;
        let plan = Plan::new(ctx.seed + number, FRAMES, |n| 60 + (n % 1400) as usize);
        lines.push(Line::new(device, plan));
    }
    let workers = procfs::workers()?.len() as u64;
    check(workers == DEVICES, || format!("{workers} workers"))?;
    while !lines.iter().any(Line::done) {
        load::pump(&mut lines)?;
    }
    let least = lines.iter().map(Line::seen).min().unwrap_or(0);
    println!(
        "the first of {DEVICES} devices was done with {} frames when the last had {least}",
        2 * FRAMES
    );
    check(least > 0, || "a device had to wait for another".into())?;
    load::run(&mut lines)?;
    drop(lines);
    procfs::expect_workers(0)
}

/// The largest ring.
const LARGE: u16 = 32768;

/// A transmit ring whose chains are always the same frame: all of it is given to the device in one
/// step, again and again.
struct Flood {
    layout: SplitLayout,
    given: u16,
}

impl Flood {
    /// Fills the device's ring, behind the back of its driver's half.
    fn new(device: &NetDevice) -> Self {
        let memory = &device.memory;
        let layout = device.tx.layout;
        let (addr, _) = device.tx.buffers();
        let mut bytes = Vec::new();
        frame::build(1, 0, 60, &mut bytes);
        // Of a type that the peer does not take.
        bytes[12..14].copy_from_slice(&0x88b6u16.to_be_bytes());
        memory.fill(addr, 12, 0);
        memory.write(addr + 12, &bytes);
        for index in 0..LARGE {
            let descriptor = Descriptor {
                addr,
                len: 72,
                flags: 0,
                next: 0,
            };
            layout.write_desc(memory, index, descriptor);
            layout.write_avail(memory, index, index);
        }
        Self { layout, given: 0 }
    }

    /// Chains that the device has not used.
    fn left(&self, device: &NetDevice) -> u16 {
        self.given
            .wrapping_sub(self.layout.used_index(&device.memory))
    }

    /// Gives all chains to the device.
    fn pour(&mut self, device: &NetDevice) -> Result<()> {
        self.given = self.given.wrapping_add(LARGE);
        self.layout.set_avail_index(&device.memory, self.given);
        device.tx.kick.signal()
    }
}

/// With more to send than there is time for, frames for the guest still come: a round of the
/// transmit queue ends.
fn flooded(ctx: &Context) -> Result<()> {
    let samples = ctx.times(40);
    let mut setup = Setup::new(feature::VERSION_1);
    setup.tx_size = LARGE;
    let mut device = NetDevice::start(&ctx.device, setup)?;
    let mut flood = Flood::new(&device);
    device.rx_fill()?;
    device.rx.flush()?;
    let (mut bytes, mut got) = (Vec::new(), Vec::new());
    let mut passed = Vec::new();
    for sequence in 0..samples {
        flood.pour(&device)?;
        Deadline::patient().until("the flood to begin", || Ok(flood.left(&device) < LARGE))?;
        frame::build(ctx.seed, sequence, 200, &mut bytes);
        device.peer.send(NetHeader::default(), &bytes)?;
        let before = flood.left(&device);
        // Asked without a pause, in which thousands would pass.
        let deadline = Deadline::patient();
        while device.rx_take(&mut got)?.is_none() {
            check(!deadline.passed(), || "no frame for the guest".into())?;
        }
        passed.push(before.wrapping_sub(flood.left(&device)));
        frame::expect("received", sequence, &bytes, &got)?;
        device.rx_fill()?;
        device.rx.flush()?;
        Deadline::patient().until("the end of the flood", || Ok(flood.left(&device) == 0))?;
    }
    passed.sort_unstable();
    let median = passed[passed.len() / 2];
    println!(
        "while a frame for the guest waited, {} to {} were sent, mostly {median}",
        passed[0],
        passed[passed.len() - 1]
    );
    // A process may be late to look; not most of the time by a large part of the ring.
    check(median < LARGE / 8, || {
        format!("{median} of {LARGE} frames were sent first")
    })
}
