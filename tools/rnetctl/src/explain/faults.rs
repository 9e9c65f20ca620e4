// SPDX-License-Identifier: GPL-2.0
//! What the faults mean that stop a queue: `src/hostile-guests.md` has what leads to them.

use super::answer::Turn;

/// A kind of fault.
pub struct Fault {
    /// Its name, as the module shows it.
    pub name: &'static str,
    /// What has happened.
    pub meaning: &'static str,
    /// Who can mend it.
    pub turn: Turn,
}

const fn guest(name: &'static str, meaning: &'static str) -> Fault {
    Fault {
        name,
        meaning,
        turn: Turn::Guest,
    }
}

const fn owner(name: &'static str, meaning: &'static str) -> Fault {
    Fault {
        name,
        meaning,
        turn: Turn::Owner,
    }
}

/// All faults.
pub const FAULTS: [Fault; 16] = [
    guest(
        "avail_index",
        "the guest's index of available buffers moved back, or by more than the ring has entries",
    ),
    owner(
        "base",
        "the owner has set a position that a packed ring of this size does not have",
    ),
    guest(
        "unavailable",
        "a chain of descriptors goes on with one that is not available",
    ),
    guest(
        "desc_index",
        "the guest named a descriptor beyond the table's end",
    ),
    guest(
        "chain_too_long",
        "a chain of descriptors is a loop, or too long",
    ),
    guest(
        "too_many_segments",
        "a chain of descriptors has too many pieces of memory",
    ),
    guest(
        "indirect_length",
        "an indirect table is empty, too long, or not a number of whole descriptors",
    ),
    guest("nested_indirect", "an indirect table refers to another one"),
    guest(
        "indirect_next",
        "a descriptor refers to an indirect table and to a next descriptor",
    ),
    guest(
        "readable_after_writable",
        "a buffer to be read comes behind one to be written",
    ),
    owner(
        "outside_memory",
        "an address is outside of the memory that the owner has made known to the device",
    ),
    owner("denied", "the guest's IOMMU does not permit the access"),
    owner(
        "unmapped",
        "memory of the owner could not be read or written: it is not mapped, or could not be \
         brought in",
    ),
    owner(
        "unlogged",
        "a write could not be recorded in the owner's log of changed pages",
    ),
    guest(
        "direction",
        "a buffer to send is one to be written, or one to receive into is not",
    ),
    guest("short_header", "a packet is not longer than its header"),
];

/// The fault called `name`; `None` for one that only another version of the module has.
#[must_use]
pub fn find(name: &str) -> Option<&'static Fault> {
    FAULTS.iter().find(|fault| fault.name == name)
}
