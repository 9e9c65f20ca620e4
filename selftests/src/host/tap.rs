// SPDX-License-Identifier: GPL-2.0

//! Tap interfaces in a network namespace of the test's own.

use crate::sys::net;
use anyhow::{Context, Result};
use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const IFF_TUN: i32 = 0x0001;
const IFF_TAP: i32 = 0x0002;
const IFF_NO_PI: i32 = 0x1000;
const IFF_VNET_HDR: i32 = 0x4000;
const IFF_MULTI_QUEUE: i32 = 0x0100;
const IFF_NAPI: i32 = 0x0010;
const IFF_NAPI_FRAGS: i32 = 0x0020;
const IFF_BACKPRESSURE: i32 = 0x0080;

/// Frames of up to 64 KiB must pass without segmentation.
pub const MTU: i32 = 65521;

/// Offload: checksums are left to the guest.
pub const OFFLOAD_CSUM: u32 = 1;
/// Offload: TCP over IPv4 is not segmented.
pub const OFFLOAD_TSO4: u32 = 2;

/// Offload: frames in UDP tunnels are not segmented; with one of the others only.
pub const OFFLOAD_UDP_TUNNEL: u32 = 0x80;

/// How to make a tap.
#[derive(Clone, Copy, Debug)]
pub struct TapConfig {
    /// Size of the virtio-net header, zero for none.
    pub header: u8,
    /// `OFFLOAD_*` bits.
    pub offloads: u32,
    /// Whether several queues share the interface.
    pub multiqueue: bool,
}

/// Enters a new network namespace without IPv6, so that no frame appears by itself.
///
/// # Errors
///
/// Without the privilege to do so.
pub fn private_network() -> Result<()> {
    crate::sys::process::unshare_network().context("unshare the network")?;
    for which in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
        if fs::exists(&path)? {
            fs::write(&path, "1").context("disable IPv6")?;
        }
    }
    Ok(())
}

/// Opens the tun driver without attaching to an interface.
///
/// # Errors
///
/// When the driver is missing.
pub fn open_unattached() -> Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    Ok(file.context("open /dev/net/tun")?.into())
}

/// Sets how many frames each queue of the tap `name` keeps for its device.
///
/// # Errors
///
/// What the kernel answers.
pub fn set_queue_length(name: &str, frames: u16) -> Result<()> {
    net::if_queue_length(name, frames.into()).context("length of the tap's queue")
}

/// Brings up the interface `name`, which another program has made, and answers its index.
///
/// # Errors
///
/// What the kernel answers.
pub fn bring_up(name: &str, mtu: i32) -> Result<i32> {
    net::if_up(name, mtu).with_context(|| format!("bring up {name}"))?;
    net::if_index(name).with_context(|| format!("index of {name}"))
}

/// Flags and sizes that all taps share.
fn configure(fd: BorrowedFd<'_>, name: &str, config: TapConfig, extra: i32) -> Result<()> {
    let kind = if extra & IFF_TUN == 0 { IFF_TAP } else { 0 };
    let mut flags = kind | IFF_NO_PI | extra;
    if config.header > 0 {
        flags |= IFF_VNET_HDR;
    }
    if config.multiqueue {
        flags |= IFF_MULTI_QUEUE;
    }
    net::tun_attach(fd, name, flags).context("attach to tap")?;
    if config.header > 0 {
        net::tun_header_size(fd, i32::from(config.header)).context("header size")?;
        net::tun_offload(fd, config.offloads).context("tap offloads")?;
    }
    net::tun_send_buffer(fd, i32::MAX).context("tap send buffer")
}

/// One queue of a tap interface.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    if_index: i32,
}

impl Tap {
    /// Makes the interface `name`, or a further queue of it, and brings it up.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn new(name: &str, config: TapConfig) -> Result<Self> {
        Self::with_flags(name, config, 0)
    }

    /// Makes the interface `name`, which takes the guest's frames as a network card does its own.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn napi(name: &str, config: TapConfig) -> Result<Self> {
        Self::with_flags(name, config, IFF_NAPI | IFF_NAPI_FRAGS)
    }

    /// Makes the interface `name`, which stops its queue when the reader is behind.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn stopping(name: &str, config: TapConfig) -> Result<Self> {
        Self::with_flags(name, config, IFF_BACKPRESSURE)
    }

    /// Whether the kernel has taps that stop their queue.
    ///
    /// # Errors
    ///
    /// When the driver is missing.
    pub fn can_stop() -> Result<bool> {
        let features = net::tun_features(open_unattached()?.as_fd()).context("tun features")?;
        Ok(features & IFF_BACKPRESSURE != 0)
    }

    fn with_flags(name: &str, config: TapConfig, flags: i32) -> Result<Self> {
        let fd = open_unattached()?;
        configure(fd.as_fd(), name, config, flags)?;
        net::if_up(name, MTU).context("bring tap up")?;
        Self::adopt(fd, name)
    }

    /// Makes a tun interface `name`, whose packets have no Ethernet header.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn layer_3(name: &str, config: TapConfig) -> Result<Self> {
        Self::with_flags(name, config, IFF_TUN)
    }

    /// A queue of a macvtap or ipvtap interface: `fd` is its node, opened.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn of_node(fd: OwnedFd, name: &str, config: TapConfig) -> Result<Self> {
        configure(fd.as_fd(), name, config, 0)?;
        Self::adopt(fd, name)
    }

    /// Any other file that serves as a backend on interface `name`.
    ///
    /// # Errors
    ///
    /// When there is no such interface.
    pub fn adopt(fd: OwnedFd, name: &str) -> Result<Self> {
        let if_index = net::if_index(name).with_context(|| format!("index of {name}"))?;
        Ok(Self { fd, if_index })
    }

    /// Attaches the file, whose interface has been deleted, to a new interface `name`.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn attach_again(&mut self, name: &str, config: TapConfig) -> Result<()> {
        configure(self.fd.as_fd(), name, config, 0)?;
        net::if_up(name, MTU).context("bring tap up")?;
        self.if_index = net::if_index(name).with_context(|| format!("index of {name}"))?;
        Ok(())
    }

    /// The interface's index.
    #[must_use]
    pub fn if_index(&self) -> i32 {
        self.if_index
    }

    /// The bare descriptor number, for the device.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// A second descriptor of the same queue.
    ///
    /// # Errors
    ///
    /// When the process has too many descriptors.
    pub fn duplicate(&self) -> Result<OwnedFd> {
        self.fd.try_clone().context("dup of tap")
    }

    /// Limits what the interface may have in flight; below `i32::MAX` batching ends.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn set_send_buffer(&self, bytes: i32) -> Result<()> {
        net::tun_send_buffer(self.fd.as_fd(), bytes).context("tap send buffer")
    }

    /// Changes the offloads that the guest takes.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn set_offloads(&self, offloads: u32) -> Result<()> {
        net::tun_offload(self.fd.as_fd(), offloads).context("tap offloads")
    }

    /// Changes the size of the virtio-net header.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn set_header_size(&self, bytes: i32) -> std::io::Result<()> {
        net::tun_header_size(self.fd.as_fd(), bytes)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
