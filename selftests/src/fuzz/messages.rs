// SPDX-License-Identifier: GPL-2.0

//! Storms of messages about IO addresses from several threads, and of calls about the dirty log,
//! while the queues run, misses are read and answered, and features come and go.
//!
//! What the owner says of addresses that its rings and buffers have is bad or good, but never leads
//! the device to memory outside of the table. Nothing there is written; messages from the device
//! are well-formed; and afterwards an honest IOMMU serves the same device.

use super::{Counts, Fuzzer, PACKED, Stop, drain, exchange, format};
use crate::case::Context;
use crate::driver::device::{GUEST_BASE, NetDevice, Setup};
use crate::driver::iommu::Iommu;
use crate::driver::iotlb::{
    INVALIDATE, LEN, MISS, Message, READ, UPDATE, VERSION_1, VERSION_2, WRITE,
};
use crate::driver::log::DirtyLog;
use crate::driver::memory::GuestMemory;
use crate::driver::ring::Format;
use crate::driver::uapi::{VRING_LOG, VringAddr, feature};
use crate::driver::vhost::{RX, TX, Vhost};
use crate::host::tap::Tap;
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::sys::kcov::Coverage;
use crate::sys::mapping::PAGE;
use crate::wait::Deadline;
use anyhow::{Context as _, Result, anyhow, bail};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The fuzzer.
pub const FUZZER: Fuzzer = Fuzzer {
    name: "messages",
    episode,
    reaches: &[
        "messages taken",
        "misses",
        "messages refused",
        "frames sent",
    ],
};

/// Threads that send.
const THREADS: usize = 2;

/// IO addresses from here on are nobody's, and may be mapped to anywhere.
const UNUSED: u64 = 1 << 32;

/// Addresses of a process where nothing is ever mapped: below the least, and the kernel's.
const UNMAPPED: [u64; 4] = [0, 0x1000, 0xffff_8880_0000_0000, 1 << 63];

/// What the threads of an episode share.
struct Storm<'a> {
    vhost: &'a Vhost,
    memory: &'a GuestMemory,
    /// Guest memory in use: its end.
    end: u64,
    stop: AtomicBool,
}

