// SPDX-License-Identifier: GPL-2.0

//! The device side of virtio rings, as pure code.
//!
//! Everything a guest can write passes through this crate before anything else looks at it: ring
//! indexes, descriptors, guest-physical addresses. The crate has no `unsafe` code, no dependencies
//! and allocates nothing. It does not panic on any guest input: it neither indexes nor slices, and
//! guest values take part in wrapping or checked arithmetic only. The lints below enforce this.
//!
//! How the parts fit together:
//!
//! - [`Memory`] is the owner's memory as the host sees it: the few access operations a ring needs,
//!   with their memory ordering. The kernel module and the host tests each implement it.
//! - [`Translate`] turns a guest address range into [`Segment`]s of user addresses. [`MemTable`]
//!   translates by memory regions; [`Iotlb`] translates for a guest behind a virtual IOMMU.
//! - [`for_each_log_word`] finds the dirty log bits of written guest memory;
//!   [`MemTable::guest_ranges`] finds the guest addresses of user memory.
//! - [`Ring`] is the interface of a ring to a round: a *get work* half, [`GetWork`]; a *complete
//!   work* half, [`CompleteWork`]; and [`KickControl`], which turns the driver's kicks off and on.
//!   A round calls [`KickControl::enable_kick`] when there is no work, and
//!   [`KickControl::await_kick`] when there is work that cannot be done. [`SplitRing`] and
//!   [`PackedRing`] implement it and have different set-up functions; [`Rings`] has one of each.
//! - [`Look`] shows an operator how far device and driver are, and changes nothing.
//!
//! Source of behaviour: virtio specification 1.3, sections 2.7 (split virtqueues) and 2.8 (packed
//! virtqueues); where it leaves a choice, the in-tree vhost (`drivers/vhost/vhost.c`). The in-tree
//! vhost has no packed rings: for these, what drivers and owners (Linux, DPDK, QEMU) expect.

#![cfg_attr(not(any(test, kernel)), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs, unreachable_pub)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unwrap_used
    )
)]

mod addr;
mod chain;
mod desc;
mod fault;
mod iotlb;
mod log;
mod look;
mod mediated;
mod memory;
mod packed;
mod position;
mod region;
mod ring;
mod rings;
mod segment;
mod split;

pub use addr::{GuestAddr, UserAddr};
pub use chain::{Chain, MAX_CHAIN_DESCS, MAX_CHAIN_SEGMENTS};
pub use desc::{packed_availability, packed_used, ByteOrder, Desc, RawDesc, RawUsed};
pub use desc::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_SIZE};
pub use fault::Fault;
pub use iotlb::{InvalidMapping, Iotlb, IotlbEntry, Mapping, Miss, Permission, Untranslated};
pub use log::{for_each_log_word, log_extent};
pub use look::{Look, Offer, Progress};
pub use mediated::{DirtyLog, GuestRanges, Mediated, Notes, Owed, OwnerAccess};
pub use memory::{LoadMemory, Memory, Unmapped};
pub use packed::PackedRing;
pub use position::Position;
pub use region::{InvalidRegion, MemTable, Region};
pub use ring::{CompleteWork, GetWork, KickControl, Ring, RingAddrs, MAX_RING_SIZE, PREFETCH};
pub use rings::{InForce, Rings};
pub use segment::{Access, Hint, Segment, Segments, Translate};
pub use split::SplitRing;
