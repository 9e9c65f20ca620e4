// SPDX-License-Identifier: GPL-2.0

//! Where the parts of a ring of either format lie, and the driver's half that belongs there.

use crate::driver::memory::GuestMemory;
use crate::driver::packed::{PackedDescriptor, PackedDriver, PackedLayout, Place, write_entry};
use crate::driver::ring::{Format, RingDriver};
use crate::driver::split::{Descriptor, SplitDriver, SplitLayout, write_table};
use crate::driver::uapi::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, VringAddr};
use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The flags that say what a descriptor is for.
const KINDS: u16 = DESC_NEXT | DESC_WRITE | DESC_INDIRECT;

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

/// What a descriptor of either format says of its buffer.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// Guest address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// `DESC_NEXT`, `DESC_WRITE` and `DESC_INDIRECT`.
    pub flags: u16,
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

    /// The base `count` chains of one descriptor after another base.
    #[must_use]
    pub fn base_after(&self, base: u32, count: u16) -> u32 {
        let (format, size) = (self.format(), self.size());
        let start = u32::from(format.count(size, base));
        format.base(size, start + u32::from(count))
    }

    /// How many chains of one descriptor lead from one base to another.
    #[must_use]
    pub fn distance(&self, from: u32, to: u32) -> u32 {
        // CAST: indexes, or places of the driver's side.
        let (from, to) = (from as u16, to as u16);
        match self {
            Self::Split(_) => to.wrapping_sub(from).into(),
            Self::Packed(layout) => Place::parse(to).since(Place::parse(from), layout.size),
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

    /// The part with used elements, or used descriptors.
    #[must_use]
    pub fn entries(&self) -> Area {
        let [descriptors, _, used] = self.areas();
        match self {
            Self::Split(_) => used,
            Self::Packed(_) => descriptors,
        }
    }

    /// Where the write to a used element or descriptor at `addr` is logged, if the part that only
    /// the device writes is logged at `log`: those of a packed ring where they are.
    #[must_use]
    pub fn logged(&self, addr: u64, log: u64) -> u64 {
        match self {
            Self::Split(layout) => addr - layout.used + log,
            Self::Packed(_) => addr,
        }
    }

    /// The index of the descriptor that begins the chain which is `ahead` of a `base`; all chains
    /// of a packed ring in between have one descriptor.
    #[must_use]
    pub fn head(&self, memory: &GuestMemory, base: u32, ahead: u16) -> u16 {
        // CAST: an index, or a place.
        let base = base as u16;
        match self {
            Self::Split(layout) => layout.read_avail(memory, base.wrapping_add(ahead)),
            Self::Packed(layout) => Place::parse(base).after(ahead, layout.size).offset,
        }
    }

    /// How many chains of one descriptor were used from a `base` on, as memory shows it.
    #[must_use]
    pub fn used_since(&self, memory: &GuestMemory, base: u32) -> u16 {
        // CAST: an index, or a place.
        let base = base as u16;
        match self {
            Self::Split(layout) => layout.used_index(memory).wrapping_sub(base),
            Self::Packed(layout) => {
                let start = Place::parse(base);
                let places = (0..layout.size).map(|ahead| start.after(ahead, layout.size));
                let used = places.take_while(|at| layout.is_used(memory, *at));
                // CAST: no more than a ring has.
                used.count() as u16
            }
        }
    }

    /// What a descriptor says.
    #[must_use]
    pub fn described(&self, memory: &GuestMemory, index: u16) -> Described {
        match self {
            Self::Split(layout) => {
                let Descriptor {
                    addr, len, flags, ..
                } = layout.read_desc(memory, index);
                Described { addr, len, flags }
            }
            Self::Packed(layout) => {
                let descriptor = layout.read(memory, index);
                Described {
                    addr: descriptor.addr,
                    len: descriptor.len,
                    flags: descriptor.flags & KINDS,
                }
            }
        }
    }

    /// Changes what a descriptor says, but not whose it is.
    pub fn describe(&self, memory: &GuestMemory, index: u16, described: Described) {
        let Described { addr, len, flags } = described;
        match self {
            Self::Split(layout) => {
                let next = layout.read_desc(memory, index).next;
                let descriptor = Descriptor {
                    addr,
                    len,
                    flags,
                    next,
                };
                layout.write_desc(memory, index, descriptor);
            }
            Self::Packed(layout) => {
                let old = layout.read(memory, index);
                let descriptor = PackedDescriptor { addr, len, ..old };
                layout.prepare(memory, index, descriptor);
                let flags = (old.flags & !KINDS) | flags;
                layout.set_flags(memory, index, flags, Ordering::Release);
            }
        }
    }

    /// Writes entry `index` of an indirect table; the one after it belongs to the chain too if
    /// `flags` have `DESC_NEXT`, which only a split ring's table says.
    pub fn write_entry(
        &self,
        memory: &GuestMemory,
        table: u64,
        index: u16,
        Described { addr, len, flags }: Described,
    ) {
        match self {
            Self::Split(_) => {
                let next = index.wrapping_add(1);
                let entry = Descriptor {
                    addr,
                    len,
                    flags,
                    next,
                };
                write_table(memory, table, index.into(), entry);
            }
            Self::Packed(_) => {
                let entry = PackedDescriptor {
                    addr,
                    len,
                    id: 0,
                    flags: flags & !DESC_NEXT,
                };
                write_entry(memory, table, index.into(), entry);
            }
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
