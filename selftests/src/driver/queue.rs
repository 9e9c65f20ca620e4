// SPDX-License-Identifier: GPL-2.0

//! A queue of a device, seen from its driver: ring, notifications and buffers.

use crate::driver::layout::Layout;
use crate::driver::memory::GuestMemory;
use crate::driver::packed::PackedLayout;
use crate::driver::ring::RingDriver;
use crate::driver::setup::{Setup, Shape};
use crate::driver::split::SplitLayout;
use crate::driver::uapi::feature;
use crate::driver::vhost::RX;
use crate::eventfd::EventFd;
use crate::sys::mapping::PAGE;
use anyhow::{Context, Result, ensure};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Buffers of one length, and indirect tables for them.
#[derive(Debug)]
pub(crate) struct Pool {
    addr: u64,
    /// Length of each.
    pub(crate) len: usize,
    tables: Option<(u64, usize)>,
    /// Those that the driver holds.
    pub(crate) free: Vec<u32>,
    count: usize,
}

impl Pool {
    fn new(
        memory: &GuestMemory,
        (count, len): (usize, usize),
        table: usize,
        align: u64,
    ) -> Result<Self> {
        let stride = len.next_multiple_of(64);
        let addr = memory.alloc(count * stride, align.max(64))?;
        let tables = if table > 0 {
            Some((memory.alloc(count * table * 16, align.max(16))?, table))
        } else {
            None
        };
        let mut pool = Self {
            addr,
            len,
            tables,
            free: Vec::new(),
            count,
        };
        pool.reset()?;
        Ok(pool)
    }

    /// Takes all buffers back.
    pub(crate) fn reset(&mut self) -> Result<()> {
        self.free = (0..u32::try_from(self.count)?).rev().collect();
        Ok(())
    }

    /// Guest address of a buffer.
    pub(crate) fn buffer(&self, slot: u32) -> u64 {
        self.addr + u64::from(slot) * self.len.next_multiple_of(64) as u64
    }

    fn table(&self, slot: u32) -> Option<u64> {
        self.tables
            .map(|(addr, entries)| addr + u64::from(slot) * 16 * entries as u64)
    }
}

/// The descriptor that a device is kicked by.
///
/// Drivers kick when the device asks for it, which [`Queue::flush`] does.
#[derive(Debug)]
pub struct Kick(EventFd);

impl Kick {
    /// Makes one that was not kicked so far.
    ///
    /// # Errors
    ///
    /// When the process has too many descriptors.
    pub fn new() -> Result<Self> {
        Ok(Self(EventFd::new()?))
    }

    /// Kicks the device if it has asked for that.
    ///
    /// # Errors
    ///
    /// When the count is at its end.
    pub fn kick_if(&self, wanted: bool) -> Result<()> {
        if wanted { self.0.signal() } else { Ok(()) }
    }

    /// Kicks the device without being asked, which real drivers do not do.
    ///
    /// # Errors
    ///
    /// When the count is at its end.
    pub fn force(&self) -> Result<()> {
        self.0.signal()
    }
}

impl AsFd for Kick {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A queue, its notifications and its buffers.
#[derive(Debug)]
pub struct Queue {
    /// Index towards the device.
    pub index: u32,
    /// The driver's half.
    pub ring: Box<dyn RingDriver>,
    /// Where the ring lies.
    pub layout: Layout,
    /// Signalled when buffers were added and the device wants a kick.
    pub kick: Kick,
    /// Signalled by the device when it has used buffers.
    pub call: EventFd,
    /// Signalled by the device when the queue stops on an error.
    pub err: EventFd,
    /// How often the device asked for a kick and got it.
    pub kicks: u64,
    /// How chains are laid out.
    pub shape: Shape,
    /// Whether chains are used in order.
    pub in_order: bool,
    /// Guest address and length of all that the device says it wrote, if a case collects it.
    pub written: Option<Vec<(u64, u32)>>,
    pub(crate) pool: Pool,
}

impl Queue {
    /// A queue whose ring and buffers lie in `memory`.
    pub(crate) fn new(
        memory: &Arc<GuestMemory>,
        setup: &Setup,
        index: u32,
        size: u16,
        (buffers, shape): ((usize, usize), Shape),
    ) -> Result<Self> {
        // Each part on pages of its own, so that one can be taken away alone.
        let align = if setup.removable { PAGE as u64 } else { 1 };
        memory.alloc(0, align)?;
        let mut layout = Layout::alloc(memory, setup.features, size)?;
        if let Layout::Split(split) = &mut layout {
            split.big_endian = setup.big_endian;
        }
        let table = if shape.indirect { setup.table } else { 0 };
        Ok(Self {
            index,
            ring: layout.driver(memory, setup.features, setup.base),
            layout,
            kick: Kick::new()?,
            call: EventFd::new()?,
            err: EventFd::new()?,
            kicks: 0,
            shape,
            in_order: setup.features & feature::IN_ORDER != 0,
            written: None,
            pool: Pool::new(memory, buffers, table, align)?,
        })
    }

