// SPDX-License-Identifier: GPL-2.0

//! IOTLB messages, which are read from and written to the device (`struct vhost_iotlb_msg`).

use crate::driver::vhost::Vhost;
use std::io;
use std::os::fd::AsFd;

/// `VHOST_IOTLB_MSG`.
pub const VERSION_1: u32 = 1;
/// `VHOST_IOTLB_MSG_V2`.
pub const VERSION_2: u32 = 2;
/// `VHOST_BACKEND_F_IOTLB_MSG_V2` as a mask: messages have version 2.
pub const BACKEND_MSG_V2: u64 = 1 << 1;
/// The bytes of a message, in either version.
pub const LEN: usize = 72;

/// The device may read.
pub const READ: u8 = 1;
/// The device may write.
pub const WRITE: u8 = 2;

/// The device found no mapping.
pub const MISS: u8 = 1;
/// Here is a mapping.
pub const UPDATE: u8 = 2;
/// These mappings are no more.
pub const INVALIDATE: u8 = 3;
/// An access that failed; no kernel sends or takes it.
pub const ACCESS_FAIL: u8 = 4;

/// A message without its version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// IO address.
    pub iova: u64,
    /// Length in bytes.
    pub size: u64,
    /// Address of the process.
    pub user: u64,
    /// [`READ`], [`WRITE`] or both.
    pub perm: u8,
    /// [`MISS`], [`UPDATE`], [`INVALIDATE`] or [`ACCESS_FAIL`].
    pub kind: u8,
}

impl Message {
    /// Maps `size` bytes from `iova` on to `user`, for reading and writing.
    #[must_use]
    pub const fn update(iova: u64, size: u64, user: u64) -> Self {
        Self {
            iova,
            size,
            user,
            perm: READ | WRITE,
            kind: UPDATE,
        }
    }

    /// The message as it is written, padding zero.
    #[must_use]
    pub fn bytes(&self, version: u32) -> [u8; LEN] {
        let mut out = [0; LEN];
        out[..4].copy_from_slice(&version.to_ne_bytes());
        out[8..16].copy_from_slice(&self.iova.to_ne_bytes());
        out[16..24].copy_from_slice(&self.size.to_ne_bytes());
        out[24..32].copy_from_slice(&self.user.to_ne_bytes());
        out[32] = self.perm;
        out[33] = self.kind;
        out
    }

    /// Reads a message and its version.
    ///
    /// # Errors
    ///
    /// `InvalidData` when it has any byte that means nothing and is not zero.
    pub fn parse(bytes: &[u8; LEN]) -> io::Result<(u32, Self)> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(word)
        };
        let version = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let message = Self {
            iova: word(8),
            size: word(16),
            user: word(24),
            perm: bytes[32],
            kind: bytes[33],
        };
        if message.bytes(version) == *bytes {
            Ok((version, message))
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}

impl Vhost {
    /// Writes any bytes to the device, and answers how many it took.
    ///
    /// # Errors
    ///
    /// `EINVAL` for what is no message, `EFAULT` for one that cannot be followed.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(self.as_fd(), bytes)?)
    }

    /// Reads from the device, and answers how many bytes.
    ///
    /// # Errors
    ///
    /// `EAGAIN` without a message if the descriptor does not block, `EBADFD` without an IOTLB.
    pub fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.as_fd(), bytes)?)
    }

    /// Sends a message.
    ///
    /// # Errors
    ///
    /// As [`Self::write`], and `WriteZero` when it is taken in part.
    pub fn send(&self, version: u32, message: Message) -> io::Result<()> {
        if self.write(&message.bytes(version))? == LEN {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Receives the next message and its version.
    ///
    /// # Errors
    ///
    /// As [`Self::read`] and [`Message::parse`].
    pub fn receive(&self) -> io::Result<(u32, Message)> {
        let mut bytes = [0xff; LEN];
        if self.read(&mut bytes)? != LEN {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Message::parse(&bytes)
    }

    /// A second descriptor of the same device.
    ///
    /// # Errors
    ///
    /// When the process has too many descriptors.
    pub fn duplicate(&self) -> io::Result<Self> {
        Ok(Self::from_fd(self.as_fd().try_clone_to_owned()?))
    }

    /// Makes reads wait for a message, or not; for all descriptors that were duplicated.
    ///
    /// # Errors
    ///
    /// None expected.
    pub fn set_blocking(&self, blocking: bool) -> io::Result<()> {
        let mut flags = rustix::fs::fcntl_getfl(self.as_fd())?;
        flags.set(rustix::fs::OFlags::NONBLOCK, !blocking);
        Ok(rustix::fs::fcntl_setfl(self.as_fd(), flags)?)
    }
}
