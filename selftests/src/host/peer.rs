// SPDX-License-Identifier: GPL-2.0

//! The other end of the wire: a packet socket on the tap interface.

use crate::packet::frame::ETHERTYPE;
use crate::packet::header::NetHeader;
use crate::sys::net::{self, SOL_PACKET};
use anyhow::{Context, Result, bail};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const PACKET_VNET_HDR: i32 = 15;
const PACKET_QDISC_BYPASS: i32 = 20;
pub(crate) const SOL_SOCKET: i32 = 1;
pub(crate) const SO_RCVBUFFORCE: i32 = 33;
const SO_SNDBUFFORCE: i32 = 32;
const ETH_P_IP: u16 = 0x0800;
pub(crate) const ETH_P_ALL: u16 = 3;
/// Enough for a full ring of the largest frames.
const BUFFER: i32 = 256 << 20;
/// The longest frame that is received, in bytes: some more than a packet can have.
const LONGEST: usize = 80_000;
/// The size of the header a packet socket puts before frames.
const HEADER: usize = 10;

/// A packet socket bound to one interface and EtherType.
#[derive(Debug)]
pub struct Peer {
    fd: OwnedFd,
    headers: bool,
    scratch: Vec<u8>,
}

impl Peer {
    /// A socket for plain frames.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn new(if_index: i32) -> Result<Self> {
        Self::open(if_index, ETHERTYPE, false)
    }

    /// A socket for IPv4 frames that carry segmentation headers.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn with_headers(if_index: i32) -> Result<Self> {
        Self::open(if_index, ETH_P_IP, true)
    }

    /// A socket for all frames that the interface has, whoever else takes them, with segmentation
    /// headers.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn of_all(if_index: i32) -> Result<Self> {
        Self::open(if_index, ETH_P_ALL, true)
    }

    fn open(if_index: i32, ethertype: u16, headers: bool) -> Result<Self> {
        // Protocol zero: nothing arrives before the socket is bound.
        let fd = net::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).context("packet socket")?;
        let set = |level, name, value| net::set_option(fd.as_fd(), level, name, value);
        set(SOL_SOCKET, SO_RCVBUFFORCE, BUFFER).context("receive buffer")?;
        set(SOL_SOCKET, SO_SNDBUFFORCE, BUFFER).context("send buffer")?;
        set(SOL_PACKET, PACKET_QDISC_BYPASS, 1).context("qdisc bypass")?;
        if headers {
            set(SOL_PACKET, PACKET_VNET_HDR, 1).context("virtio-net headers")?;
        }
        net::packet_bind(fd.as_fd(), if_index, ethertype).context("bind packet socket")?;
        Ok(Self {
            fd,
            headers,
            scratch: vec![0; HEADER + LONGEST],
        })
    }

    /// Sends by way of the interface's queue, as the network stack does, or past it.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn set_queued(&self, queued: bool) -> Result<()> {
        let bypass = i32::from(!queued);
        net::set_option(self.fd.as_fd(), SOL_PACKET, PACKET_QDISC_BYPASS, bypass)
            .context("qdisc bypass")
    }

    /// Sends a frame towards the guest.
    ///
    /// # Errors
    ///
    /// When the socket does not take it whole.
    pub fn send(&mut self, header: NetHeader, frame: &[u8]) -> Result<()> {
        let whole = if self.headers {
            self.scratch[..HEADER].copy_from_slice(&header.bytes()[..HEADER]);
            self.scratch[HEADER..HEADER + frame.len()].copy_from_slice(frame);
            &self.scratch[..HEADER + frame.len()]
        } else {
            frame
        };
        let sent = net::send(self.fd.as_fd(), whole)
            .with_context(|| format!("send a frame of {} bytes", frame.len()))?;
        if sent != whole.len() {
            bail!("{sent} of {} bytes sent", whole.len());
        }
        Ok(())
    }

    /// Receives the next frame from the guest, if there is one, whatever it is; answers its length.
    ///
    /// # Errors
    ///
    /// When the socket fails.
    pub fn take(&mut self) -> Result<Option<usize>> {
        match net::receive(self.fd.as_fd(), &mut self.scratch) {
            Ok(got) => Ok(Some(got)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("receive a frame"),
        }
    }

    /// Receives the next frame from the guest into `frame`, if there is one.
    ///
    /// # Errors
    ///
    /// When the socket fails.
    pub fn receive(&mut self, frame: &mut Vec<u8>) -> Result<Option<NetHeader>> {
        let Some(got) = self.take()? else {
            return Ok(None);
        };
        let skip = if self.headers { HEADER } else { 0 };
        let bytes = self
            .scratch
            .get(skip..got)
            .context("frame longer than any can be")?;
        frame.clear();
        frame.extend_from_slice(bytes);
        Ok(Some(NetHeader::parse(&self.scratch[..skip])))
    }
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