    /// Where the ring lies, for cases that write to a split one behind the driver's back.
    ///
    /// # Panics
    ///
    /// When it is packed: then the case is not about split rings, and must not say that it runs on
    /// them only.
    #[must_use]
    pub fn split(&self) -> SplitLayout {
        match self.layout {
            Layout::Split(layout) => layout,
            Layout::Packed(_) => panic!("a packed ring in a case about split ones"),
        }
    }

    /// As [`Self::split`], for a packed ring.
    ///
    /// # Panics
    ///
    /// When it is split.
    #[must_use]
    pub fn packed(&self) -> PackedLayout {
        match self.layout {
            Layout::Packed(layout) => layout,
            Layout::Split(_) => panic!("a split ring in a case about packed ones"),
        }
    }

    /// Publishes what was added and kicks if the device wants that.
    ///
    /// # Errors
    ///
    /// When the kick fails.
    pub fn flush(&mut self) -> Result<bool> {
        let wanted = self.ring.publish();
        self.kick_if(wanted)
    }

    /// Kicks if the device wants that, for what was published behind the driver's back: the
    /// available index was `old` before.
    ///
    /// # Errors
    ///
    /// When the kick fails.
    pub fn flush_from(&mut self, old: u16) -> Result<bool> {
        let wanted = self.ring.wants_kick(old);
        self.kick_if(wanted)
    }

    fn kick_if(&mut self, wanted: bool) -> Result<bool> {
        self.kicks += u64::from(wanted);
        self.kick.kick_if(wanted)?;
        Ok(wanted)
    }

    /// Prepares for sleep: true if the device has answered already.
    ///
    /// # Errors
    ///
    /// When the call descriptor is broken.
    pub fn arm(&mut self) -> Result<bool> {
        self.call.take()?;
        Ok(self.ring.arm_call(1))
    }

    /// How many buffers the driver holds.
    #[must_use]
    pub fn buffers_free(&self) -> usize {
        self.pool.free.len()
    }

    /// Guest address and length of the memory that holds all buffers.
    #[must_use]
    pub fn buffers(&self) -> (u64, usize) {
        let len = self.pool.count * self.pool.len.next_multiple_of(64);
        (self.pool.addr, len)
    }

    /// Guest address and length of the memory that holds all indirect tables; nothing if there are
    /// none.
    #[must_use]
    pub fn tables(&self) -> (u64, usize) {
        let tables = self.pool.tables.unwrap_or_default();
        (tables.0, self.pool.count * tables.1 * 16)
    }

    /// Guest address of the buffer that the frame after `ahead` others will be posted in.
    ///
    /// # Errors
    ///
    /// When the driver holds no more than `ahead`.
    pub fn buffer_ahead(&self, ahead: usize) -> Result<u64> {
        let slot = self.pool.free.iter().rev().nth(ahead);
        let slot = slot.context("the driver has too few buffers")?;
        Ok(self.pool.buffer(*slot))
    }

    /// Takes all buffers back, for a ring that was replaced by an empty one.
    ///
    /// # Errors
    ///
    /// None in practice.
    pub fn forget_buffers(&mut self) -> Result<()> {
        self.pool.reset()
    }

    /// Adds the chain of a buffer; false if there are too few descriptors.
    pub(crate) fn chain(
        &mut self,
        addr: u64,
        header: usize,
        len: usize,
        slot: u32,
    ) -> Result<bool> {
        let chain = self.shape.segments(addr, header, len, self.index == RX);
        let table = if self.shape.indirect {
            self.pool.table(slot)
        } else {
            None
        };
        let needed = if table.is_some() { 1 } else { chain.len() };
        if needed > self.ring.free() {
            return Ok(false);
        }
        if let Some((_, entries)) = self.pool.tables {
            ensure!(
                chain.len() <= entries,
                "{} segments do not fit an indirect table of {entries}",
                chain.len()
            );
        }
        self.ring.add(&chain, table, slot)?;
        Ok(true)
    }
}
