// SPDX-License-Identifier: GPL-2.0

//! Accesses to memory, as a ring makes them.

use std::ops::Range;

use vring::{UserAddr, DESC_SIZE};

/// One access as the ring made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// [`vring::Memory::load`].
    Load(UserAddr),
    /// [`vring::Memory::load_acquire`].
    LoadAcquire(UserAddr),
    /// [`vring::Memory::store`], with the value in host byte order.
    Store(UserAddr, u16),
    /// [`vring::Memory::store_release`], with the value in host byte order.
    StoreRelease(UserAddr, u16),
    /// [`vring::Memory::load_slice`], with the number of values.
    LoadSlice(UserAddr, usize),
    /// [`vring::Memory::gather_descs`], with the indexes.
    Gather(UserAddr, Vec<u16>),
    /// [`vring::Memory::load_bytes`], with the number of bytes.
    LoadBytes(UserAddr, usize),
    /// [`vring::Memory::store_used`], with the elements in host byte order.
    StoreUsed(UserAddr, Vec<[u32; 2]>),
    /// [`vring::OwnerAccess::store_bytes`], with the number of bytes.
    StoreBytes(UserAddr, usize),
    /// [`vring::OwnerAccess::set_bits`], with the bits in host byte order.
    SetBits(UserAddr, u32),
    /// [`vring::Memory::load_available`].
    LoadAvailable {
        /// Address of the first descriptor.
        addr: UserAddr,
        /// The wrap counter at which they have to be available.
        wrap: bool,
        /// Number of descriptors wanted.
        count: usize,
    },
    /// A used descriptor stored by [`vring::Memory::publish_packed`]: its second word, in host byte
    /// order.
    StoreDesc {
        /// Address of the descriptor.
        at: UserAddr,
        /// The word.
        word: u64,
        /// Whether earlier accesses are ordered before it.
        release: bool,
    },
    /// [`vring::Memory::touch`].
    Touch(UserAddr),
    /// [`vring::Memory::load_event`].
    LoadEvent(UserAddr),
    /// [`vring::Memory::store_event`], with the value in host byte order.
    StoreEvent(UserAddr, u32),
    /// [`vring::Memory::full_barrier`].
    Barrier,
}

impl Op {
    /// The bytes touched, as user address ranges; wide enough not to wrap.
    pub fn ranges(&self) -> Vec<Range<u128>> {
        let run = |addr: &UserAddr, len: usize| {
            let start = u128::from(addr.0);
            start..start + len as u128
        };
        match self {
            Self::Load(addr) | Self::LoadAcquire(addr) => vec![run(addr, 2)],
            Self::Store(addr, _) | Self::StoreRelease(addr, _) => vec![run(addr, 2)],
            Self::LoadSlice(addr, count) => vec![run(addr, 2 * count)],
            Self::Gather(table, indexes) => indexes
                .iter()
                .map(|&index| {
                    let start = u128::from(table.0) + u128::from(index) * u128::from(DESC_SIZE);
                    start..start + u128::from(DESC_SIZE)
                })
                .collect(),
            Self::LoadBytes(addr, len) | Self::StoreBytes(addr, len) => vec![run(addr, *len)],
            Self::SetBits(addr, _) | Self::LoadEvent(addr) | Self::StoreEvent(addr, _) => {
                vec![run(addr, 4)]
            }
            Self::LoadAvailable { addr, count, .. } => vec![run(addr, 16 * count)],
            Self::Touch(at) | Self::StoreDesc { at, .. } => vec![run(&at.wrapping_add(8), 8)],
            Self::StoreUsed(addr, used) => vec![run(addr, 8 * used.len())],
            Self::Barrier => Vec::new(),
        }
    }

    /// Whether the device writes.
    pub fn is_store(&self) -> bool {
        matches!(
            self,
            Self::Store(..)
                | Self::StoreRelease(..)
                | Self::StoreUsed(..)
                | Self::StoreBytes(..)
                | Self::SetBits(..)
                | Self::Touch(_)
                | Self::StoreDesc { .. }
                | Self::StoreEvent(..)
        )
    }
}
