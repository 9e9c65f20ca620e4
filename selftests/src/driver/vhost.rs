// SPDX-License-Identifier: GPL-2.0

//! The ioctls of a vhost-net device, typed.

use crate::driver::uapi::{self, MemoryRegion, VringAddr, VringFile, VringState};
use crate::sys::ioctl::{BadPointer, Request, call, call_bad, call_none, call_raw};
use crate::sys::mapping::Mapping;
use anyhow::{Context, Result};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The queue that carries frames to the guest.
pub const RX: u32 = 0;
/// The queue that carries frames from the guest.
pub const TX: u32 = 1;

/// An open vhost device.
///
/// Methods answer the bare [`io::Error`], so that cases can compare its number.
#[derive(Debug)]
pub struct Vhost(OwnedFd);

impl Vhost {
    /// Opens the device node.
    ///
    /// # Errors
    ///
    /// When it is missing, or the kernel has no memory.
    pub fn open(path: &Path) -> Result<Self> {
        let file: File = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .with_context(|| format!("open {}", path.display()))?;
        Ok(Self(file.into()))
    }

    /// Takes an inherited descriptor of a device.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Opens the device node and becomes its owner.
    ///
    /// # Errors
    ///
    /// As [`Self::open`], or when ownership is refused.
    pub fn owned(path: &Path) -> Result<Self> {
        let vhost = Self::open(path)?;
        vhost.set_owner().context("SET_OWNER")?;
        Ok(vhost)
    }

    fn set<T: Copy>(&self, request: Request<T>, mut value: T) -> io::Result<()> {
        call(self.as_fd(), request, &mut value).map(|_| ())
    }

    fn get<T: Copy>(&self, request: Request<T>, mut value: T) -> io::Result<T> {
        call(self.as_fd(), request, &mut value)?;
        Ok(value)
    }

    /// Becomes the owner.
    ///
    /// # Errors
    ///
    /// `EBUSY` when there is one.
    pub fn set_owner(&self) -> io::Result<()> {
        call_none(self.as_fd(), uapi::SET_OWNER).map(|_| ())
    }

    /// Returns the device to its state after opening.
    ///
    /// # Errors
    ///
    /// `EPERM` for others than the owner.
    pub fn reset_owner(&self) -> io::Result<()> {
        call_none(self.as_fd(), uapi::RESET_OWNER).map(|_| ())
    }

    /// The offered feature bits below 64.
    ///
    /// # Errors
    ///
    /// None expected.
    pub fn features(&self) -> io::Result<u64> {
        self.get(uapi::GET_FEATURES, 0)
    }

    /// Accepts feature bits.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` for bits that are not offered.
    pub fn set_features(&self, features: u64) -> io::Result<()> {
        self.set(uapi::SET_FEATURES, features)
    }

    /// Accepts feature bits, 64 in each word.
    ///
    /// # Errors
    ///
    /// As [`Self::set_features`].
    pub fn set_features_array(&self, words: &[u64]) -> io::Result<()> {
        let map = Mapping::new(8 + 8 * words.len())?;
        map.write(0, &(words.len() as u64).to_ne_bytes());
        for (i, word) in words.iter().enumerate() {
            map.write(8 + 8 * i, &word.to_ne_bytes());
        }
        self.raw(uapi::SET_FEATURES_ARRAY.number(), &map, 0)
    }

    /// The offered backend features.
    ///
    /// # Errors
    ///
    /// None expected.
    pub fn backend_features(&self) -> io::Result<u64> {
        self.get(uapi::GET_BACKEND_FEATURES, 0)
    }

    /// Accepts backend features.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` for bits that are not offered.
    pub fn set_backend_features(&self, features: u64) -> io::Result<()> {
        self.set(uapi::SET_BACKEND_FEATURES, features)
    }

    /// Replaces the memory table.
    ///
    /// # Errors
    ///
    /// `E2BIG` for too many regions, `EFAULT` for one that wraps.
    pub fn set_memory(&self, regions: &[MemoryRegion]) -> io::Result<()> {
        self.set_memory_padded(regions, 0)
    }

    /// Replaces the memory table, with a value for the padding that must be zero.
    ///
    /// # Errors
    ///
    /// As [`Self::set_memory`], and `EOPNOTSUPP` for padding.
    pub fn set_memory_padded(&self, regions: &[MemoryRegion], padding: u32) -> io::Result<()> {
        self.set_memory_from(&memory_table(regions, padding)?)
    }

