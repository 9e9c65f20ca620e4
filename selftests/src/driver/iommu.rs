// SPDX-License-Identifier: GPL-2.0

//! An IOMMU for a device: a thread that answers what the device asks, as a hypervisor does.

use crate::driver::device::NetDevice;
use crate::driver::iotlb::{INVALIDATE, MISS, Message, READ, UPDATE, VERSION_1, WRITE};
use crate::driver::memory::GuestMemory;
use crate::driver::vhost::{RX, Vhost};
use crate::eventfd::EventFd;
use crate::wait::Deadline;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The smallest range that is mapped.
pub const PAGE: u64 = 4096;

/// What the thread and the cases share. A mapping is looked up and sent, or changed and
/// invalidated, with this locked, so that the device is never told what is not so any more.
#[derive(Debug)]
struct Table {
    /// The largest range that is mapped at once, a power of two.
    granule: u64,
    /// Rights by page; pages that are not listed may be read and written.
    rights: BTreeMap<u64, u8>,
    /// Whether misses wait.
    held: bool,
    waiting: Vec<Message>,
    misses: Vec<Message>,
    refused: Vec<Message>,
    version: u32,
}

#[derive(Debug)]
struct Shared {
    vhost: Vhost,
    memory: Arc<GuestMemory>,
    stop: EventFd,
    table: Mutex<Table>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rights(&self, table: &Table, page: u64) -> u8 {
        if !self.memory.contains(page * PAGE) {
            return 0;
        }
        table.rights.get(&page).copied().unwrap_or(READ | WRITE)
    }

    /// The mapping of an IO address, extended over its neighbours within the granule that have the
    /// same rights and follow each other in memory.
    fn entry(&self, table: &Table, iova: u64) -> Message {
        let page = iova / PAGE;
        let (rights, user) = (self.rights(table, page), self.memory.user(page * PAGE));
        let alike = |other: &u64| {
            self.rights(table, *other) == rights
                && self
                    .memory
                    .user(other * PAGE)
                    .wrapping_sub(user)
                    .wrapping_add(page * PAGE)
                    == other * PAGE
        };
        let first_of_granule = iova / table.granule * (table.granule / PAGE);
        let last_of_granule = first_of_granule + table.granule / PAGE - 1;
        let before = (first_of_granule..page).rev().take_while(alike).count() as u64;
        let after = (page + 1..=last_of_granule).take_while(alike).count() as u64;
        Message {
            iova: (page - before) * PAGE,
            size: (before + 1 + after) * PAGE,
            user: user - before * PAGE,
            perm: rights,
            kind: UPDATE,
        }
    }

    fn send(&self, table: &Table, message: Message) -> Result<()> {
        self.vhost
            .send(table.version, message)
            .with_context(|| format!("send {message:?}"))
    }

    fn answer(&self, table: &mut Table, miss: Message) -> Result<()> {
        if self.rights(table, miss.iova / PAGE) & miss.perm != miss.perm {
            table.refused.push(miss);
            return Ok(());
        }
        let entry = self.entry(table, miss.iova);
        self.send(table, entry)
    }

    /// Answers until it is stopped.
    fn serve(&self) -> Result<()> {
        loop {
            let fds = [self.vhost.as_fd(), self.stop.as_fd()];
            // Wait without a limit: the case has one of its own.
            Deadline::after(Duration::from_secs(3600)).readable(&fds)?;
            if self.stop.take()? > 0 {
                return Ok(());
            }
            loop {
                let (version, miss) = match self.vhost.receive() {
                    Ok(message) => message,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("read a message"),
                };
                let mut table = self.lock();
                if (version, miss.kind, miss.size, miss.user) != (table.version, MISS, 0, 0) {
                    bail!("message of version {version}: {miss:?}");
                }
                table.misses.push(miss);
                if table.held {
                    table.waiting.push(miss);
                } else {
                    self.answer(&mut table, miss)?;
                }
            }
        }
    }
}

/// A running IOMMU.
#[derive(Debug)]
pub struct Iommu {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Iommu {
    /// Starts one that speaks message version 1 and maps single pages.
    ///
    /// # Errors
    ///
    /// When the process has too many descriptors.
    pub fn start(vhost: &Vhost, memory: &Arc<GuestMemory>) -> Result<Self> {
        let shared = Arc::new(Shared {
            vhost: vhost.duplicate()?,
            memory: memory.clone(),
            stop: EventFd::new()?,
            table: Mutex::new(Table {
                granule: PAGE,
                rights: BTreeMap::new(),
                held: false,
                waiting: Vec::new(),
                misses: Vec::new(),
                refused: Vec::new(),
                version: VERSION_1,
            }),
        });
        vhost.set_blocking(false)?;
        let server = shared.clone();
        let thread = Some(std::thread::spawn(move || server.serve()));
        Ok(Self { shared, thread })
    }

