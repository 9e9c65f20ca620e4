// SPDX-License-Identifier: GPL-2.0

//! What a device is made from: features, sizes, and the layout of memory and chains.

use crate::driver::memory::GuestMemory;
use crate::driver::ring::Segment;
use crate::driver::uapi::feature;
use crate::host::peer::Peer;
use crate::host::tap::TapConfig;
use anyhow::Result;
use std::sync::Arc;

/// How frames are laid out over descriptors.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Whether the virtio-net header has a descriptor of its own.
    pub own_header: bool,
    /// The most bytes one descriptor covers.
    pub piece: usize,
    /// Whether the chain goes into an indirect table.
    pub indirect: bool,
}

impl Shape {
    /// Header and data in one descriptor.
    pub const WHOLE: Self = Self {
        own_header: false,
        piece: usize::MAX,
        indirect: false,
    };

    /// Whether each buffer takes one descriptor of the ring.
    #[must_use]
    pub fn one_descriptor(&self) -> bool {
        self.indirect || (!self.own_header && self.piece == usize::MAX)
    }

    /// The segments for a buffer of `len` bytes at `addr`, header included.
    pub(crate) fn segments(
        &self,
        addr: u64,
        header: usize,
        len: usize,
        writable: bool,
    ) -> Vec<Segment> {
        let mut out = Vec::new();
        let mut at = 0;
        while at < len {
            let own = self.own_header && at < header;
            let end = if own { header.min(len) } else { len };
            let part = (end - at).min(self.piece);
            // CAST: buffers are far below 4 GiB.
            out.push(Segment {
                addr: addr + at as u64,
                len: part as u32,
                writable,
            });
            at += part;
        }
        out
    }
}

/// How to make a device.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Accepted features.
    pub features: u64,
    /// Accepted features from bit 64 on.
    pub more_features: u64,
    /// Descriptors of the receive queue.
    pub rx_size: u16,
    /// Descriptors of the transmit queue.
    pub tx_size: u16,
    /// How many chains of one descriptor lead to the place at which both rings start.
    pub base: u16,
    /// Buffers of the receive queue and the length of each, header included.
    pub rx_buffers: (usize, usize),
    /// Buffers of the transmit queue and the length of each, header included.
    pub tx_buffers: (usize, usize),
    /// Layout of receive buffers.
    pub rx_shape: Shape,
    /// Layout of transmitted frames.
    pub tx_shape: Shape,
    /// Room for entries in each indirect table.
    pub table: usize,
    /// What the tap may hand to the guest unsegmented.
    pub offloads: u32,
    /// Whether the peer speaks IP, with segmentation headers.
    pub tcp: bool,
    /// Regions of guest memory beside the first, as address and length.
    pub regions: Vec<(u64, usize)>,
    /// Whether the driver is a legacy one on a big-endian machine.
    pub big_endian: bool,
    /// Whether the pages of memory are in no order, for a device behind an IOMMU.
    pub scattered: bool,
    /// Bytes before and behind each region that the device must not touch.
    pub margin: usize,
    /// Whether memory may be taken away from the device alone: the driver has a mapping of its own,
    /// and each part of a queue has pages of its own.
    pub removable: bool,
}

impl Setup {
    /// A device with 256 descriptors and buffers of 2 KiB each way.
    #[must_use]
    pub fn new(features: u64) -> Self {
        Self {
            features,
            more_features: 0,
            rx_size: 256,
            tx_size: 256,
            base: 0,
            rx_buffers: (256, 2048),
            tx_buffers: (256, 2048),
            rx_shape: Shape::WHOLE,
            tx_shape: Shape::WHOLE,
            table: 32,
            offloads: 0,
            tcp: false,
            regions: Vec::new(),
            scattered: false,
            big_endian: false,
            margin: 0,
            removable: false,
        }
    }

    /// Length of the virtio-net header under these features.
    #[must_use]
    pub fn header(&self) -> usize {
        let tunnel = feature::GUEST_UDP_TUNNEL_GSO | feature::HOST_UDP_TUNNEL_GSO;
        if self.more_features & tunnel != 0 {
            24
        } else if self.features & (feature::MRG_RXBUF | feature::VERSION_1) == 0 {
            10
        } else {
            12
        }
    }

    /// How a tap has to be for this device.
    #[must_use]
    pub fn tap(&self) -> TapConfig {
        // CAST: 10 or 12.
        let header = self.header() as u8;
        let own_header = self.features & feature::NET_HDR != 0;
        TapConfig {
            header: if own_header { 0 } else { header },
            offloads: self.offloads,
            multiqueue: false,
        }
    }

    /// The peer for this device on the interface that its frames come from.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn peer(&self, if_index: i32) -> Result<Peer> {
        if self.tcp {
            Peer::with_headers(if_index)
        } else {
            Peer::new(if_index)
        }
    }

    fn pool(&self, which: (usize, usize), shape: Shape) -> usize {
        let table = if shape.indirect { 16 * self.table } else { 0 };
        which.0 * (which.1.next_multiple_of(64) + table) + (1 << 16)
    }

    pub(crate) fn memory(&self) -> Result<Arc<GuestMemory>> {
        let rings = 32 * (usize::from(self.rx_size) + usize::from(self.tx_size)) + (1 << 16);
        let first = rings
            + self.pool(self.rx_buffers, self.rx_shape)
            + self.pool(self.tx_buffers, self.tx_shape);
        let mut layout = vec![(GUEST_BASE, first)];
        layout.extend_from_slice(&self.regions);
        let mut memory = GuestMemory::with(&layout, self.scattered, self.margin)?;
        if self.removable {
            memory.split_view()?;
        }
        Ok(Arc::new(memory))
    }
}

/// Guest address of the first region; zero stays unmapped, so that a lost address is noticed.
pub const GUEST_BASE: u64 = 0x10_0000;
