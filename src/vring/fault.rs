// SPDX-License-Identifier: GPL-2.0

//! The reasons why a ring stops.

use core::fmt;
use core::mem::size_of;

use crate::addr::UserAddr;
use crate::memory::Unmapped;

/// A guest broke the rules of the ring, or its memory cannot be accessed, so the queue has to stop.
///
/// A fault does not mean a problem of the host, and stops only its own queue. It has 16 bytes, so
/// that functions on the packet path return it in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The available index moved by more than the ring has entries.
    AvailIndex {
        /// Index up to which chains have been taken.
        last: u16,
        /// Index that the driver published.
        avail: u16,
    },
    /// The owner's base has a position beyond the end of a packed ring of this size.
    Base {
        /// The base.
        base: u32,
        /// Number of descriptors.
        size: u16,
    },
    /// A packed ring's chain continues with a descriptor that is not available.
    Unavailable {
        /// Offset of that descriptor.
        offset: u16,
    },
    /// A head or a `next` is an index beyond the end of the descriptor table.
    DescIndex {
        /// The index.
        index: u32,
        /// Number of descriptors in the table.
        size: u32,
    },
    /// A chain has more descriptors than its table: it loops, or exceeds
    /// [`MAX_CHAIN_DESCS`](crate::MAX_CHAIN_DESCS).
    ChainTooLong,
    /// A chain has more than [`MAX_CHAIN_SEGMENTS`](crate::MAX_CHAIN_SEGMENTS) pieces of memory.
    TooManySegments,
    /// An indirect table's length is zero, not a multiple of a descriptor's, or too large.
    IndirectLength {
        /// The length, in bytes.
        len: u32,
    },
    /// A descriptor in an indirect table refers to another indirect table.
    NestedIndirect,
    /// A packed ring's descriptor has both the indirect and the next flag.
    IndirectNext,
    /// A descriptor that the device reads follows one that it writes.
    ReadableAfterWritable,
    /// A range of guest addresses is not (wholly) covered by the memory table or the IOTLB, or
    /// wraps.
    OutsideMemory {
        /// First address that no region or mapping covers.
        addr: u64,
        /// Bytes wanted from there, capped at what 32 bits hold.
        len: u32,
    },
    /// The owner's IOTLB does not allow the access.
    Denied {
        /// First IO virtual address without the permission.
        addr: u64,
    },
    /// User memory of the owner could not be accessed.
    Unmapped(Unmapped),
    /// A write could not be recorded in the owner's dirty log, or the log does not cover it.
    Unlogged(UserAddr),
    /// A transmit chain has writable descriptors, or a receive chain has readable ones or none.
    Direction,
    /// A transmit chain is no longer than the packet header.
    ShortHeader {
        /// Length of the chain, in bytes.
        len: u64,
    },
}

const _: () = assert!(size_of::<Fault>() == 16);

impl Fault {
    /// The fault that `len` bytes from `addr` on are [outside memory](Self::OutsideMemory).
    #[must_use]
    pub fn outside(addr: u64, len: u64) -> Self {
        Self::OutsideMemory {
            addr,
            len: u32::try_from(len).unwrap_or(u32::MAX),
        }
    }

    /// One-word names of all kinds of faults, for counters and traces, by [`Fault::kind`].
    pub const NAMES: [&'static str; 16] = [
        "avail_index",
        "base",
        "unavailable",
        "desc_index",
        "chain_too_long",
        "too_many_segments",
        "indirect_length",
        "nested_indirect",
        "indirect_next",
        "readable_after_writable",
        "outside_memory",
        "denied",
        "unmapped",
        "unlogged",
        "direction",
        "short_header",
    ];

    /// The index of its kind in [`Fault::NAMES`].
    #[must_use]
    pub const fn kind(&self) -> usize {
        match self {
            Self::AvailIndex { .. } => 0,
            Self::Base { .. } => 1,
            Self::Unavailable { .. } => 2,
            Self::DescIndex { .. } => 3,
            Self::ChainTooLong => 4,
            Self::TooManySegments => 5,
            Self::IndirectLength { .. } => 6,
            Self::NestedIndirect => 7,
            Self::IndirectNext => 8,
            Self::ReadableAfterWritable => 9,
            Self::OutsideMemory { .. } => 10,
            Self::Denied { .. } => 11,
            Self::Unmapped(_) => 12,
            Self::Unlogged(_) => 13,
            Self::Direction => 14,
            Self::ShortHeader { .. } => 15,
        }
    }

    /// The address that it is about, the guest's or the owner's, if it is about one.
    #[must_use]
    pub fn addr(&self) -> Option<u64> {
        match self {
            Self::OutsideMemory { addr, .. } | Self::Denied { addr } => Some(*addr),
            Self::Unmapped(Unmapped(addr)) | Self::Unlogged(addr) => Some(addr.0),
            _ => None,
        }
    }

    /// The name of its kind.
    #[must_use]
    pub fn name(&self) -> &'static str {
        Self::NAMES.get(self.kind()).copied().unwrap_or_default()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AvailIndex { last, avail } => {
                write!(f, "available index jumped from {last} to {avail}")
            }
            Self::Base { base, size } => {
                write!(f, "base {base:#x} of a packed ring of {size}")
            }
            Self::Unavailable { offset } => {
                write!(
                    f,
                    "descriptor chain goes on at {offset}, which is not available"
                )
            }
            Self::DescIndex { index, size } => {
                write!(f, "descriptor index {index} in a table of {size}")
            }
            Self::ChainTooLong => f.write_str("descriptor chain loops or is too long"),
            Self::TooManySegments => f.write_str("descriptor chain has too many pieces"),
            Self::IndirectLength { len } => write!(f, "indirect table of {len} bytes"),
            Self::NestedIndirect => f.write_str("indirect table within an indirect table"),
            Self::IndirectNext => f.write_str("descriptor chain goes on behind an indirect table"),
            Self::ReadableAfterWritable => f.write_str("readable descriptor after a writable one"),
            Self::OutsideMemory { addr, len } => {
                write!(f, "{len} bytes at guest address {addr:#x} outside memory")
            }
            Self::Denied { addr } => write!(f, "no permission for IO address {addr:#x}"),
            Self::Unmapped(_) => f.write_str("memory of the owner cannot be accessed"),
            Self::Unlogged(_) => f.write_str("a write cannot be logged"),
            Self::Direction => f.write_str("descriptor chain of the wrong direction"),
            Self::ShortHeader { len } => write!(f, "packet of {len} bytes, header included"),
        }
    }
}

impl From<Unmapped> for Fault {
    fn from(unmapped: Unmapped) -> Self {
        Self::Unmapped(unmapped)
    }
}
