// SPDX-License-Identifier: GPL-2.0

//! A whole network device: memory, two queues, a tap, and a peer on its other end.

use crate::driver::memory::GuestMemory;
use crate::driver::node::Node;
use crate::driver::queue::{Kick, Queue};
pub use crate::driver::setup::{GUEST_BASE, Setup, Shape};
use crate::driver::uapi::{MemoryRegion, VringAddr, feature};
use crate::driver::vhost::{RX, TX, Vhost};
use crate::host::peer::Peer;
use crate::host::tap::{Tap, TapConfig};
use crate::host::wire::Wire;
use crate::packet::header::NetHeader;
use crate::sys::mapping::Mapping;
use anyhow::{Context, Result, bail};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

/// A device that moves frames between guest memory and a tap.
#[derive(Debug)]
pub struct NetDevice {
    /// The device node.
    pub vhost: Vhost,
    /// Guest memory.
    pub memory: Arc<GuestMemory>,
    /// The receive queue.
    pub rx: Queue,
    /// The transmit queue.
    pub tx: Queue,
    /// The backend; most often a tap.
    pub tap: Tap,
    /// The other end of the wire.
    pub peer: Peer,
    /// What it was made from.
    pub setup: Setup,
}

impl NetDevice {
    /// Makes a device on a new tap `tap0` and starts both queues.
    ///
    /// # Errors
    ///
    /// When anything on the way fails.
    pub fn start(node: &Node, setup: Setup) -> Result<Self> {
        let device = Self::prepare(node, setup, "tap0", false)?;
        device.bind(RX)?;
        device.bind(TX)?;
        Ok(device)
    }

    /// Makes a device on the tap `name`, with everything set up but the backend.
    ///
    /// # Errors
    ///
    /// When anything on the way fails.
    pub fn prepare(node: &Node, setup: Setup, name: &str, multiqueue: bool) -> Result<Self> {
        let setup = node.fit(setup);
        let config = TapConfig {
            multiqueue,
            ..setup.tap()
        };
        let tap = Tap::new(name, config)?;
        let peer = setup.peer(tap.if_index())?;
        Self::on(node, setup, tap, peer)
    }

    /// Makes a device on a wire and starts both queues.
    ///
    /// # Errors
    ///
    /// When anything on the way fails.
    pub fn start_on(node: &Node, wire: &Wire, setup: Setup) -> Result<Self> {
        let setup = node.fit(setup);
        let tap = wire.backend(setup.tap())?;
        let peer = setup.peer(wire.far_index()?)?;
        let device = Self::on(node, setup, tap, peer)?;
        device.bind(RX)?;
        device.bind(TX)?;
        Ok(device)
    }

    /// Makes a device on a backend, with everything set up but that.
    ///
    /// # Errors
    ///
    /// When the device refuses.
    pub fn on(node: &Node, setup: Setup, tap: Tap, peer: Peer) -> Result<Self> {
        let setup = node.fit(setup);
        let memory = setup.memory()?;
        let rx = (setup.rx_buffers, setup.rx_shape);
        let tx = (setup.tx_buffers, setup.tx_shape);
        let device = Self {
            vhost: node.owned()?,
            rx: Queue::new(&memory, &setup, RX, setup.rx_size, rx)?,
            tx: Queue::new(&memory, &setup, TX, setup.tx_size, tx)?,
            memory,
            tap,
            peer,
            setup,
        };
        device.configure()?;
        Ok(device)
    }

    /// Hands features, memory and both rings to the device, as after taking ownership.
    ///
    /// # Errors
    ///
    /// When the device refuses.
    pub fn configure(&self) -> Result<()> {
        let (low, high) = (self.setup.features, self.setup.more_features);
        if high == 0 {
            self.vhost.set_features(low).context("SET_FEATURES")?;
        } else {
            self.vhost
                .set_features_array(&[low, high])
                .context("SET_FEATURES_ARRAY")?;
        }
        self.vhost
            .set_memory(&self.memory.table())
            .context("SET_MEM_TABLE")?;
        for queue in [&self.rx, &self.tx] {
            if self.setup.big_endian {
                let set = self.vhost.set_endian(queue.index, 1);
                set.context("SET_VRING_ENDIAN")?;
            }
            self.place(queue)?;
        }
        Ok(())
    }

