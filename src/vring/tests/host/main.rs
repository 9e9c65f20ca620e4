// SPDX-License-Identifier: GPL-2.0

//! Host tests of the ring, of address translation and of the dirty log.
//!
//! They check single rules ([`ring`], [`notify`], [`awaited`], [`live`], [`in_order`],
//! [`repeated`], [`big_endian`], [`chain`], [`indirect`], [`order`], [`table`], [`iotlb`], [`log`], [`look`],
//! [`mediated`], [`packed`], [`rings`]), properties of random runs ([`model`], [`hostile`]), and
//! agreement with another implementation ([`differential`]).

mod awaited;
mod big_endian;
mod chain;
mod differential;
mod fault;
mod hostile;
mod in_order;
mod indirect;
mod iotlb;
mod live;
mod log;
mod look;
mod mediated;
mod mock;
mod model;
mod notify;
mod oracle;
mod order;
mod packed;
mod repeated;
mod ring;
mod rings;
mod table;
mod watch;
