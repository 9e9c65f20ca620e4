// SPDX-License-Identifier: GPL-2.0

//! Rings of either format as a hostile guest fills them: what it writes may be anything, where it goes
//! is where the device looks.

use crate::driver::layout::{Described, Layout};
use crate::driver::memory::GuestMemory;
use crate::driver::packed::{PackedDescriptor, PackedLayout, Place};
use crate::driver::split::{Descriptor, SplitLayout};
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;

/// One of the device's queues as the hostile guest has it.
#[derive(Debug)]
pub struct Ring {
    /// Where it lies.
    pub layout: Layout,
    /// Which direction its descriptors should have.
    pub write: u16,
    format: State,
}

/// Where the guest is in the ring.
#[derive(Debug)]
enum State {
    Split {
        layout: SplitLayout,
        /// The available index.
        at: u16,
        /// Where the next chain begins in the table.
        head: u16,
    },
    Packed {
        layout: PackedLayout,
        /// Where the next chain begins.
        at: Place,
        /// Chains that the device has: where they begin, and their descriptors.
        out: VecDeque<(Place, u16)>,
        in_order: bool,
    },
}

impl Ring {
    /// A ring that starts at a base.
    pub fn new(layout: Layout, write: u16, base: u32, in_order: bool) -> Self {
        // CAST: an index, or a place.
        let base = base as u16;
        let format = match layout {
            Layout::Split(layout) => State::Split {
                layout,
                at: base,
                // Where the in-tree driver looks for it if used in order.
                head: base % layout.size,
            },
            Layout::Packed(layout) => State::Packed {
                layout,
                at: Place::parse(base),
                out: VecDeque::new(),
                in_order,
            },
        };
        Self {
            layout,
            write,
            format,
        }
    }

    /// Empties the ring, at a base.
    pub fn restart(&mut self, memory: &GuestMemory, base: u32) {
        // CAST: an index, or a place.
        let base = base as u16;
        match &mut self.format {
            State::Split { layout, at, head } => {
                layout.set_avail_index(memory, base);
                memory.store_u16(layout.used + 2, base, Ordering::Release);
                (*at, *head) = (base, base % layout.size);
            }
            State::Packed {
                layout, at, out, ..
            } => {
                *at = Place::parse(base);
                layout.clear(memory, *at);
                out.clear();
            }
        }
    }

    /// Whether the device has taken so little that it would find the ring too full.
    pub fn is_full(&mut self, memory: &GuestMemory) -> bool {
        match &mut self.format {
            State::Split { layout, at, .. } => {
                at.wrapping_sub(layout.used_index(memory)) >= layout.size
            }
            State::Packed {
                layout,
                out,
                in_order,
                ..
            } => {
                while let Some((head, _)) = out.front() {
                    if !layout.is_used(memory, *head) {
                        break;
                    }
                    // In order one stands for all up to the next used one.
                    out.pop_front();
                    let more = out
                        .iter()
                        .position(|(head, _)| layout.is_used(memory, *head));
                    if *in_order {
                        out.drain(..more.unwrap_or(0));
                    }
                }
                let taken: usize = out.iter().map(|(_, count)| usize::from(*count)).sum();
                // With room for a short chain.
                taken + 6 > usize::from(layout.size)
            }
        }
    }

    /// The index that the descriptor `number` of the next chain will have.
    pub fn index(&self, number: usize) -> u16 {
        let size = usize::from(self.layout.size());
        let start = match &self.format {
            State::Split { head, .. } => *head,
            State::Packed { at, .. } => at.offset,
        };
        // CAST: the remainder is below the size of a ring.
        ((usize::from(start) + number) % size) as u16
    }

