// SPDX-License-Identifier: GPL-2.0

//! The tests: one function each, run in a process and network namespace of its own.
//!
//! The case `family.name` is in the file or the folder `family`, in one of these folders:
//!
//! | folder | what its cases are about |
//! | --- | --- |
//! | `calls` | what each call takes and refuses, messages, statistics |
//! | `rings` | indexes, notifications, the order of used elements, the formats |
//! | `packets` | every byte of frames, whatever their length, layout and headers |
//! | `backends` | taps and other backends, network cards |
//! | `memory` | IOTLB, dirty log, memory that is missing or denied |
//! | `threads` | workers: what they are, how many, which queue they serve |
//! | `guests` | guests that break the rules or take more than their share |
//! | `lifetime` | devices, owners and the module come, change and go |
//! | `operator` | what an operator of the host sees and does: `rnetctl` |
//! | `history` | bugs that such code has had |
//!
//! A case about rings of any format (`ring_case`) has a second name, `packed.family.name`, by which
//! it runs on packed rings.
//!
//! All build on `common`, which has what several families share; `rings` also builds on `packets`.

mod common;
mod calls;
mod rings;
mod packets;
mod backends;
mod memory;
mod threads;
mod guests;
mod lifetime;
mod operator;
mod history;

use crate::case::{Case, Role};
use crate::driver::ring::Format;

/// All cases, in the order they run; those that are for rings of any format are there for each.
#[must_use]
pub fn all() -> Vec<Case> {
    let mut all = on_split_rings();
    let on_packed = all.iter().filter_map(|case| case.on(Format::Packed));
    all.extend(on_packed.collect::<Vec<_>>());
    // Last, for the drivers that it loads stay.
    all.extend_from_slice(backends::nics::CASES);
    all
}

/// All cases but the last ones, on split rings or none.
fn on_split_rings() -> Vec<Case> {
    [
        calls::ioctl::owner::CASES,
        calls::ioctl::features::CASES,
        calls::ioctl::memory::CASES,
        calls::ioctl::vring::CASES,
        calls::messages::CASES,
        packets::tx::CASES,
        packets::rx::CASES,
        packets::net::CASES,
        rings::wrap::CASES,
        rings::base::CASES,
        rings::events::CASES,
        packets::rx::buffers::CASES,
        packets::rx::mixed::CASES,
        packets::rx::unfit::CASES,
        rings::in_order::CASES,
        rings::format::CASES,
        calls::busy::CASES,
        calls::stats::CASES,
        calls::trace::CASES,
        calls::view::CASES,
        calls::view::wakes::CASES,
        backends::backend::CASES,
        backends::change::CASES,
        backends::queues::CASES,
        packets::frames::unusual::CASES,
        packets::frames::long::CASES,
        packets::frames::memory::CASES,
        packets::frames::routed::CASES,
        backends::accept::CASES,
        backends::drops::CASES,
        guests::guest::tx::CASES,
        guests::guest::rx::CASES,
        lifetime::live::CASES,
        memory::log::CASES,
        memory::log::control::CASES,
        memory::log::live::CASES,
        memory::iotlb::CASES,
        memory::iotlb::misses::CASES,
        memory::iotlb::calls::CASES,
        memory::iotlb::log::CASES,
        packets::tunnel::CASES,
        calls::endian::CASES,
        lifetime::life::CASES,
        lifetime::kill::CASES,
        threads::worker::CASES,
        lifetime::module::CASES,
        threads::workers::calls::CASES,
        threads::workers::live::CASES,
        threads::signals::CASES,
        threads::fork::CASES,
        operator::rnetctl::commands::CASES,
        operator::rnetctl::explain::CASES,
        history::leaks::CASES,
        history::rings::CASES,
        memory::faults::owner::CASES,
        memory::away::CASES,
        memory::goes_on::CASES,
        memory::shortage::CASES,
        memory::pressure::CASES,
        guests::load::CASES,
        guests::bounded::CASES,
        lifetime::stress::CASES,
        lifetime::soak::CASES,
        memory::faults::alloc::CASES,
        memory::faults::alloc_random::CASES,
        history::races::CASES,
    ]
    .concat()
}

/// All helper roles.
#[must_use]
pub fn roles() -> Vec<Role> {
    [
        calls::ioctl::owner::ROLES,
        lifetime::kill::ROLES,
        threads::worker::ROLES,
        threads::workers::calls::ROLES,
        threads::workers::live::ROLES,
        threads::fork::ROLES,
        memory::faults::owner::ROLES,
        backends::change::ROLES,
        memory::iotlb::calls::ROLES,
        history::races::ROLES,
        guests::bounded::ROLES,
    ]
    .concat()
}
