// SPDX-License-Identifier: GPL-2.0

//! The device side of virtio rings, as pure code.
//!
//! Everything a guest can write passes through this crate before anything else looks at it: ring
//! indexes, descriptors, guest-physical addresses. The crate has no `unsafe` code, no dependencies
//! and allocates nothing. It does not panic on any guest input: it neither indexes nor slices, and
//! guest values take part in wrapping or checked arithmetic only. The lints below hold it to that.
//!
//! How the parts fit together:
//!
//! - [`Memory`] is the owner's memory as the host sees it, with the few access operations a ring
//!   needs, memory ordering included. The kernel module and the host tests each bring their own.
//! - [`Translate`] turns a guest address range into [`Segment`]s of user addresses. [`MemTable`] is
//!   the translation by memory regions, [`Iotlb`] that of a guest behind a virtual IOMMU.
//! - [`for_each_log_word`] says where the dirty log has the bits of what was written;
//!   [`MemTable::guest_ranges`] leads there from a user address.
//! - [`Ring`] is what a round does with a ring: a *get work* half, [`GetWork`]; a *complete work* half,
//!   [`CompleteWork`]; and [`KickControl`], which turns the driver's kicks off and on:
//!   [`KickControl::enable_kick`] when there is no work, [`KickControl::await_kick`] when there is some
//!   that cannot be done. Its formats, [`SplitRing`] and [`PackedRing`], are set up each in its own way;
//!   [`Rings`] has one of each.
//!
//! Source of behaviour: virtio specification 1.3, sections 2.7 (split virtqueues) and 2.8 (packed
//! virtqueues); where it leaves a choice, the in-tree vhost (`drivers/vhost/vhost.c`), and for packed
//! rings, which that does not have, what drivers and owners expect (Linux, DPDK, QEMU).

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
pub use mediated::{DirtyLog, GuestRanges, Mediated, Notes, Owed, OwnerAccess};
pub use memory::{Memory, Unmapped};
pub use packed::PackedRing;
pub use position::Position;
pub use region::{InvalidRegion, MemTable, Region};
pub use ring::{CompleteWork, GetWork, KickControl, Ring, RingAddrs, MAX_RING_SIZE, PREFETCH};
pub use rings::{InForce, Rings};
pub use segment::{Access, Hint, Segment, Segments, Translate};
pub use split::SplitRing;
