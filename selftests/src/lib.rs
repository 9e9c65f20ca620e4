// SPDX-License-Identifier: GPL-2.0

//! A userspace virtio driver over `/dev/vhost-*`, and the tests that use it.
//!
//! The device path is a parameter everywhere, so that the same case runs against the in-tree
//! `vhost_net` and against `vhost_rnet`: a case is believed once it passes on the former.
//!
//! From the bottom up: [`sys`] holds every `unsafe` line; [`uapi`] the kernel's structures;
//! [`vhost`] the ioctls; [`memory`] what the device sees as guest memory, and [`away`] how that goes
//! for a while; [`ring`] and [`split`] the driver's half of a virtqueue; [`iotlb`] and [`iommu`] its IO
//! addresses, [`log`] its dirty log; [`tap`] and [`peer`] the other end of the wire, [`wire`] the kinds
//! of backend beside taps;
//! [`queue`] is a ring with its buffers and notifications, [`setup`] and [`device`] put all together;
//! [`traffic`] moves numbered frames through it and checks every byte; [`load`] does so on several
//! devices at once; [`census`] counts what is left behind; [`soak`] goes on for as long as one likes;
//! [`cases`] are the tests and [`runner`] runs each in a process of its own, after a word in the
//! kernel's log ([`kmsg`]); [`history`] says which of them are for bugs that such code has had.
//! [`conformance`] compares two devices call by call, [`fuzz`] does to one what nobody should.
//! [`bench`] measures, with a driver of its own that does less.

#![deny(unsafe_code)]

pub mod away;
pub mod bench;
pub mod cases;
pub mod census;
pub mod cgroup;
pub mod conformance;
pub mod device;
pub mod eventfd;
pub mod fragments;
pub mod frame;
pub mod fuzz;
pub mod history;
pub mod iommu;
pub mod iotlb;
pub mod kmsg;
pub mod load;
pub mod log;
pub mod memory;
pub mod nics;
pub mod peer;
pub mod procfs;
pub mod queue;
pub mod ring;
pub mod runner;
pub mod segments;
pub mod setup;
pub mod soak;
pub mod split;
pub mod sys;
pub mod tap;
pub mod traffic;
pub mod uapi;
pub mod vhost;
pub mod wait;
pub mod wire;
