// SPDX-License-Identifier: GPL-2.0

//! The host's side: what packets meet there, and what a test sees and sets.
//!
//! [`tap`] and [`peer`] are the ends of the wire, [`wire`] the kinds of backend beside taps,
//! [`nics`] the network cards; [`procfs`] and [`kmsg`] are what the kernel tells, [`census`] counts
//! what is left behind; [`parameter`] and [`trace`] are the module's; [`cgroup`] and [`fragments`] make
//! memory scarce.

pub mod census;
pub mod cgroup;
pub mod fragments;
pub mod kmsg;
pub mod nics;
pub mod parameter;
pub mod peer;
pub mod procfs;
pub mod tap;
pub mod trace;
pub mod wire;