    /// Where a ring is: addresses of the process, or IO addresses if there is an IOMMU.
    #[must_use]
    pub fn address(&self, queue: &Queue) -> VringAddr {
        let index = queue.index;
        if self.setup.features & feature::ACCESS_PLATFORM == 0 {
            return VringAddr {
                index,
                ..queue.ring.place()
            };
        }
        VringAddr {
            index,
            ..queue.layout.io_place()
        }
    }

    /// Adds a region of guest memory that only the device knows of.
    ///
    /// # Errors
    ///
    /// When the device refuses.
    pub fn plug(&self, guest: u64, map: &Mapping) -> Result<()> {
        let mut table = self.memory.table();
        table.push(MemoryRegion {
            guest,
            size: map.len() as u64,
            user: map.addr() as u64,
            padding: 0,
        });
        self.vhost.set_memory(&table).context("SET_MEM_TABLE")
    }

    /// Hands a ring to the device.
    fn place(&self, queue: &Queue) -> Result<()> {
        let index = queue.index;
        self.vhost
            .set_num(index, u32::from(queue.ring.size()))
            .context("SET_VRING_NUM")?;
        self.vhost
            .set_base(index, queue.ring.base())
            .context("SET_VRING_BASE")?;
        self.vhost
            .set_addr(self.address(queue))
            .context("SET_VRING_ADDR")?;
        self.vhost
            .set_call(index, queue.call.as_fd().as_raw_fd())
            .context("SET_VRING_CALL")?;
        self.vhost
            .set_err(index, queue.err.as_fd().as_raw_fd())
            .context("SET_VRING_ERR")?;
        self.vhost
            .set_kick(index, queue.kick.as_fd().as_raw_fd())
            .context("SET_VRING_KICK")
    }

    /// Hands another descriptor to kick to the device.
    ///
    /// # Errors
    ///
    /// When the device refuses.
    pub fn new_kick(&mut self, index: u32) -> Result<()> {
        let kick = Kick::new()?;
        self.vhost
            .set_kick(index, kick.as_fd().as_raw_fd())
            .context("SET_VRING_KICK")?;
        self.queue(index).kick = kick;
        Ok(())
    }

    /// Binds a queue to the tap.
    ///
    /// # Errors
    ///
    /// When the device refuses.
    pub fn bind(&self, index: u32) -> Result<()> {
        self.vhost
            .set_backend(index, self.tap.number())
            .context("NET_SET_BACKEND")
    }

    /// Unbinds a queue.
    ///
    /// # Errors
    ///
    /// When the device refuses, which it must not.
    pub fn unbind(&self, index: u32) -> Result<()> {
        self.vhost
            .set_backend(index, -1)
            .context("NET_SET_BACKEND to -1")
    }

    /// The queue of that index.
    pub fn queue(&mut self, index: u32) -> &mut Queue {
        if index == RX {
            &mut self.rx
        } else {
            &mut self.tx
        }
    }

    /// Unbinds, empties and binds a queue, as a driver does that resets a broken one; it starts
    /// where
    /// `count` chains of one descriptor lead to.
    ///
    /// # Errors
    ///
    /// When the device refuses.
    pub fn reset_queue(&mut self, index: u32, count: u16) -> Result<()> {
        self.unbind(index)?;
        let queue = self.queue(index);
        queue.ring.reset(count);
        queue.pool.reset()?;
        queue.err.take()?;
        let base = queue.ring.base();
        self.vhost.set_base(index, base).context("SET_VRING_BASE")?;
        self.bind(index)
    }

    /// Posts a frame for transmission; false if there is no room.
    ///
    /// # Errors
    ///
    /// When the frame is longer than a buffer.
    pub fn tx_post(&mut self, header: NetHeader, frame: &[u8]) -> Result<bool> {
        let size = self.setup.header();
        let len = size + frame.len();
        if len > self.tx.pool.len {
            bail!("a frame of {} bytes does not fit its buffer", frame.len());
        }
        let Some(&slot) = self.tx.pool.free.last() else {
            return Ok(false);
        };
        let addr = self.tx.pool.buffer(slot);
        self.memory.write(addr, &header.bytes()[..size]);
        self.memory.write(addr + size as u64, frame);
        let posted = self.tx.chain(addr, size, len, slot)?;
        if posted {
            self.tx.pool.free.pop();
        }
        Ok(posted)
    }

