// SPDX-License-Identifier: GPL-2.0

//! A userspace virtio driver over `/dev/vhost-*`, and the tests that use it.
//!
//! The device path is a parameter everywhere, so that the same case runs against the in-tree
//! `vhost_net` and against `vhost_rnet`: a case is believed once it passes on the former.
//!
//! From the bottom up, each on those before it:
//!
//! | module | what it is |
//! | --- | --- |
//! | [`sys`], [`wait`], [`eventfd`], [`skip`] | every `unsafe` line; what threads wait by; what a machine lacks |
//! | [`packet`] | frames and their headers |
//! | [`host`] | what packets meet on the host, and what a test sees and sets there |
//! | [`driver`] | the guest's and its hypervisor's side of a device |
//! | [`case`], [`bench`], [`soak`], [`conformance`] | what a test is; figures; traffic that goes on; two devices compared call by call |
//! | [`runner`] | runs each test in a process of its own |
//! | [`cases`], [`fuzz`] | all tests; what nobody should do, at random |
//! | [`history`] | which tests are for bugs that such code has had |

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
pub mod packet;
pub mod runner;
pub mod skip;
pub mod soak;
pub mod sys;
pub mod wait;