impl Storm<'_> {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Any page in use, as an IO address.
    fn page(&self, rng: &mut SmallRng) -> u64 {
        let pages = (self.end - GUEST_BASE) / PAGE as u64;
        GUEST_BASE + rng.random_range(0..pages) * PAGE as u64
    }

    /// A mapping of a page in use to what is behind it, or to another, or to what no process has.
    fn update(&self, rng: &mut SmallRng, iova: u64) -> Message {
        let target = match rng.random_range(0..20) {
            0 => self.memory.user(self.page(rng)),
            1 => UNMAPPED.choose(rng).copied().unwrap_or(0),
            _ => self.memory.user(iova),
        };
        let perm = *[
            READ | WRITE,
            READ | WRITE,
            READ | WRITE,
            READ,
            WRITE,
            0,
            0xff,
        ]
        .choose(rng)
        .unwrap_or(&READ);
        Message {
            iova,
            size: PAGE as u64,
            user: target,
            perm,
            kind: UPDATE,
        }
    }

    /// A message of which nothing has to be right, but that it maps no page in use.
    fn wild(&self, rng: &mut SmallRng) -> Message {
        let mut any = || {
            let ends: [u64; 9] = [
                0,
                1,
                PAGE as u64,
                UNUSED,
                1 << 47,
                1 << 63,
                u64::MAX - 4095,
                u64::MAX,
                rng.random(),
            ];
            ends.choose(rng).copied().unwrap_or(0)
        };
        let (iova, size, user) = (any(), any(), any());
        let kind = *[
            0, MISS, UPDATE, UPDATE, UPDATE, INVALIDATE, INVALIDATE, 4, 5, 6, 255,
        ]
        .choose(rng)
        .unwrap_or(&0);
        Message {
            iova: if kind == UPDATE { iova | UNUSED } else { iova },
            size,
            user,
            perm: rng.random::<u8>() & if rng.random() { 3 } else { 0xff },
            kind,
        }
    }

    /// Writes a message in one piece or several, whole or not.
    fn write(&self, rng: &mut SmallRng, bytes: &[u8; LEN]) -> io::Result<usize> {
        let cut = rng.random_range(0..=LEN);
        match rng.random_range(0..20) {
            0 => self.vhost.write(&bytes[..cut]),
            1 => {
                // What follows a message is another, or too much.
                let twice = [&bytes[..], &bytes[..cut]].concat();
                self.vhost.write(&twice)
            }
            2 => {
                let (head, tail) = bytes.split_at(cut);
                self.vhost
                    .write_pieces(&[IoSlice::new(head), IoSlice::new(tail)])
            }
            _ => self.vhost.write(bytes),
        }
    }

    /// Sends messages.
    fn send(&self, mut rng: SmallRng, count: u32) -> Result<Counts> {
        let rng = &mut rng;
        let mut counts = Counts::default();
        let coverage = Coverage::start().context("kcov")?;
        for _ in 0..count {
            let message = match rng.random_range(0..10) {
                0..4 => {
                    let page = self.page(rng);
                    self.update(rng, page)
                }
                4..7 => Message {
                    iova: self.page(rng),
                    size: PAGE as u64 * *[1, 1, 8, 1 << 20].choose(rng).unwrap_or(&1),
                    kind: INVALIDATE,
                    ..Message::default()
                },
                _ => self.wild(rng),
            };
            let version = *[VERSION_1, VERSION_2, VERSION_2, 0, 3, u32::MAX]
                .choose(rng)
                .unwrap_or(&0);
            let mut bytes = message.bytes(version);
            if rng.random_bool(0.1) {
                // What is behind the message, and in its gap, means nothing.
                bytes[4..8].fill(rng.random());
                bytes[34..].fill(rng.random());
            }
            let what = match self.write(rng, &bytes) {
                Ok(_) => "messages taken",
                Err(_) => "messages refused",
            };
            counts.add(what, 1);
            counts.cover(coverage.as_ref());
        }
        Ok(counts)
    }

    /// Reads what the device misses, and answers, most often.
    fn answer(&self, mut rng: SmallRng) -> Result<Counts> {
        let rng = &mut rng;
        let mut counts = Counts::default();
        let coverage = Coverage::start().context("kcov")?;
        while !self.is_over() {
            // Of the round before.
            counts.cover(coverage.as_ref());
            Deadline::after(Duration::from_millis(5)).readable(&[self.vhost.as_fd()])?;
            let (version, miss) = match self.vhost.receive() {
                Ok(message) => message,
                // Nothing came, or translation is off for now.
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock
                        || error.raw_os_error() == Some(libc::EBADFD) =>
                {
                    continue;
                }
                Err(error) => return Err(error).context("read a message"),
            };
            let perms = READ..=READ | WRITE;
            let formed = (VERSION_1..=VERSION_2).contains(&version)
                && miss.kind == MISS
                && (miss.size, miss.user) == (0, 0)
                && perms.contains(&miss.perm);
            if !formed {
                bail!("message of version {version}: {miss:?}");
            }
            counts.add("misses", 1);
            let page = miss.iova / PAGE as u64 * PAGE as u64;
            if !self.memory.contains(page) || rng.random_bool(0.05) {
                continue;
            }
            let mut answer = self.update(rng, page);
            if rng.random_bool(0.9) {
                (answer.user, answer.perm) = (self.memory.user(page), READ | WRITE);
            }
            let version = if rng.random() { VERSION_1 } else { VERSION_2 };
            // Refused while translation is off.
            let _ = self.vhost.send(version, answer);
        }
        counts.cover(coverage.as_ref());
        Ok(counts)
    }
}