    /// Maps up to `bytes` at once, a power of two.
    pub fn set_granule(&self, bytes: u64) {
        self.shared.lock().granule = bytes;
    }

    /// Uses another message version.
    pub fn set_version(&self, version: u32) {
        self.shared.lock().version = version;
    }

    /// Sends what is behind the pages of a range without being asked.
    ///
    /// # Errors
    ///
    /// When the device refuses.
    pub fn map(&self, iova: u64, len: usize) -> Result<()> {
        let table = self.shared.lock();
        let end = iova + len as u64;
        let mut at = iova;
        while at < end {
            let entry = self.shared.entry(&table, at);
            self.shared.send(&table, entry)?;
            at = entry.iova + entry.size;
        }
        Ok(())
    }

    /// Binds a queue with what only the device writes mapped, as QEMU does: vhost-net accesses it
    /// on binding.
    ///
    /// # Errors
    ///
    /// When the device refuses.
    pub fn bind(&self, device: &NetDevice, index: u32) -> Result<()> {
        let queue = if index == RX { &device.rx } else { &device.tx };
        let [_, _, written] = queue.layout.areas();
        self.map(written.addr, written.len)?;
        device.bind(index)
    }

    /// Takes the mappings of a range away; they are the same when the device asks again.
    ///
    /// # Errors
    ///
    /// When the device refuses.
    pub fn unmap(&self, iova: u64, len: u64) -> Result<()> {
        let table = self.shared.lock();
        self.invalidate(&table, iova, len)
    }

    fn invalidate(&self, table: &Table, iova: u64, size: u64) -> Result<()> {
        let message = Message {
            iova,
            size,
            kind: INVALIDATE,
            ..Message::default()
        };
        self.shared.send(table, message)
    }

    /// Puts another page behind the one at an IO address.
    ///
    /// # Errors
    ///
    /// When the device refuses.
    pub fn move_page(&self, iova: u64) -> Result<()> {
        let table = self.shared.lock();
        self.invalidate(&table, iova / PAGE * PAGE, PAGE)?;
        self.shared.memory.move_page(iova);
        Ok(())
    }

    /// Changes what the device may do with a page.
    ///
    /// # Errors
    ///
    /// When the device refuses.
    pub fn set_rights(&self, iova: u64, rights: u8) -> Result<()> {
        let mut table = self.shared.lock();
        table.rights.insert(iova / PAGE, rights);
        self.invalidate(&table, iova / PAGE * PAGE, PAGE)
    }

    /// Answers no more until [`Self::release`].
    pub fn hold(&self) {
        self.shared.lock().held = true;
    }

    /// The misses that wait for an answer.
    #[must_use]
    pub fn waiting(&self) -> Vec<Message> {
        self.shared.lock().waiting.clone()
    }

    /// Answers what waits, and all that comes.
    ///
    /// # Errors
    ///
    /// When the device refuses.
    pub fn release(&self) -> Result<()> {
        let mut table = self.shared.lock();
        table.held = false;
        for miss in std::mem::take(&mut table.waiting) {
            self.shared.answer(&mut table, miss)?;
        }
        Ok(())
    }

    /// Forgets the misses that wait, as the device has.
    pub fn forget(&self) {
        let mut table = self.shared.lock();
        table.held = false;
        table.waiting.clear();
    }

    /// All misses since the last call.
    #[must_use]
    pub fn take_misses(&self) -> Vec<Message> {
        std::mem::take(&mut self.shared.lock().misses)
    }

    /// The misses that could not be answered, since the last call.
    #[must_use]
    pub fn take_refused(&self) -> Vec<Message> {
        std::mem::take(&mut self.shared.lock().refused)
    }

    /// Ends the thread, if it has not ended; nobody answers from then on.
    ///
    /// # Errors
    ///
    /// What went wrong in it.
    ///
    /// # Panics
    ///
    /// When it did.
    pub fn stop(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.shared.stop.signal()?;
        thread.join().expect("the IOMMU does not panic")
    }
}

impl Drop for Iommu {
    fn drop(&mut self) {
        // A case that ended well has stopped it, and seen its errors.
        let _ = self.stop();
    }
}
