// SPDX-License-Identifier: GPL-2.0

//! The driver's half of a virtqueue, whatever its format.

use crate::driver::uapi::{VringAddr, feature};
use anyhow::Result;

/// The format of a virtqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Descriptor table, available and used ring (virtio 1.3, section 2.7).
    Split,
    /// One ring of descriptors for both directions (section 2.8).
    Packed,
}

impl Format {
    /// The format that features ask for.
    #[must_use]
    pub const fn of(features: u64) -> Self {
        if features & feature::RING_PACKED == 0 {
            Self::Split
        } else {
            Self::Packed
        }
    }

    /// The features without which a ring cannot have this format.
    #[must_use]
    pub const fn features(self) -> u64 {
        match self {
            Self::Split => 0,
            Self::Packed => feature::RING_PACKED | feature::VERSION_1,
        }
    }

    /// What `SET_VRING_BASE` and `GET_VRING_BASE` call the place that a ring of `size` descriptors
    /// has reached after `count` chains of one descriptor each since it was made.
    ///
    /// # Panics
    ///
    /// When the size is zero.
    #[must_use]
    pub fn base(self, size: u16, count: u32) -> u32 {
        match self {
            // CAST: the index of a split ring is the lower half.
            Self::Split => u32::from(count as u16),
            Self::Packed => {
                let size = u32::from(size);
                let place = count % (2 * size);
                // The wrap counter is 1 in the first turn.
                let half = (place % size) | (u32::from(place < size) << 15);
                half | half << 16
            }
        }
    }

    /// The least count for which [`Self::base`] answers `base`.
    #[must_use]
    pub fn count(self, size: u16, base: u32) -> u16 {
        // CAST: the place of a ring of which all is used is in the lower half.
        let half = base as u16;
        match self {
            Self::Split => half,
            Self::Packed if half >> 15 != 0 => half & 0x7fff,
            Self::Packed => size.wrapping_add(half),
        }
    }
}

/// One buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// Whether the device writes it.
    pub writable: bool,
}

/// A chain the device is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// What the caller gave to [`RingDriver::add`].
    pub token: u32,
    /// How many bytes the device says it wrote.
    pub len: u32,
}

/// What a driver does with a ring.
///
/// Chains are added, then published together; a kick is due when [`RingDriver::publish`] says so.
/// [`RingDriver::poll`] checks what the device answers and fails on anything a device must not
/// do, such as returning a chain twice.
pub trait RingDriver: std::fmt::Debug + Send {
    /// The number of descriptors.
    fn size(&self) -> u16;

    /// Where the parts of the ring are, as addresses of the process.
    fn place(&self) -> VringAddr;

    /// The value to hand to `SET_VRING_BASE` for what the ring holds now: all that is published
    /// and not used is seen again. Nothing may be bound to the ring meanwhile.
    fn base(&self) -> u32;

    /// How many descriptors are free.
    fn free(&self) -> usize;

    /// How many chains the device holds.
    fn pending(&self) -> usize;

    /// How many chains the device has used that [`RingDriver::poll`] would take.
    fn ready(&self) -> usize;

    /// How many used elements, or used descriptors, the device has written for these.
    fn used_entries(&self) -> usize;

    /// Adds a chain; `table` is the place of an indirect table, if one shall be used.
    ///
    /// # Errors
    ///
    /// When there are not enough descriptors.
    fn add(&mut self, chain: &[Segment], table: Option<u64>, token: u32) -> Result<()>;

    /// Lets the device see what was added, and tells whether it wants a kick.
    #[must_use]
    fn publish(&mut self) -> bool;

    /// Whether the device wants a kick for what memory shows as available from `old` on, whoever
    /// wrote that; `old` is the lower half of a base.
    #[must_use]
    fn wants_kick(&self, old: u16) -> bool;

    /// Takes the next used chain.
    ///
    /// # Errors
    ///
    /// When the device broke the rules of the ring.
    fn poll(&mut self) -> Result<Option<Used>>;

    /// Guest addresses and lengths of the used elements, or used descriptors, that [`Self::poll`]
    /// has taken since it was asked for them last. They are noted from the first time on.
    fn taken_entries(&mut self) -> Vec<(u64, u32)>;

    /// Asks for a call once `after` more chains are used; true if that has happened already.
    #[must_use]
    fn arm_call(&mut self, after: u16) -> bool;

    /// Asks for no calls.
    fn disarm_call(&mut self);

    /// Has notifications asked for by event index, or by flags, from now on.
    fn set_event_index(&mut self, events: bool);

    /// Empties the ring as after a reset, at the place that `count` chains of one descriptor lead
    /// to from its start.
    fn reset(&mut self, count: u16);
}

#[cfg(test)]
mod tests {
    use super::Format;

    #[test]
    fn bases_are_as_linux_writes_them() {
        for (format, size, count, base) in [
            (Format::Split, 256, 0, 0),
            (Format::Split, 256, 65535 + 4, 3),
            (Format::Packed, 256, 0, 0x8000_8000),
            (Format::Packed, 256, 255, 0x80ff_80ff),
            (Format::Packed, 256, 256, 0),
            (Format::Packed, 300, 599, 0x012b_012b),
            (Format::Packed, 300, 600, 0x8000_8000),
        ] {
            let got = format.base(size, count);
            assert_eq!(got, base, "{format:?} {size} {count}: {got:#x}");
            let back = format.base(size, format.count(size, base).into());
            assert_eq!(back, base);
        }
    }
}
