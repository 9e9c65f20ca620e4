// SPDX-License-Identifier: GPL-2.0

//! Devices one queue of which has stopped, with frames in it, for what can start it again.

use crate::cases::common::{Context, a_while, accepts, check, lets_c_off, wake_c};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::layout::{Described, Layout};
use crate::driver::log::{DirtyLog, log_used};
use crate::driver::traffic::{self, Flow, Plan, RxFlow, TxFlow};
use crate::driver::uapi::{DESC_WRITE, VringAddr, feature};
use crate::driver::vhost::{RX, TX};
use crate::eventfd::EventFd;
use crate::host::procfs;
use crate::packet::header::NetHeader;
use crate::sys::mapping::Mapping;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use std::os::fd::{AsFd, AsRawFd};

/// What is wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// Its address is no memory.
    Nowhere,
    /// It is of the other direction.
    Direction,
    /// It is shorter than a header; for frames of the guest.
    Short,
}

/// What a queue stops for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The memory table lacks all buffers.
    NoMemory,
    /// The descriptor table is where nothing can be read.
    NoRing,
    /// The dirty log is where nothing can be written.
    NoLog,
    /// Guest and device do not agree on the features yet: about the log, or the header.
    Features,
    /// A chain is wrong.
    Bad(Bad),
}

/// Where used rings are logged.
const LOGGED: u64 = 0x2000_0000;
/// The end of what is logged.
const END: u64 = LOGGED + 0x1000;
/// Where there is no memory.
const NOWHERE: u64 = 0x9000_0000;
/// Frames that are sent before a queue stops.
const FRAMES: u64 = 3;

/// A device with a queue that has stopped.
pub(super) struct Rig {
    pub(super) device: NetDevice,
    pub(super) index: u32,
    /// A log that can be written.
    pub(super) good_log: DirtyLog,
    stop: Stop,
    tx: TxFlow,
    rx: RxFlow,
    closed: Mapping,
    closed_log: DirtyLog,
    log_event: EventFd,
    /// The chain that is wrong, as it should be.
    chain: Option<(u16, Described)>,
}

impl Rig {
    /// A device whose queue `index` has stopped, with frames that wait.
    pub(super) fn stopped(ctx: &Context, index: u32, events: u64, stop: Stop) -> Result<Self> {
        let mut setup = Setup::new(feature::VERSION_1 | events);
        setup.regions = vec![(0x4000_0000, 1 << 16)];
        let plan = Plan {
            window: 1000,
            ..Plan::new(ctx.seed, 0, |n| 60 + (n % 900) as usize)
        };
        let mut rig = Self {
            device: NetDevice::start(&ctx.device, setup)?,
            index,
            good_log: DirtyLog::new(END)?,
            stop,
            tx: TxFlow::new(plan),
            rx: RxFlow::new(plan),
            closed: Mapping::new(1 << 16)?,
            closed_log: DirtyLog::new(END)?,
            log_event: EventFd::new()?,
            chain: None,
        };
        rig.rx.way.refills = false;
        let device = &mut rig.device;
        traffic::exchange(device, Plan::new(ctx.seed, 20, |_| 100))?;
        device.rx_fill()?;
        device.rx.flush()?;
        procfs::idle()?;
        rig.break_it()?;
        rig.expect_stop(ctx)?;
        rig.other_works(ctx)?;
        Ok(rig)
    }

    /// Makes the queue stop, and sends frames.
    fn break_it(&mut self) -> Result<()> {
        match self.stop {
            Stop::NoMemory => {
                let rest = &self.device.memory.table()[1..];
                accepts("SET_MEM_TABLE", self.device.vhost.set_memory(rest))?;
            }
            Stop::NoRing => {
                self.closed.protect(0, self.closed.len(), false)?;
                let address = VringAddr {
                    desc: self.closed.addr() as u64,
                    ..self.address()
                };
                accepts("SET_VRING_ADDR", self.device.vhost.set_addr(address))?;
            }
            Stop::NoLog => self.close_log()?,
            Stop::Features if self.index == RX => self.close_log()?,
            Stop::Features => self.post_short()?,
            Stop::Bad(bad) => return self.spoil(bad),
        }
        self.send()
    }

    /// Sends frames, of which the queue is told as a polite driver tells it.
    fn send(&mut self) -> Result<()> {
        if self.index == RX {
            self.rx.extend(FRAMES);
            self.rx.pump(&mut self.device)?;
        } else {
            self.tx.extend(FRAMES);
            self.tx.pump(&mut self.device)?;
        }
        Ok(())
    }

    fn close_log(&mut self) -> Result<()> {
        let vhost = &self.device.vhost;
        let base = self.closed_log.addr();
        accepts("SET_LOG_BASE", vhost.set_log_base(base))?;
        let memory = self.closed_log.memory();
        memory.protect(0, memory.len(), false)?;
        if self.index == RX {
            self.device.setup.features |= feature::LOG_ALL;
            accepts("LOG_ALL", vhost.set_features(self.device.setup.features))
        } else {
            let logged = log_used(&self.device, TX, Some(LOGGED));
            accepts("a logged used ring", logged)
        }
    }