    /// Takes back transmitted buffers, and tells how many.
    ///
    /// # Errors
    ///
    /// When the device broke a rule.
    pub fn tx_reap(&mut self) -> Result<usize> {
        let mut count = 0;
        while let Some(used) = self.tx.ring.poll()? {
            if used.len != 0 {
                bail!(
                    "the device claims to have written {} bytes of a sent frame",
                    used.len
                );
            }
            self.tx.pool.free.push(used.token);
            count += 1;
        }
        Ok(count)
    }

    /// Posts one receive buffer; false if there is no room.
    ///
    /// # Errors
    ///
    /// When the ring refuses.
    pub fn rx_post(&mut self) -> Result<bool> {
        let Some(&slot) = self.rx.pool.free.last() else {
            return Ok(false);
        };
        let addr = self.rx.pool.buffer(slot);
        let (header, len) = (self.setup.header(), self.rx.pool.len);
        // What the device does not write must not look like a frame.
        self.memory.fill(addr, header.min(len), 0xa5);
        let posted = self.rx.chain(addr, header, len, slot)?;
        if posted {
            self.rx.pool.free.pop();
        }
        Ok(posted)
    }

    /// Posts all free receive buffers.
    ///
    /// # Errors
    ///
    /// As [`Self::rx_post`].
    pub fn rx_fill(&mut self) -> Result<()> {
        while self.rx_post()? {}
        Ok(())
    }

    /// Takes the next received frame into `frame`, over as many buffers as it has.
    ///
    /// # Errors
    ///
    /// When the device broke a rule, or a frame arrived in part.
    pub fn rx_take(&mut self, frame: &mut Vec<u8>) -> Result<Option<NetHeader>> {
        let Some(first) = self.rx.ring.poll()? else {
            return Ok(None);
        };
        let size = self.setup.header();
        frame.clear();
        self.rx_append(first.token, first.len, frame)?;
        let mut parts = 1;
        // In the longer headers of legacy devices the field is there, but nobody writes it.
        let counted = self.setup.features & (feature::MRG_RXBUF | feature::VERSION_1) != 0;
        let big_endian = self.setup.big_endian;
        let announce = |frame: &[u8]| {
            if counted {
                Some(usize::from(header(big_endian, frame.get(..size)?).num_buffers).max(1))
            } else {
                Some(1)
            }
        };
        let mut announced = announce(frame);
        while parts < announced.unwrap_or(usize::MAX) {
            let Some(next) = self.rx.ring.poll()? else {
                bail!("{parts} buffers of a frame of {announced:?} published")
            };
            self.rx_append(next.token, next.len, frame)?;
            parts += 1;
            announced = announced.or_else(|| announce(frame));
        }
        if frame.len() < size {
            bail!(
                "a received frame of {} bytes is shorter than its header",
                frame.len()
            );
        }
        let header = header(big_endian, &frame[..size]);
        frame.drain(..size);
        Ok(Some(header))
    }

    fn rx_append(&mut self, slot: u32, len: u32, frame: &mut Vec<u8>) -> Result<()> {
        if let Some(written) = &mut self.rx.written {
            written.push((self.rx.pool.buffer(slot), len));
        }
        let len = usize::try_from(len)?;
        if len > self.rx.pool.len {
            bail!("{len} bytes written to a buffer of {}", self.rx.pool.len);
        }
        let start = frame.len();
        frame.resize(start + len, 0);
        self.memory
            .read(self.rx.pool.buffer(slot), &mut frame[start..]);
        self.rx.pool.free.push(slot);
        Ok(())
    }

    /// A second descriptor of the tap.
    ///
    /// # Errors
    ///
    /// When the process has too many descriptors.
    pub fn tap_duplicate(&self) -> Result<OwnedFd> {
        self.tap.duplicate()
    }
}

/// The header in front of a received frame. Only the number of buffers is the device's own word; in
/// what order the rest is, is between driver and tap.
fn header(big_endian: bool, bytes: &[u8]) -> NetHeader {
    let mut header = NetHeader::parse(bytes);
    if big_endian {
        header.num_buffers = header.num_buffers.swap_bytes();
    }
    header
}
