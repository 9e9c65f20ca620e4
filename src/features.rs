// SPDX-License-Identifier: GPL-2.0

//! Feature bits: what is offered, and what was acknowledged.

/// Number of 64-bit words of features (`VIRTIO_FEATURES_U64S`).
pub(crate) const WORDS: usize = 2;

/// `VIRTIO_NET_F_MRG_RXBUF`: a received packet may span several buffers.
pub(crate) const MRG_RXBUF: u32 = 15;
/// `VIRTIO_F_NOTIFY_ON_EMPTY`.
pub(crate) const NOTIFY_ON_EMPTY: u32 = 24;
/// `VHOST_F_LOG_ALL`: writes to guest memory are logged.
pub(crate) const LOG_ALL: u32 = 26;
/// `VHOST_NET_F_VIRTIO_NET_HDR`: the backend has no virtio-net header, vhost adds and removes it.
/// Between guest and device the same bit is `VIRTIO_F_ANY_LAYOUT`, which always holds here.
pub(crate) const VHOST_NET_HDR: u32 = 27;
/// `VIRTIO_RING_F_INDIRECT_DESC`.
pub(crate) const INDIRECT_DESC: u32 = 28;
/// `VIRTIO_RING_F_EVENT_IDX`.
pub(crate) const EVENT_IDX: u32 = 29;
/// `VIRTIO_F_VERSION_1`.
pub(crate) const VERSION_1: u32 = 32;
/// `VIRTIO_F_ACCESS_PLATFORM`: addresses are those of a virtual IOMMU.
pub(crate) const ACCESS_PLATFORM: u32 = 33;
/// `VIRTIO_F_IN_ORDER`: buffers are used in the order in which they were made available.
pub(crate) const IN_ORDER: u32 = 35;
/// `VIRTIO_F_RING_RESET`: a queue may be reset by itself, which takes no more than unbinding.
pub(crate) const RING_RESET: u32 = 40;

/// `VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO`: received packets may be UDP tunnels to be segmented.
pub(crate) const GUEST_UDP_TUNNEL_GSO: u32 = 65;
/// `VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO`: transmitted packets may be such.
pub(crate) const HOST_UDP_TUNNEL_GSO: u32 = 67;

/// A set of feature bits, 0 to 127.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Features([u64; WORDS]);

impl Features {
    /// What the device can do.
    pub(crate) const OFFERED: Self = Self([
        1 << MRG_RXBUF
            | 1 << NOTIFY_ON_EMPTY
            | 1 << LOG_ALL
            | 1 << VHOST_NET_HDR
            | 1 << INDIRECT_DESC
            | 1 << EVENT_IDX
            | 1 << VERSION_1
            | 1 << ACCESS_PLATFORM
            | 1 << IN_ORDER
            | 1 << RING_RESET,
        1 << (GUEST_UDP_TUNNEL_GSO - u64::BITS) | 1 << (HOST_UDP_TUNNEL_GSO - u64::BITS),
    ]);

    /// The set in words, bit 0 first.
    pub(crate) const fn words(&self) -> &[u64; WORDS] {
        &self.0
    }

    /// The set given by words, if all of it is offered.
    pub(crate) fn acknowledged(words: [u64; WORDS]) -> Option<Self> {
        let mut pairs = words.iter().zip(Self::OFFERED.0.iter());
        pairs
            .all(|(word, offered)| word & !offered == 0)
            .then_some(Self(words))
    }

    /// Whether `bit` is in the set.
    #[inline]
    pub(crate) const fn has(&self, bit: u32) -> bool {
        let [low, high] = self.0;
        let word = if bit < u64::BITS { low } else { high };
        word & 1u64.wrapping_shl(bit) != 0
    }

    /// Whether received packets carry a buffer count in their header (virtio 1.3, section 5.1.6).
    #[inline]
    pub(crate) const fn has_num_buffers(&self) -> bool {
        self.has(MRG_RXBUF) || self.has(VERSION_1)
    }
}