    /// Makes the log that cannot be written one that can.
    pub(super) fn open_log(&mut self) -> Result<()> {
        let memory = self.closed_log.memory();
        Ok(memory.protect(0, memory.len(), true)?)
    }

    /// An event descriptor for the log.
    pub(super) fn event(&self) -> i32 {
        self.log_event.as_fd().as_raw_fd()
    }

    /// Posts what is a frame of one byte to a guest that has the header of legacy devices, and less
    /// than a header to the device.
    fn post_short(&mut self) -> Result<()> {
        self.device.setup.features &= !feature::VERSION_1;
        check(self.device.tx_post(NetHeader::default(), &[0])?, || {
            "no room".into()
        })
    }

    /// Has the device agree on the features: those without a log, or with the short header.
    pub(super) fn set_features(&mut self) -> Result<()> {
        let device = &mut self.device;
        device.setup.features &= !feature::LOG_ALL;
        let header = i32::try_from(device.setup.header())?;
        device.tap.set_header_size(header)?;
        accepts(
            "SET_FEATURES",
            device.vhost.set_features(device.setup.features),
        )
    }

    fn layout(&mut self) -> Layout {
        self.device.queue(self.index).layout
    }

    fn address(&self) -> VringAddr {
        let device = &self.device;
        device.address(if self.index == RX {
            &device.rx
        } else {
            &device.tx
        })
    }

    /// Puts the ring where it is.
    pub(super) fn place_ring(&mut self) -> Result<()> {
        let address = self.address();
        accepts("SET_VRING_ADDR", self.device.vhost.set_addr(address))
    }

    /// Sends frames, and makes the second chain wrong that the device will look at.
    fn spoil(&mut self, bad: Bad) -> Result<()> {
        self.device.unbind(self.index)?;
        let layout = self.layout();
        let base = self.device.queue(self.index).ring.base();
        self.send()?;
        let memory = &self.device.memory;
        let head = layout.head(memory, base, 1);
        let good = layout.described(memory, head);
        let mut wrong = good;
        match bad {
            Bad::Nowhere => wrong.addr = NOWHERE,
            Bad::Direction => wrong.flags ^= DESC_WRITE,
            Bad::Short => wrong.len = 5,
        }
        layout.describe(memory, head, wrong);
        self.chain = Some((head, good));
        self.device.bind(self.index)
    }

    /// Puts right what is wrong with the chain.
    pub(super) fn mend(&mut self) {
        let layout = self.layout();
        if let Some((head, good)) = self.chain.take() {
            layout.describe(&self.device.memory, head, good);
        }
    }

    /// Waits for the device to tell that it has stopped. C keeps silent about some of it: it goes
    /// on without a log, and looks at a short chain again and again.
    fn expect_stop(&mut self, ctx: &Context) -> Result<()> {
        let silent = matches!(
            self.stop,
            Stop::NoLog | Stop::Features | Stop::Bad(Bad::Short)
        );
        if silent && lets_c_off(ctx)? {
            a_while();
            return Ok(());
        }
        let queue = self.device.queue(self.index);
        let told = Deadline::patient().readable(&[&queue.err])?;
        check(told, || "the error descriptor was not signalled".into())
    }

    fn other_works(&mut self, ctx: &Context) -> Result<()> {
        if matches!(self.stop, Stop::NoMemory | Stop::Features) {
            // It lacks the same.
            return Ok(());
        }
        let plan = Plan::new(ctx.seed, 20, |_| 100);
        if self.index == RX {
            traffic::transmit(&mut self.device, plan)
        } else {
            traffic::receive(&mut self.device, plan)
        }
        .context("the other queue")
    }

    /// Has the guest publish more, with a kick if the device asks for one: a frame, or the buffer
    /// that one came in before the queue stopped.
    pub(super) fn publish_more(&mut self) -> Result<()> {
        if self.index == TX {
            self.tx.extend(1);
            self.tx.pump(&mut self.device)?;
            return Ok(());
        }
        Deadline::patient().until("the first frame", || {
            self.rx.pump(&mut self.device)?;
            Ok(self.rx.seen == 1)
        })?;
        self.device.rx_fill()?;
        self.device.rx.flush()?;
        Ok(())
    }

    /// C does not look at a queue again for calls of its owner, nor does it want to be kicked after
    /// an error.
    pub(super) fn wake_c(&mut self, ctx: &Context) -> Result<()> {
        wake_c(ctx, self.device.queue(self.index))
    }

    /// Waits until all that was sent has arrived, and more does.
    pub(super) fn finish(mut self, ctx: &Context) -> Result<()> {
        let flow: &mut dyn Flow = if self.index == RX {
            &mut self.rx
        } else {
            &mut self.tx
        };
        traffic::run(&mut self.device, &mut [flow])?;
        traffic::exchange(&mut self.device, Plan::new(ctx.seed + 1, 20, |_| 100))
    }
}
