// SPDX-License-Identifier: GPL-2.0

//! The virtio-net header of packets.

use crate::features::{Features, GUEST_UDP_TUNNEL_GSO, HOST_UDP_TUNNEL_GSO, VHOST_NET_HDR};

/// Who has the virtio-net header of a packet, and how long it is in bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Header {
    /// Bytes that the guest sees and the backend does not: vhost adds and removes them.
    pub(crate) vhost: usize,
    /// Bytes that the backend has before each packet.
    pub(crate) sock: usize,
}

impl Header {
    /// The header that goes with `features`, as `vhost_net_set_features()` sizes it.
    pub(crate) const fn new(features: &Features) -> Self {
        let tunnels = features.has(GUEST_UDP_TUNNEL_GSO) || features.has(HOST_UDP_TUNNEL_GSO);
        // `struct virtio_net_hdr_v1_hash_tunnel`, `virtio_net_hdr_mrg_rxbuf`, `virtio_net_hdr`.
        let len = match features.has_num_buffers() {
            _ if tunnels => 24,
            true => 12,
            false => 10,
        };
        if features.has(VHOST_NET_HDR) {
            Self {
                vhost: len,
                sock: 0,
            }
        } else {
            Self {
                vhost: 0,
                sock: len,
            }
        }
    }

    /// Bytes that the guest sees before each packet.
    #[inline]
    pub(crate) const fn guest(&self) -> usize {
        // One of the two is zero.
        self.vhost | self.sock
    }
}
