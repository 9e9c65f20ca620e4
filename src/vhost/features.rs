// SPDX-License-Identifier: GPL-2.0

//! Feature bits, both offered and acknowledged ones.

/// Number of 64-bit words of features (`VIRTIO_FEATURES_U64S`).
pub(crate) const WORDS: usize = 2;

/// `VIRTIO_F_NOTIFY_ON_EMPTY`.
pub(crate) const NOTIFY_ON_EMPTY: u32 = 24;
/// `VHOST_F_LOG_ALL`: writes to guest memory are logged.
pub(crate) const LOG_ALL: u32 = 26;
/// `VIRTIO_RING_F_INDIRECT_DESC`.
pub(crate) const INDIRECT_DESC: u32 = 28;
/// `VIRTIO_RING_F_EVENT_IDX`.
pub(crate) const EVENT_IDX: u32 = 29;
/// `VIRTIO_F_VERSION_1`.
pub(crate) const VERSION_1: u32 = 32;
/// `VIRTIO_F_ACCESS_PLATFORM`: addresses are those of a virtual IOMMU.
pub(crate) const ACCESS_PLATFORM: u32 = 33;
/// `VIRTIO_F_RING_PACKED`: rings are packed, not split.
pub(crate) const RING_PACKED: u32 = 34;
/// `VIRTIO_F_IN_ORDER`: buffers are used in the order in which they were made available.
pub(crate) const IN_ORDER: u32 = 35;
/// `VIRTIO_F_RING_RESET`: a single queue may be reset, which vhost sees as unbinding its backend.
pub(crate) const RING_RESET: u32 = 40;

/// The names of the features of rings, for the operator.
pub(crate) const NAMES: [(u32, &str); 9] = [
    (NOTIFY_ON_EMPTY, "notify_on_empty"),
    (LOG_ALL, "log_all"),
    (INDIRECT_DESC, "indirect_desc"),
    (EVENT_IDX, "event_idx"),
    (VERSION_1, "version_1"),
    (ACCESS_PLATFORM, "access_platform"),
    (RING_PACKED, "ring_packed"),
    (IN_ORDER, "in_order"),
    (RING_RESET, "ring_reset"),
];

/// A set of feature bits, 0 to 127.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Features([u64; WORDS]);

impl Features {
    /// The set of `words`, bit 0 first.
    pub(crate) const fn new(words: [u64; WORDS]) -> Self {
        Self(words)
    }

    /// The set in words, bit 0 first.
    pub(crate) const fn words(&self) -> &[u64; WORDS] {
        &self.0
    }

    /// Returns `words` as a set, if they contain no bit outside of this set, which is the offered
    /// one.
    pub(crate) fn acknowledged(&self, words: [u64; WORDS]) -> Option<Self> {
        let mut pairs = words.iter().zip(self.0.iter());
        pairs
            .all(|(word, offered)| word & !offered == 0)
            .then_some(Self(words))
    }

    /// Whether rings and headers have the layout of virtio 1.0, including its little-endian byte
    /// order.
    ///
    /// Packed rings came after virtio 1.0, so they imply it.
    #[inline]
    pub(crate) const fn is_modern(&self) -> bool {
        self.has(VERSION_1) || self.has(RING_PACKED)
    }

    /// Whether `bit` is in the set.
    #[inline]
    pub(crate) const fn has(&self, bit: u32) -> bool {
        let [low, high] = self.0;
        let word = if bit < u64::BITS { low } else { high };
        word & 1u64.wrapping_shl(bit) != 0
    }
}
