// SPDX-License-Identifier: GPL-2.0

//! The network device class, which moves packets between virtqueues and a tap.
//!
//! The C counterpart is `drivers/vhost/net.c`.

use kernel::ioctl::_IOW;
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::sync::Arc;
use vring::Fault;

use crate::kapi::{Counter, Frames, OwnerMemory};
use crate::vhost::class::Class;
use crate::vhost::device::Device;
use crate::vhost::features::{self, Features};
use crate::vhost::ioctl;
use crate::vhost::queues::{Queues, State, QUEUES};
use crate::vhost::round::Next;
use crate::vhost::stats::Stats;
use crate::vhost::uapi::{self, RawPair};
use crate::vhost::virtqueue::Virtqueue;
use crate::vhost::worker::Pending;
use direction::{Direction, TX};
use header::Header;
use link::Link;

mod tx;
mod rx;
mod link;
mod header;
mod buffers;
mod direction;

/// Packets after which a round ends, so that the other queue gets its turn
/// (`VHOST_NET_PKT_WEIGHT`).
const MAX_ROUND_PACKETS: usize = 256;
/// Bytes after which a round ends (`VHOST_NET_WEIGHT`).
const MAX_ROUND_BYTES: usize = 0x80000;
/// Descriptors after which a round ends, including empty ones and those of indirect tables.
///
/// The limit is 64 for each packet, which is more than any driver needs. Without it, a guest that
/// makes chains of empty descriptors would keep the queue's mutex from its owner for long.
const MAX_ROUND_DESCS: u32 = 1 << 14;

/// `VHOST_NET_SET_BACKEND`.
const SET_BACKEND: u32 = _IOW::<RawPair>(uapi::VHOST_VIRTIO, 0x30);

/// The network device class.
pub(crate) struct Net;

/// The state that each queue of a network device has.
pub(crate) struct Packets {
    header: Header,
    /// Frames to be sent to the backend; only the transmit queue uses them.
    frames: Frames,
}

impl Queues for Net {
    const NAMES: [&'static str; QUEUES] = [Direction::Rx.name(), Direction::Tx.name()];
    type Target = Link;
    type State = Packets;
}

impl Class for Net {
    const NAME: &'static CStr = c"vhost-rnet";
    const FEATURES: Features = Features::new([
        1 << header::MRG_RXBUF
            | 1 << features::NOTIFY_ON_EMPTY
            | 1 << features::LOG_ALL
            | 1 << header::VHOST_NET_HDR
            | 1 << features::INDIRECT_DESC
            | 1 << features::EVENT_IDX
            | 1 << features::VERSION_1
            | 1 << features::ACCESS_PLATFORM
            | 1 << features::RING_PACKED
            | 1 << features::IN_ORDER
            | 1 << features::RING_RESET,
        1 << (header::GUEST_UDP_TUNNEL_GSO - u64::BITS)
            | 1 << (header::HOST_UDP_TUNNEL_GSO - u64::BITS),
    ]);

    const FEATURE_NAMES: &'static [(u32, &'static str)] = &[
        (header::MRG_RXBUF, "mrg_rxbuf"),
        (header::VHOST_NET_HDR, "vhost_net_hdr"),
        (header::GUEST_UDP_TUNNEL_GSO, "guest_udp_tunnel_gso"),
        (header::HOST_UDP_TUNNEL_GSO, "host_udp_tunnel_gso"),
    ];

    fn ioctl(device: &Arc<Device<Self>>, cmd: u32, arg: usize) -> Result {
        match cmd {
            SET_BACKEND => ioctl::set_backend(device, arg),
            _ => Err(ENOTTY),
        }
    }

    #[inline(always)]
    fn run(
        index: usize,
        vq: &mut Virtqueue<Self>,
        memory: OwnerMemory<'_>,
        stats: &Stats,
        pending: &Pending,
    ) -> Result<Next, Fault> {
        match Direction::of(index) {
            Some(Direction::Rx) => rx::run(vq, memory, stats, pending),
            Some(Direction::Tx) => tx::run(vq, memory, stats, pending),
            None => Ok(Next::Wait),
        }
    }
}

impl State for Packets {
    fn new(kept: Arc<Counter>) -> Result<Self> {
        Ok(Self {
            header: Header::default(),
            frames: Frames::new(kept)?,
        })
    }

    fn set_features(&mut self, features: &Features) {
        self.header = Header::new(features);
    }

    #[inline(always)]
    fn keeps_memory(&self, index: usize) -> bool {
        index == TX && self.frames.keeps_memory()
    }

    fn release(&mut self) {
        self.frames.release();
    }

    fn reset(&mut self) {
        let Self { header, frames } = self;
        *header = Header::default();
        frames.release();
    }
}
