// SPDX-License-Identifier: GPL-2.0

//! The virtio-net header of packets, and the features that determine its contents.

use vring::{Memory, Segment, UserAddr};

use crate::vhost::access::GuestMemory;
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

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const HDR_F_NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_NONE`: the packet is not to be segmented.
const GSO_NONE: u8 = 0;
/// Offset of `gso_type` in the header, in bytes.
const GSO_TYPE_OFFSET: u64 = 1;

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

/// What a packet is by its virtio-net header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is sent as it is.
    Plain,
    /// It is to be segmented.
    Gso,
    /// The header is wrong, and the packet cannot be sent.
    Wrong,
}

/// Whether the header at the beginning of `segments`, in guest memory, is that of a packet to be
/// segmented.
///
/// The guest may have changed the header since the packet was sent, or taken its memory away: then
/// it spoils its own statistics.
pub(crate) fn is_gso(memory: &impl GuestMemory, segments: &[Segment]) -> bool {
    let mut gso_type = [GSO_NONE];
    let at = byte_at(segments, GSO_TYPE_OFFSET);
    let read = at.map(|at| memory.owner().load_bytes(at, &mut gso_type));
    matches!(read, Some(Ok(()))) && gso_type != [GSO_NONE]
}

/// The address of the byte at `offset` in the segments.
fn byte_at(segments: &[Segment], mut offset: u64) -> Option<UserAddr> {
    for segment in segments {
        match offset.checked_sub(segment.len) {
            Some(behind) => offset = behind,
            None => return Some(segment.addr.wrapping_add(offset)),
        }
    }
    None
}

/// Makes `hdr_len` cover the checksum field, as the network stack requires.
///
/// `packet` is the beginning of a packet of `total` bytes. Returns [`Kind::Wrong`] if the packet
/// ends before the checksum field (virtio 1.3, section 5.1.6; `vhost_net_build_xdp()`).
#[inline]
pub(crate) fn fix_header(memory: &impl GuestMemory, packet: &mut [u8], total: usize) -> Kind {
    let field = |lo, hi| memory.field(u16::from_ne_bytes([lo, hi]));
    // struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
    let Some([flags, gso, len_lo, len_hi, _, _, start_lo, start_hi, offset_lo, offset_hi]) =
        packet.first_chunk_mut::<10>()
    else {
        return Kind::Wrong;
    };
    // Both at once, as one test for the common packet.
    if [*flags & HDR_F_NEEDS_CSUM, *gso] == [0, GSO_NONE] {
        return Kind::Plain;
    }
    let kind = match *gso {
        GSO_NONE => Kind::Plain,
        _ => Kind::Gso,
    };
    if *flags & HDR_F_NEEDS_CSUM == 0 {
        return kind;
    }
    let start = field(*start_lo, *start_hi);
    let offset = field(*offset_lo, *offset_hi);
    // Does not wrap in 32 bits.
    let need = u32::from(start)
        .wrapping_add(u32::from(offset))
        .wrapping_add(2);
    if need > u32::from(field(*len_lo, *len_hi)) {
        let Ok(need) = u16::try_from(need) else {
            return Kind::Wrong;
        };
        if usize::from(need) > total {
            return Kind::Wrong;
        }
        [*len_lo, *len_hi] = memory.field(need).to_ne_bytes();
    }
    kind
}
