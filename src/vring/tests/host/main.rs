// SPDX-License-Identifier: GPL-2.0

//! Host tests of the ring and of address translation.
//!
//! Rules one by one ([`ring`], [`notify`], [`in_order`], [`chain`], [`order`], [`table`], [`iotlb`]),
//! properties of random runs ([`model`], [`hostile`]), and agreement with another implementation
//! ([`differential`]).

mod chain;
mod differential;
mod hostile;
mod in_order;
mod iotlb;
mod mock;
mod model;
mod notify;
mod order;
mod ring;
mod table;
