// SPDX-License-Identifier: GPL-2.0
//! The tests, each with what it builds, runs in a VM and counts as a failure.

mod cases;
pub mod arm64;
pub mod check;
pub mod code;
pub mod conformance;
pub mod demo;
mod dpdk;
pub mod extent;
pub mod fuzz;
pub mod guests;
mod jobs;
mod ktap;
pub mod libvirt;
mod oldest_cargo;
pub mod packages;
mod programs;
mod refused;
pub mod soak;
pub mod tally;
