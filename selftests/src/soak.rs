// SPDX-License-Identifier: GPL-2.0

//! Devices that are used, changed and replaced for long, and must leave nothing behind.

use crate::driver::device::{NetDevice, Setup};
use crate::driver::load::{self, Line};
use crate::driver::node::Node;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::{MemoryRegion, feature};
use crate::driver::vhost::{RX, TX};
use crate::eventfd::EventFd;
use crate::host::census;
use crate::sys::process::Forked;
use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

/// Devices in use at a time.
const DEVICES: usize = 4;

/// Frames, both ways, that a device moves from one change to the next.
const STEP: u64 = 60;

/// What has been done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Changes to a device.
    pub changes: u64,
    /// Frames that arrived, each of them whole and in order.
    pub frames: u64,
    /// KiB of memory that seem to be gone, which are few.
    pub lost: u64,
}

/// A change to a device in use, after which frames go on.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// A queue is stopped and started.
    Rebind,
    /// The memory table is replaced by another that has the same memory in it.
    Memory,
    /// Kick and call come by other descriptors.
    Descriptors,
    /// The same features are set once more.
    Features,
    /// The owner gives the device up and takes it again.
    Owner,
    /// The device is closed, its tap too, and another one opened.
    Replace,
    /// Another owner, of a device of its own, is killed.
    Kill,
}

const CHANGES: [Change; 7] = [
    Change::Rebind,
    Change::Memory,
    Change::Descriptors,
    Change::Features,
    Change::Owner,
    Change::Replace,
    Change::Kill,
];

struct Soak {
    node: Node,
    rng: SmallRng,
    lines: Vec<Line>,
    report: Report,
}

impl Soak {
    fn start(path: &Path, seed: u64) -> Result<Self> {
        let mut soak = Self {
            node: Node::split(path),
            rng: SmallRng::seed_from_u64(seed),
            lines: Vec::new(),
            report: Report::default(),
        };
        for slot in 0..DEVICES {
            let line = soak.line(slot)?;
            soak.lines.push(line);
        }
        Ok(soak)
    }

    /// A device on a tap of its own, with endless traffic.
    fn line(&mut self, slot: usize) -> Result<Line> {
        let mut features = feature::VERSION_1;
        for bit in [feature::EVENT_IDX, feature::MRG_RXBUF] {
            if self.rng.random() {
                features |= bit;
            }
        }
        if self.rng.random() && self.node.open()?.features()? & feature::RING_PACKED != 0 {
            features |= feature::RING_PACKED;
        }
        let setup = Setup::new(features);
        let device = NetDevice::prepare(&self.node, setup, &format!("tap{slot}"), false)?;
        device.bind(RX)?;
        device.bind(TX)?;
        let plan = Plan::new(self.rng.random(), u64::MAX, |n| 60 + (n % 1400) as usize);
        Ok(Line::new(device, plan))
    }

    /// Makes one change, and lets frames pass.
    fn step(&mut self, change: Change) -> Result<()> {
        let slot = self.rng.random_range(0..DEVICES);
        let index = self.rng.random_range(RX..=TX);
        let line = &mut self.lines[slot];
        let device = &mut line.device;
        match change {
            Change::Rebind => {
                device.unbind(index)?;
                device.bind(index)?;
            }
            Change::Memory => {
                let mut table = device.memory.table();
                let first = table[0];
                table.push(MemoryRegion {
                    guest: 1 << 40,
                    ..first
                });
                device.vhost.set_memory(&table)?;
            }
            Change::Descriptors => {
                device.new_kick(index)?;
                let call = EventFd::new()?;
                device.vhost.set_call(index, call.as_fd().as_raw_fd())?;
                // What was signalled on the old one is still to be looked at.
                call.signal()?;
                device.queue(index).call = call;
            }
            Change::Features => device.vhost.set_features(device.setup.features)?,
            Change::Owner => {
                device.vhost.reset_owner()?;
                device.vhost.set_owner()?;
                device.configure()?;
                device.bind(RX)?;
                device.bind(TX)?;
            }
            Change::Replace => {
                line.tx.finish();
                line.rx.finish();
                traffic::run(device, &mut [&mut line.tx, &mut line.rx])?;
                self.report.frames += line.seen();
                // The old tap goes first: the new one has its name.
                drop(self.lines.remove(slot));
                let line = self.line(slot)?;
                self.lines.insert(slot, line);
            }
            Change::Kill => self.kill()?,
        }
        self.report.changes += 1;
        let target = self.lines[slot].seen() + STEP;
        while self.lines[slot].seen() < target {
            load::pump(&mut self.lines)?;
        }
        Ok(())
    }

    /// Starts another owner and kills it at any moment.
    fn kill(&mut self) -> Result<()> {
        let moment = Duration::from_micros(self.rng.random_range(0..30_000));
        let owner = Forked::start(|| {
            let setup = Setup::new(feature::VERSION_1);
            let name = format!("tap{DEVICES}");
            let run = || -> Result<()> {
                let mut device = NetDevice::prepare(&self.node, setup, &name, false)?;
                device.bind(RX)?;
                device.bind(TX)?;
                traffic::exchange(&mut device, Plan::new(1, u64::MAX, |_| 200))
            };
            if let Err(error) = run() {
                println!("an owner gave up: {error:#}");
            }
            1
        })?;
        // No wait for anything: it may be anywhere by then.
        std::thread::sleep(moment);
        owner.signal(libc::SIGKILL)?;
        owner.wait()?;
        Ok(())
    }

    /// Makes changes of each kind for as long as `goes_on` says so, and closes all.
    fn run(mut self, mut goes_on: impl FnMut(&Report) -> bool) -> Result<Report> {
        while goes_on(&self.report) {
            for change in CHANGES {
                let number = self.report.changes;
                self.step(change)
                    .with_context(|| format!("change {number}, {change:?}"))?;
            }
        }
        for line in &mut self.lines {
            line.finish();
        }
        load::run(&mut self.lines)?;
        self.report.frames += self.lines.iter().map(Line::seen).sum::<u64>();
        Ok(self.report)
    }
}

/// Uses devices at `path`, in each period of the [`census`] for as long as `goes_on` says so, and
/// compares what is held before and after. `goes_on` gets the number of the period and what was
/// done in it.
///
/// # Errors
///
/// When a frame is wrong, a call refused, or something stays behind.
pub fn run(
    path: &Path,
    seed: u64,
    mut goes_on: impl FnMut(u64, &Report) -> bool,
) -> Result<Report> {
    // The first device makes the kernel allocate what it keeps; that is no leak.
    Soak::start(path, !seed)?.run(|report| report.changes == 0)?;
    let mut sum = Report::default();
    let mut period = 0;
    sum.lost = census::expect_no_growth(|| {
        let soak = Soak::start(path, seed.wrapping_add(period))?;
        let report = soak.run(|report| goes_on(period, report))?;
        sum.changes += report.changes;
        sum.frames += report.frames;
        period += 1;
        Ok(report.changes / CHANGES.len() as u64)
    })?;
    Ok(sum)
}