    /// Makes a chain available; in a split ring by the index of its `head`, if that is not to be right.
    pub fn add(&mut self, memory: &GuestMemory, chain: &[Descriptor], wrong: Option<u16>) {
        // CAST: a guest's chain is no longer than its ring.
        let count = chain.len() as u16;
        let places: Vec<_> = (0..chain.len()).map(|number| self.index(number)).collect();
        match &mut self.format {
            State::Split { layout, at, head } => {
                for (index, descriptor) in places.iter().zip(chain) {
                    layout.write_desc(memory, *index, *descriptor);
                }
                layout.write_avail(memory, *at, wrong.unwrap_or(*head));
                *at = at.wrapping_add(1);
                layout.set_avail_index(memory, *at);
                *head = (*head + count) % layout.size;
            }
            State::Packed {
                layout, at, out, ..
            } => {
                let start = *at;
                // The first one last.
                for (ahead, descriptor) in (0..count).zip(chain).rev() {
                    let here = start.after(ahead, layout.size);
                    let packed = PackedDescriptor {
                        addr: descriptor.addr,
                        len: descriptor.len,
                        id: wrong.unwrap_or(start.offset),
                        flags: 0,
                    };
                    layout.prepare(memory, here.offset, packed);
                    // Flags that say whose it is are mostly right.
                    let flags = descriptor.flags ^ here.available();
                    layout.set_flags(memory, here.offset, flags, Ordering::Release);
                }
                *at = start.after(count, layout.size);
                out.push_back((start, count));
            }
        }
    }

    /// Writes an entry of an indirect table.
    pub fn write_entry(&self, memory: &GuestMemory, table: u64, index: u16, entry: Descriptor) {
        match self.layout {
            Layout::Split(_) => {
                crate::driver::split::write_table(memory, table, index.into(), entry);
            }
            Layout::Packed(_) => {
                let Descriptor {
                    addr, len, flags, ..
                } = entry;
                let entry = Described { addr, len, flags };
                self.layout.write_entry(memory, table, index, entry);
            }
        }
    }

    /// Makes anything available: moves the index of a split ring, or gives away a descriptor of a
    /// packed one.
    pub fn jump(&self, memory: &GuestMemory, by: u16) {
        match &self.format {
            State::Split { layout, at, .. } => layout.set_avail_index(memory, at.wrapping_add(by)),
            State::Packed { layout, at, .. } => {
                let there = at.after(by % layout.size, layout.size);
                let flags = there.available();
                layout.set_flags(memory, there.offset, flags, Ordering::Release);
            }
        }
    }

    /// Writes a descriptor where the ring has one.
    pub fn overwrite(&self, memory: &GuestMemory, index: u16, descriptor: Descriptor) {
        match &self.format {
            State::Split { layout, .. } => layout.write_desc(memory, index, descriptor),
            State::Packed { layout, .. } => {
                let Descriptor {
                    addr, len, flags, ..
                } = descriptor;
                let packed = PackedDescriptor {
                    addr,
                    len,
                    id: descriptor.next,
                    flags,
                };
                layout.prepare(memory, index, packed);
                layout.set_flags(memory, index, flags, Ordering::Release);
            }
        }
    }

    /// The address of a word that says what is available, or what either side wishes to be told.
    pub fn word(&self, rng: &mut SmallRng) -> u64 {
        match &self.format {
            State::Split { layout, .. } => {
                let size = u64::from(layout.size);
                match rng.random_range(0..28) {
                    0..6 => layout.avail + 4 + 2 * rng.random_range(0..size),
                    // Flags, and the index at which to call.
                    6..10 => layout.avail,
                    10..14 => layout.avail + 4 + 2 * size,
                    // Flags, index, entries, and the index at which to kick.
                    14..18 => layout.used,
                    18..20 => layout.used + 2,
                    20..23 => layout.used + 4 + 2 * rng.random_range(0..4 * size),
                    23..27 => layout.used + 4 + 8 * size,
                    _ => layout.avail + 2,
                }
            }
            State::Packed { layout, .. } => match rng.random_range(0..28) {
                0..14 => layout.slot(rng.random_range(0..layout.size)) + 14,
                14..21 => layout.driver + 2 * rng.random_range(0..2),
                _ => layout.device + 2 * rng.random_range(0..2),
            },
        }
    }
}