    /// Replaces the memory table by what `table` holds.
    ///
    /// # Errors
    ///
    /// As [`Self::set_memory_padded`].
    pub fn set_memory_from(&self, table: &Mapping) -> io::Result<()> {
        self.raw(uapi::SET_MEM_TABLE.number(), table, 0)
    }

    /// Places the dirty log, an address of the process.
    ///
    /// # Errors
    ///
    /// `EFAULT` for what cannot be written, if a bound queue logs.
    pub fn set_log_base(&self, address: u64) -> io::Result<()> {
        self.set(uapi::SET_LOG_BASE, address)
    }

    /// Sets the descriptor that is called when something was logged, -1 for none.
    ///
    /// # Errors
    ///
    /// `EBADF` or `EINVAL` for what is no event descriptor.
    pub fn set_log_fd(&self, fd: i32) -> io::Result<()> {
        self.set(uapi::SET_LOG_FD, fd)
    }

    /// Sets the ring size.
    ///
    /// # Errors
    ///
    /// `EINVAL` for what is no power of two, `EBUSY` with a backend.
    pub fn set_num(&self, index: u32, num: u32) -> io::Result<()> {
        self.set(uapi::SET_VRING_NUM, VringState { index, num })
    }

    /// Sets the index at which the device goes on.
    ///
    /// # Errors
    ///
    /// `EINVAL` beyond 16 bits, `EBUSY` with a backend.
    pub fn set_base(&self, index: u32, num: u32) -> io::Result<()> {
        self.set(uapi::SET_VRING_BASE, VringState { index, num })
    }

    /// The index at which the device goes on.
    ///
    /// # Errors
    ///
    /// `ENOBUFS` for a queue that is not there.
    pub fn base(&self, index: u32) -> io::Result<u32> {
        Ok(self
            .get(
                uapi::GET_VRING_BASE,
                VringState {
                    index,
                    num: u32::MAX,
                },
            )?
            .num)
    }

    /// Sets the byte order of a legacy ring: 0 for little-endian, 1 for big-endian.
    ///
    /// # Errors
    ///
    /// `EINVAL` for another number, `EBUSY` with a backend, `ENOTTY` where it is not served.
    pub fn set_endian(&self, index: u32, num: u32) -> io::Result<()> {
        self.set(uapi::SET_VRING_ENDIAN, VringState { index, num })
    }

    /// The byte order of a legacy ring.
    ///
    /// # Errors
    ///
    /// `ENOTTY` where it is not served.
    pub fn endian(&self, index: u32) -> io::Result<u32> {
        let num = u32::MAX;
        Ok(self
            .get(uapi::GET_VRING_ENDIAN, VringState { index, num })?
            .num)
    }

    /// Sets how long a queue waits for more without sleep, in microseconds.
    ///
    /// # Errors
    ///
    /// `ENOBUFS` for a queue that the device has not.
    pub fn set_busy_timeout(&self, index: u32, num: u32) -> io::Result<()> {
        self.set(uapi::SET_VRING_BUSYLOOP_TIMEOUT, VringState { index, num })
    }

    /// How long a queue waits for more without sleep, in microseconds.
    ///
    /// # Errors
    ///
    /// `ENOBUFS` for a queue that the device has not.
    pub fn busy_timeout(&self, index: u32) -> io::Result<u32> {
        let num = u32::MAX;
        let request = uapi::GET_VRING_BUSYLOOP_TIMEOUT;
        Ok(self.get(request, VringState { index, num })?.num)
    }

    /// Places the ring.
    ///
    /// # Errors
    ///
    /// `EINVAL` when misaligned, `EOPNOTSUPP` for unknown flags.
    pub fn set_addr(&self, address: VringAddr) -> io::Result<()> {
        self.set(uapi::SET_VRING_ADDR, address)
    }

    /// Sets the descriptor on which kicks arrive.
    ///
    /// # Errors
    ///
    /// `EBADF` or `EINVAL` for what is no event descriptor.
    pub fn set_kick(&self, index: u32, fd: i32) -> io::Result<()> {
        self.set(uapi::SET_VRING_KICK, VringFile { index, fd })
    }

