// SPDX-License-Identifier: GPL-2.0

//! A userspace virtio driver over `/dev/vhost-*`, and the tests that use it.
//!
//! The device path is a parameter everywhere, so that the same case runs against the in-tree
//! `vhost_net` and against `vhost_rnet`: a case is believed once it passes on the former.
//!
//! From the bottom up: [`sys`] holds every `unsafe` line, [`wait`] and [`eventfd`] are what threads
//! wait by. [`driver`] is the guest's and its hypervisor's side of a device, [`host`] what packets meet
//! on the host, and what a test sees and sets there. [`case`] says what a test is, [`cases`] are all of them and [`runner`] runs each in
//! a process of its own; [`history`] says which of them are for bugs that such code has had. [`soak`]
//! goes on for as long as one likes. [`conformance`] compares two devices call by call, [`fuzz`] does to
//! one what nobody should. [`bench`] measures, with a driver of its own that does less.

#![deny(unsafe_code)]

pub mod bench;
pub mod case;
pub mod cases;
pub mod conformance;
pub mod driver;
pub mod eventfd;
pub mod fuzz;
pub mod history;
pub mod host;
pub mod runner;
pub mod soak;
pub mod sys;
pub mod wait;