/// What the owner's other calls are made on.
struct Owner<'a> {
    device: &'a mut NetDevice,
    log: &'a DirtyLog,
    rng: SmallRng,
    counts: Counts,
}

impl Owner<'_> {
    /// Frames and calls, until the threads that send have ended.
    fn run(&mut self, is_over: impl Fn() -> bool) -> Result<()> {
        let mut bytes = Vec::new();
        let coverage = Coverage::start().context("kcov")?;
        while !is_over() {
            let queue = self.rng.random_range(RX..=TX);
            // The rings go on working, or not; what comes is not looked at.
            self.device.rx_fill()?;
            frame::build(self.rng.random(), 0, 200, &mut bytes);
            let _ = self.device.tx_post(NetHeader::default(), &bytes)?;
            self.device.tx.flush()?;
            self.device.queue(queue).kick.force()?;
            let _ = self.device.peer.send(NetHeader::default(), &bytes);
            self.counts.add("frames sent", drain(&mut self.device.peer));
            self.call(queue)?;
            self.counts.add("operations", 1);
            self.counts.cover(coverage.as_ref());
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// One of the calls about translation and the log, whatever comes of it.
    fn call(&mut self, queue: u32) -> Result<()> {
        let features = self.device.setup.features;
        let vhost = &self.device.vhost;
        let wild = *[0, 1, 0x1000, 1 << 47, 1 << 62, !0, 0xffff_8880_0000_0000]
            .choose(&mut self.rng)
            .unwrap_or(&0);
        let log = self.log.addr();
        let result = match self.rng.random_range(0..40) {
            0 => vhost.set_log_base(wild),
            1..4 => vhost.set_log_base(log),
            4 => vhost.set_log_base(log + self.rng.random_range(0..64)),
            5 => vhost.set_features(features ^ feature::LOG_ALL),
            6 => vhost.set_features(features ^ feature::ACCESS_PLATFORM),
            7..10 => vhost.set_features(features),
            10 => vhost.set_backend_features(
                feature::BACKEND_MSG_V2 * u64::from(self.rng.random::<bool>()),
            ),
            11..14 => {
                let [_, _, used] = self.device.queue(queue).layout.areas();
                let own = VringAddr {
                    flags: VRING_LOG * u32::from(self.rng.random::<bool>()),
                    log: *[used.addr, used.addr, 1 << 62, !3, GUEST_BASE]
                        .choose(&mut self.rng)
                        .unwrap_or(&0),
                    ..address(self.device, queue)
                };
                self.device.vhost.set_addr(own)
            }
            14 => {
                unbind(self.device, self.log, queue)?;
                Ok(())
            }
            15..20 => {
                // Refused while something about the ring or the log is wrong.
                let fd = self.device.tap.number();
                vhost.set_backend(queue, fd)
            }
            20 => {
                unbind(self.device, self.log, queue)?;
                let own = self.device.queue(queue);
                own.ring.reset(0);
                own.forget_buffers()?;
                let base = own.ring.base();
                self.device.vhost.set_base(queue, base)
            }
            _ => return Ok(()),
        };
        let what = if result.is_ok() {
            "calls taken"
        } else {
            "calls refused"
        };
        self.counts.add(what, 1);
        Ok(())
    }
}

fn address(device: &NetDevice, queue: u32) -> VringAddr {
    device.address(if queue == RX { &device.rx } else { &device.tx })
}

/// Unbinds a queue, once its log is right: else the in-tree driver refuses, and ours does not.
fn unbind(device: &NetDevice, log: &DirtyLog, queue: u32) -> Result<()> {
    for queue in [RX, TX] {
        let place = address(device, queue);
        device.vhost.set_addr(place).context("SET_VRING_ADDR")?;
    }
    let base = device.vhost.set_log_base(log.addr());
    base.context("SET_LOG_BASE")?;
    device.unbind(queue)
}

/// Serves the device by an honest IOMMU, with fresh rings on another tap.
fn recover(device: &mut NetDevice, rng: &mut SmallRng) -> Result<()> {
    device.tap = Tap::new("tap1", device.setup.tap())?;
    device.peer = device.setup.peer(device.tap.if_index())?;
    for queue in [RX, TX] {
        let queue = device.queue(queue);
        queue.ring.reset(rng.random());
        queue.forget_buffers()?;
        queue.err.take()?;
    }
    device.configure()?;
    let v2: bool = rng.random();
    device
        .vhost
        .set_backend_features(feature::BACKEND_MSG_V2 * u64::from(v2))?;
    // What is left was asked before the queues were unbound, and perhaps in the other format.
    while device.vhost.receive().is_ok() {}
    let mut iommu = Iommu::start(&device.vhost, &device.memory)?;
    iommu.set_version(if v2 { VERSION_2 } else { VERSION_1 });
    iommu.unmap(0, u64::MAX)?;
    for queue in [RX, TX] {
        iommu.bind(device, queue)?;
    }
    exchange(device, rng.random())?;
    iommu.stop()
}

fn episode(ctx: &Context) -> Result<Counts> {
    let mut rng = SmallRng::seed_from_u64(ctx.seed);
    let messages = rng.random_range(200..2000);
    let mut features = feature::VERSION_1 | feature::ACCESS_PLATFORM;
    for bit in [feature::EVENT_IDX, feature::IN_ORDER, feature::LOG_ALL] {
        if rng.random() {
            features |= bit;
        }
    }
    let format = format(ctx)?;
    features |= format.features();
    let mut setup = Setup::new(features);
    if format == Format::Packed {
        setup.tx_size = 300;
    }
    setup.scattered = true;
    setup.margin = 1;
    let mut device = NetDevice::prepare(&ctx.device, setup, "tap0", false)?;
    let log = DirtyLog::new(UNUSED)?;
    device
        .vhost
        .set_log_base(log.addr())
        .context("SET_LOG_BASE")?;
    let mut iommu = Iommu::start(&device.vhost, &device.memory)?;
    for queue in [RX, TX] {
        iommu.bind(&device, queue)?;
    }
    iommu.stop()?;
    let (vhost, memory) = (device.vhost.duplicate()?, device.memory.clone());
    let (last, len) = device.tx.buffers();
    let storm = Storm {
        vhost: &vhost,
        memory: &memory,
        end: last + len as u64,
        stop: AtomicBool::new(false),
    };
    let mut owner = Owner {
        device: &mut device,
        log: &log,
        rng: SmallRng::from_rng(&mut rng),
        counts: Counts::default(),
    };
    std::thread::scope(|scope| {
        let guard = Stop(&storm.stop);
        let storm = &storm;
        let senders: Vec<_> = (0..THREADS)
            .map(|_| {
                let rng = SmallRng::from_rng(&mut rng);
                scope.spawn(move || storm.send(rng, messages))
            })
            .collect();
        let rng = SmallRng::from_rng(&mut rng);
        let reader = scope.spawn(move || storm.answer(rng));
        owner.run(|| senders.iter().all(|sender| sender.is_finished()))?;
        drop(guard);
        for thread in senders.into_iter().chain([reader]) {
            let counted = thread.join().map_err(|_| anyhow!("a thread panicked"))??;
            owner.counts.merge(&counted);
        }
        anyhow::Ok(())
    })?;
    let mut counts = owner.counts;
    for queue in [RX, TX] {
        unbind(&device, &log, queue)?;
    }
    if format == Format::Packed {
        let frames = counts.get("frames sent");
        counts.add(PACKED, frames);
    }
    device.memory.margins_untouched()?;
    device.memory.spoiled_untouched()?;
    recover(&mut device, &mut rng).with_context(|| format!("recovery, features {features:#x}"))?;
    Ok(counts)
}