    /// Sets the descriptor that is called on used buffers.
    ///
    /// # Errors
    ///
    /// As [`Self::set_kick`].
    pub fn set_call(&self, index: u32, fd: i32) -> io::Result<()> {
        self.set(uapi::SET_VRING_CALL, VringFile { index, fd })
    }

    /// Sets the descriptor that is called when the queue stops on a guest error.
    ///
    /// # Errors
    ///
    /// As [`Self::set_kick`].
    pub fn set_err(&self, index: u32, fd: i32) -> io::Result<()> {
        self.set(uapi::SET_VRING_ERR, VringFile { index, fd })
    }

    /// Starts another worker; its id.
    ///
    /// # Errors
    ///
    /// `ENOMEM` or `ENOSPC` when there cannot be more, `EFAULT` if workers are kernel threads.
    pub fn new_worker(&self) -> io::Result<u32> {
        self.get(uapi::NEW_WORKER, u32::MAX)
    }

    /// Stops a worker.
    ///
    /// # Errors
    ///
    /// `ENODEV` for an unknown one, `EBUSY` for one that a queue is attached to.
    pub fn free_worker(&self, id: u32) -> io::Result<()> {
        self.set(uapi::FREE_WORKER, id)
    }

    /// Gives a queue another worker.
    ///
    /// # Errors
    ///
    /// `ENODEV` for an unknown one.
    pub fn attach_worker(&self, index: u32, id: u32) -> io::Result<()> {
        self.set(uapi::ATTACH_VRING_WORKER, VringState { index, num: id })
    }

    /// The worker of a queue.
    ///
    /// # Errors
    ///
    /// `ENOBUFS` for a queue that is not there.
    pub fn worker(&self, index: u32) -> io::Result<u32> {
        let num = u32::MAX;
        Ok(self
            .get(uapi::GET_VRING_WORKER, VringState { index, num })?
            .num)
    }

    /// Whether workers are threads of the owner (1) or of the kernel (0), before there is an owner.
    ///
    /// # Errors
    ///
    /// `EINVAL` for another value, `EBUSY` with an owner.
    pub fn set_fork_from_owner(&self, value: u8) -> io::Result<()> {
        self.set(uapi::SET_FORK_FROM_OWNER, value)
    }

    /// What [`Self::set_fork_from_owner`] set.
    ///
    /// # Errors
    ///
    /// None expected.
    pub fn fork_from_owner(&self) -> io::Result<u8> {
        self.get(uapi::GET_FORK_FROM_OWNER, u8::MAX)
    }

    /// Binds a queue to a tap or socket, -1 unbinds.
    ///
    /// # Errors
    ///
    /// `ENOTSOCK` for what is neither, `EFAULT` before the ring is set up.
    pub fn set_backend(&self, index: u32, fd: i32) -> io::Result<()> {
        self.set(uapi::NET_SET_BACKEND, VringFile { index, fd })
    }

    /// Writes a message about IO addresses, which may lie in pieces.
    ///
    /// # Errors
    ///
    /// `EINVAL` for what is no message, `EFAULT` for one that cannot be followed.
    pub fn write_pieces(&self, from: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match from {
            // A system call of its own, which reaches the device even with nothing to write.
            [single] => Ok(rustix::io::write(self, single)?),
            several => Ok(rustix::io::writev(self, several)?),
        }
    }

    /// Issues any ioctl on raw memory.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn raw(&self, number: u64, map: &Mapping, offset: usize) -> io::Result<()> {
        call_raw(self.as_fd(), number, map, offset).map(|_| ())
    }

    /// Issues any ioctl on an address that is not the process's.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn bad(&self, number: u64, pointer: BadPointer) -> io::Result<()> {
        call_bad(self.as_fd(), number, pointer).map(|_| ())
    }
}

/// Lays out a memory table as the kernel reads it.
///
/// # Errors
///
/// When there is no memory for it.
pub fn memory_table(regions: &[MemoryRegion], padding: u32) -> io::Result<Mapping> {
    let count = u32::try_from(regions.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = Vec::with_capacity(8 + regions.len() * 32);
    bytes.extend(count.to_ne_bytes());
    bytes.extend(padding.to_ne_bytes());
    for region in regions {
        for word in [region.guest, region.size, region.user, region.padding] {
            bytes.extend(word.to_ne_bytes());
        }
    }
    let table = Mapping::new(bytes.len())?;
    table.write(0, &bytes);
    Ok(table)
}

impl AsFd for Vhost {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
