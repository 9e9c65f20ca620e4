// SPDX-License-Identifier: GPL-2.0

//! The header in front of each packet (`linux/virtio_net.h`).

/// `struct virtio_net_hdr_v1_hash_tunnel`, of which shorter headers are the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetHeader {
    /// Bit 0: a checksum is to be filled in.
    pub flags: u8,
    /// Kind of segmentation.
    pub gso_type: u8,
    /// Length of the headers.
    pub hdr_len: u16,
    /// Payload of each segment.
    pub gso_size: u16,
    /// Where the checksum starts.
    pub csum_start: u16,
    /// Where it goes, from there.
    pub csum_offset: u16,
    /// Buffers this frame took; not in the 10-byte layout.
    pub num_buffers: u16,
    /// Hash, its kind and padding, of which nothing here makes use; only in the 24-byte layout.
    pub hash: u64,
    /// Where the outer UDP header of a tunnel starts; only in the 24-byte layout.
    pub outer_th: u16,
    /// Where the inner network header starts; only in the 24-byte layout.
    pub inner_nh: u16,
}

impl NetHeader {
    /// Little-endian bytes; callers take the first 10 or 12, or all.
    #[must_use]
    pub fn bytes(&self) -> [u8; 24] {
        let mut out = [0; 24];
        out[0] = self.flags;
        out[1] = self.gso_type;
        let words = [
            self.hdr_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
            self.num_buffers,
        ];
        for (to, word) in out[2..].chunks_exact_mut(2).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        out[12..20].copy_from_slice(&self.hash.to_le_bytes());
        out[20..22].copy_from_slice(&self.outer_th.to_le_bytes());
        out[22..].copy_from_slice(&self.inner_nh.to_le_bytes());
        out
    }

    /// Reads a header of 10, 12 or 24 bytes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let word = |at: usize| {
            let get = |i| bytes.get(i).copied().unwrap_or(0);
            u16::from_le_bytes([get(at), get(at + 1)])
        };
        Self {
            flags: bytes.first().copied().unwrap_or(0),
            gso_type: bytes.get(1).copied().unwrap_or(0),
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
            num_buffers: word(10),
            hash: (12..20)
                .step_by(2)
                .rev()
                .fold(0, |all, at| all << 16 | u64::from(word(at))),
            outer_th: word(20),
            inner_nh: word(22),
        }
    }
}
