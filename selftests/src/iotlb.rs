// SPDX-License-Identifier: GPL-2.0

//! The owner of a device with an IOTLB: it translates addresses when it is asked to.

use crate::device::NetDevice;
use crate::eventfd::EventFd;
use crate::sys::mapping::PAGE;
use crate::uapi::MemoryRegion;
use crate::uapi::message::{self, IotlbMessage};
use crate::vhost::Vhost;
use crate::wait::{Deadline, is_readable};
use anyhow::{Context, Result, bail};
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// What a device may access, known to its owner but not to the device.
#[derive(Debug)]
pub struct Iotlb {
    vhost: Vhost,
    ranges: Vec<MemoryRegion>,
    format: u32,
}

impl Iotlb {
    /// All of a device's memory: at guest addresses, and, for rings, at those of the process.
    /// Messages are written in `format`.
    ///
    /// # Errors
    ///
    /// When the process has too many descriptors.
    pub fn new(device: &NetDevice, format: u32) -> Result<Self> {
        let mut ranges = device.memory.table();
        let rings = ranges.iter().map(|region| MemoryRegion {
            guest: region.user,
            ..*region
        });
        ranges.extend(rings.collect::<Vec<_>>());
        Ok(Self {
            vhost: Vhost::from_fd(device.vhost.as_fd().try_clone_to_owned()?),
            ranges,
            format,
        })
    }

    fn send(&self, message: IotlbMessage) -> io::Result<()> {
        let bytes = message.bytes(self.format);
        let sent = self.vhost.send(&[IoSlice::new(&bytes)])?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Lets the device access `size` bytes from `user` as `iova`.
    ///
    /// # Errors
    ///
    /// `EFAULT` when the device has no IOTLB, or the range is not the process's.
    pub fn map(&self, iova: u64, size: u64, user: u64, perm: u8) -> io::Result<()> {
        self.send(IotlbMessage {
            iova,
            size,
            user,
            perm,
            kind: message::UPDATE,
        })
    }

    /// Takes away what is mapped in `size` bytes from `iova`.
    ///
    /// # Errors
    ///
    /// `EFAULT` when the device has no IOTLB.
    pub fn unmap(&self, iova: u64, size: u64) -> io::Result<()> {
        self.send(IotlbMessage {
            iova,
            size,
            user: 0,
            perm: 0,
            kind: message::INVALIDATE,
        })
    }

    /// Takes away everything.
    ///
    /// # Errors
    ///
    /// As [`Self::unmap`].
    pub fn unmap_all(&self) -> Result<()> {
        for range in &self.ranges {
            self.unmap(range.guest, range.size).context("invalidate")?;
        }
        Ok(())
    }

    /// Maps the page of `iova`, for reading and writing.
    ///
    /// # Errors
    ///
    /// When it is none of the device's memory, or the device refuses.
    pub fn map_page(&self, iova: u64) -> Result<()> {
        let page = iova & !(PAGE as u64 - 1);
        let range = self.ranges.iter().find(|range| {
            page.checked_sub(range.guest)
                .is_some_and(|offset| offset < range.size)
        });
        let Some(range) = range else {
            bail!("the device misses {iova:#x}, which is not its memory");
        };
        let user = range.user + (page - range.guest);
        self.map(page, PAGE as u64, user, message::READ_WRITE)
            .context("update")
    }

    /// The next miss and its format, waiting for it until the deadline.
    ///
    /// # Errors
    ///
    /// When none comes, or what comes is none.
    pub fn next_miss(&self, deadline: Deadline) -> Result<(u32, IotlbMessage)> {
        if !deadline.readable(&[&self.vhost])? {
            bail!("waited in vain for a miss");
        }
        let mut bytes = [0xa5; message::BYTES];
        let read = self.vhost.receive(&mut bytes).context("read a miss")?;
        if read != bytes.len() {
            bail!("{read} bytes of a message");
        }
        let (format, miss) = IotlbMessage::parse(&bytes);
        // What has no meaning is zero: no more than the message leaves the kernel.
        if miss.kind != message::MISS || bytes != miss.bytes(format) {
            bail!("not a miss: {bytes:02x?}");
        }
        Ok((format, miss))
    }

    /// Starts queue `index`, with a page for each miss that this takes.
    ///
    /// # Errors
    ///
    /// When the device refuses without a miss.
    pub fn bind(&self, device: &NetDevice, index: u32) -> Result<()> {
        while let Err(error) = device.bind(index) {
            if !is_readable(&self.vhost)? {
                return Err(error);
            }
            let (_, miss) = self.next_miss(Deadline::patient())?;
            self.map_page(miss.iova)?;
        }
        Ok(())
    }
}

/// A thread that answers misses until it is stopped.
#[derive(Debug)]
pub struct Answers {
    thread: JoinHandle<Result<u64>>,
    stop: Arc<EventFd>,
}

impl Answers {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When the process has too many descriptors.
    pub fn start(iotlb: Arc<Iotlb>) -> Result<Self> {
        let stop = Arc::new(EventFd::new()?);
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut count = 0;
            let wait = Deadline::after(Duration::from_secs(600));
            while wait.readable(&[iotlb.vhost.as_fd(), stopped.as_fd()])? {
                if is_readable(&iotlb.vhost)? {
                    let (_, miss) = iotlb.next_miss(Deadline::patient())?;
                    iotlb.map_page(miss.iova)?;
                    count += 1;
                } else {
                    break;
                }
            }
            Ok(count)
        });
        Ok(Self { thread, stop })
    }

    /// Stops the thread; how many misses it has answered.
    ///
    /// # Errors
    ///
    /// When the device broke a rule.
    pub fn stop(self) -> Result<u64> {
        self.stop.signal()?;
        match self.thread.join() {
            Ok(count) => count,
            Err(_) => bail!("the answering thread panicked"),
        }
    }
}
