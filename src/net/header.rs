// SPDX-License-Identifier: GPL-2.0

//! The virtio-net header of packets, and the features that determine its contents.

use crate::vhost::features::Features;

/// `VIRTIO_NET_F_MRG_RXBUF`: a received packet may span several buffers.
pub(crate) const MRG_RXBUF: u32 = 15;
/// `VHOST_NET_F_VIRTIO_NET_HDR`: vhost adds and removes the header, since the backend has none.
///
/// Between guest and device the same bit is `VIRTIO_F_ANY_LAYOUT`, which is always supported.
pub(crate) const VHOST_NET_HDR: u32 = 27;
/// `VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO`: received packets may be UDP tunnels to be segmented.
pub(crate) const GUEST_UDP_TUNNEL_GSO: u32 = 65;
/// `VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO`: transmitted packets may be UDP tunnels to be segmented.
pub(crate) const HOST_UDP_TUNNEL_GSO: u32 = 67;

/// `VIRTIO_NET_HDR_F_DATA_VALID`: the packet's checksum has been verified.
pub(crate) const DATA_VALID: u8 = 2;

/// The longest header, in bytes (`struct virtio_net_hdr_v1_hash_tunnel`).
const MAX_HEADER: usize = 24;

/// Whether received packets carry a buffer count in their header (virtio 1.3, section 5.1.6).
#[inline]
pub(crate) const fn has_num_buffers(features: &Features) -> bool {
    features.has(MRG_RXBUF) || features.is_modern()
}

/// Which side has the virtio-net header of a packet, and how long the header is in bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Header {
    /// Length of a header that only the guest has; vhost adds and removes it.
    pub(crate) vhost: usize,
    /// Length of a header that the backend has before each packet, too.
    pub(crate) sock: usize,
}

impl Header {
    /// The header for `features`, with the length that `vhost_net_set_features()` chooses.
    pub(crate) const fn new(features: &Features) -> Self {
        let tunnels = features.has(GUEST_UDP_TUNNEL_GSO) || features.has(HOST_UDP_TUNNEL_GSO);
        // `struct virtio_net_hdr_v1_hash_tunnel`, `virtio_net_hdr_mrg_rxbuf`, `virtio_net_hdr`.
        let len = match has_num_buffers(features) {
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

    /// Length of the header that the guest sees, in bytes.
    #[inline]
    pub(crate) const fn guest(&self) -> usize {
        // One of the two lengths is zero.
        self.vhost | self.sock
    }
}

/// The header of a packet that needs no work of the guest: `flags` and the number of buffers, which
/// is in the guest's byte order.
#[inline(always)]
pub(crate) fn plain_header(flags: u8, num_buffers: Option<u16>) -> [u8; MAX_HEADER] {
    let mut header = [0; MAX_HEADER];
    let [first, .., low, high, _, _, _, _, _, _, _, _, _, _, _, _] = &mut header;
    *first = flags;
    [*low, *high] = num_buffers.unwrap_or(0).to_ne_bytes();
    header
}
