// SPDX-License-Identifier: GPL-2.0

//! Where the parts of a ring of either format lie, and the driver's half that belongs there.

use crate::driver::memory::GuestMemory;
use crate::driver::packed::{PackedDriver, PackedLayout};
use crate::driver::ring::{Format, RingDriver};
use crate::driver::split::{SplitDriver, SplitLayout};
use crate::driver::uapi::VringAddr;
use anyhow::Result;
use std::sync::Arc;

/// Where a ring lies in guest memory.
#[derive(Clone, Copy, Debug)]
pub enum Layout {
    /// A split ring.
    Split(SplitLayout),
    /// A packed ring.
    Packed(PackedLayout),
}

/// A part of a ring.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// Guest address.
    pub addr: u64,
    /// Length in bytes.
    pub len: usize,
    /// Whether the device reads it.
    pub read: bool,
    /// Whether the device writes it.
    pub written: bool,
}

impl Layout {
    /// Sets room aside for a ring of `size` descriptors in the format that `features` ask for.
    ///
    /// # Errors
    ///
    /// When the memory is full.
    pub fn alloc(memory: &GuestMemory, features: u64, size: u16) -> Result<Self> {
        Ok(match Format::of(features) {
            Format::Split => Self::Split(SplitLayout::alloc(memory, size)?),
            Format::Packed => Self::Packed(PackedLayout::alloc(memory, size)?),
        })
    }

    /// The driver's half of an empty ring here, at the place that `count` chains of one descriptor
    /// lead to from its start.
    #[must_use]
    pub fn driver(
        self,
        memory: &Arc<GuestMemory>,
        features: u64,
        count: u16,
    ) -> Box<dyn RingDriver> {
        let memory = memory.clone();
        match self {
            Self::Split(layout) => Box::new(SplitDriver::new(memory, layout, features, count)),
            Self::Packed(layout) => Box::new(PackedDriver::new(memory, layout, features, count)),
        }
    }

    /// The format of the ring.
    #[must_use]
    pub fn format(&self) -> Format {
        match self {
            Self::Split(_) => Format::Split,
            Self::Packed(_) => Format::Packed,
        }
    }

    /// Number of descriptors.
    #[must_use]
    pub fn size(&self) -> u16 {
        match self {
            Self::Split(layout) => layout.size,
            Self::Packed(layout) => layout.size,
        }
    }

    /// The parts in the order of `SET_VRING_ADDR`: descriptors, what the driver writes beside them,
    /// and what the device does.
    #[must_use]
    pub fn areas(&self) -> [Area; 3] {
        let area = |addr, len, read, written| Area {
            addr,
            len,
            read,
            written,
        };
        let size = usize::from(self.size());
        match self {
            Self::Split(layout) => [
                area(layout.desc, 16 * size, true, false),
                area(layout.avail, 6 + 2 * size, true, false),
                area(layout.used, 6 + 8 * size, false, true),
            ],
            Self::Packed(layout) => [
                area(layout.ring, 16 * size, true, true),
                area(layout.driver, 4, true, false),
                area(layout.device, 4, false, true),
            ],
        }
    }

    /// The same ring, with its parts at other guest addresses.
    #[must_use]
    pub fn moved(self, [first, second, third]: [u64; 3]) -> Self {
        match self {
            Self::Split(layout) => Self::Split(SplitLayout {
                desc: first,
                avail: second,
                used: third,
                ..layout
            }),
            Self::Packed(layout) => Self::Packed(PackedLayout {
                ring: first,
                driver: second,
                device: third,
                ..layout
            }),
        }
    }

    /// Writes what a device writes that wants no kick, in a ring at a `base`, as a stale wish for a
    /// device that is about to use the ring.
    pub fn ask_no_kick(&self, memory: &GuestMemory, base: u32) {
        match self {
            // CAST: an index.
            Self::Split(layout) => layout.ask_no_kick(memory, base as u16),
            Self::Packed(layout) => layout.ask_no_kick(memory),
        }
    }

    /// The parts as IO addresses, for a device behind an IOMMU.
    #[must_use]
    pub fn io_place(&self) -> VringAddr {
        let [desc, avail, used] = self.areas().map(|area| area.addr);
        VringAddr {
            desc,
            avail,
            used,
            ..VringAddr::default()
        }
    }
}
