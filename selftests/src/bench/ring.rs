// SPDX-License-Identifier: GPL-2.0

//! A ring whose buffers never change.
//!
//! Descriptor `i` has buffer `i` for ever. Devices use buffers in order here, since there is one
//! worker per ring, so giving and taking back are little more than counters. What the formats do
//! differently is behind [`Half`].

mod packed;
mod split;

use crate::driver::memory::GuestMemory;
use crate::driver::ring::Format;
use crate::driver::uapi::VringAddr;
use crate::eventfd::EventFd;
use crate::wait::{Deadline, PATIENCE};
use anyhow::{Result, bail};
use std::sync::Arc;
use std::time::Duration;

/// A buffer in guest memory.
#[derive(Clone, Copy, Debug)]
pub struct Buffer<'a> {
    /// Guest address.
    pub addr: u64,
    /// Whether the device writes it.
    pub writable: bool,
    /// Lengths of its parts, in bytes.
    pub pieces: &'a [usize],
    /// Guest address of an indirect table for the parts; without one, they are one.
    pub table: Option<u64>,
}

impl Buffer<'_> {
    /// Guest address and length of each part.
    fn parts(&self) -> impl Iterator<Item = Result<(u64, u32)>> {
        let mut at = self.addr;
        self.pieces.iter().map(move |&piece| {
            let part = (at, u32::try_from(piece)?);
            at += piece as u64;
            Ok(part)
        })
    }

    /// Length of all parts together.
    fn len(&self) -> Result<u32> {
        Ok(u32::try_from(self.pieces.iter().sum::<usize>())?)
    }

    /// Length of the table, in bytes.
    fn table_len(&self) -> Result<u32> {
        Ok(u32::try_from(16 * self.pieces.len())?)
    }
}

/// The driver's half of a ring of one format.
trait Half: std::fmt::Debug + Send {
    /// Number of descriptors.
    fn size(&self) -> u16;

    /// The parts of the ring as addresses of the process.
    fn place(&self) -> VringAddr;

    /// Gives descriptor `index` its buffer.
    fn set_buffer(&mut self, index: u16, buffer: Buffer<'_>) -> Result<()>;

    /// The descriptor that is given to the device next.
    fn next(&self) -> u16;

    /// Buffers that the device has.
    fn outstanding(&self) -> u16;

    /// Gives the next `count` buffers to the device, and tells whether it wants a kick.
    fn publish(&mut self, count: u16) -> bool;

    /// Takes back what the device has used since the last look.
    fn take(&mut self) -> Result<u16>;

    /// Asks for a call as [`Ring::arm`] says.
    fn arm(&mut self, after: u16) -> bool;

    /// Asks for no calls.
    fn disarm(&mut self);
}

/// A ring and its notifications.
#[derive(Debug)]
pub struct Ring {
    /// Rung when buffers were added.
    pub kick: EventFd,
    /// Rung by the device when it used some.
    pub call: EventFd,
    /// How often the device was kicked.
    pub kicks: u64,
    /// How often the device called, as far as was looked.
    pub calls: u64,
    format: Format,
    half: Box<dyn Half>,
}

impl Ring {
    /// Makes a ring of `size` descriptors, as `features` ask for it, that have no buffers yet.
    ///
    /// # Errors
    ///
    /// When the memory is full, or the process has too many descriptors.
    pub fn new(memory: &Arc<GuestMemory>, size: u16, features: u64) -> Result<Self> {
        let format = Format::of(features);
        let half: Box<dyn Half> = match format {
            Format::Split => Box::new(split::Split::new(memory, size, features)?),
            Format::Packed => Box::new(packed::Packed::new(memory, size, features)?),
        };
        Ok(Self {
            kick: EventFd::new()?,
            call: EventFd::new()?,
            kicks: 0,
            calls: 0,
            format,
            half,
        })
    }

    /// Number of descriptors.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.half.size()
    }

    /// The parts of the ring as addresses of the process.
    #[must_use]
    pub fn place(&self) -> VringAddr {
        self.half.place()
    }

    /// The value for `SET_VRING_BASE`, before anything was given to the device.
    #[must_use]
    pub fn base(&self) -> u32 {
        self.format.base(self.size(), 0)
    }

    /// Gives descriptor `index` its buffer.
    ///
    /// # Errors
    ///
    /// When a part of it is too long to describe.
    pub fn set_buffer(&mut self, index: u16, buffer: Buffer<'_>) -> Result<()> {
        self.half.set_buffer(index, buffer)
    }

    /// The descriptor that is given to the device next.
    #[must_use]
    pub fn next(&self) -> u16 {
        self.half.next()
    }

    /// Buffers that the device has.
    #[must_use]
    pub fn outstanding(&self) -> u16 {
        self.half.outstanding()
    }

    /// Gives the next `count` buffers to the device, and kicks it if it wants that.
    ///
    /// # Errors
    ///
    /// When the kick fails.
    pub fn post(&mut self, count: u16) -> Result<()> {
        if self.half.publish(count) {
            self.kicks += 1;
            self.kick.signal()?;
        }
        Ok(())
    }

    /// Takes back what the device has used since the last look.
    ///
    /// # Errors
    ///
    /// When it used what it did not have.
    pub fn take(&mut self) -> Result<u16> {
        self.half.take()
    }

    /// Asks for a call once `after` more buffers are used, as far as the ring can say that; true
    /// if something was used already.
    pub fn arm(&mut self, after: u16) -> bool {
        self.half.arm(after.max(1))
    }

    /// Asks for no calls.
    pub fn disarm(&mut self) {
        self.half.disarm();
    }

    /// Sleeps until the device has used `after` buffers, as far as the ring can say that; false
    /// if it has not within `time`.
    ///
    /// # Errors
    ///
    /// When the call descriptor is broken.
    pub fn nap(&mut self, after: u16, time: Duration) -> Result<bool> {
        self.calls += self.call.take()?;
        let called = self.arm(after) || Deadline::after(time).readable(&[&self.call])?;
        self.calls += self.call.take()?;
        Ok(called)
    }

    /// Waits until `count` buffers are back; `patient` to be called for the last one only.
    ///
    /// # Errors
    ///
    /// When the device does not answer, or uses more than it was given.
    pub fn complete(&mut self, count: u16, patient: bool) -> Result<()> {
        let mut left = count;
        loop {
            let used = self.take()?;
            left = match left.checked_sub(used) {
                Some(0) => return Ok(()),
                Some(left) => left,
                None => bail!("{used} buffers used, {left} given"),
            };
            if !self.nap(if patient { left } else { 1 }, PATIENCE)? {
                bail!("no call from the device, which has {left} buffers");
            }
        }
    }
}
