// SPDX-License-Identifier: GPL-2.0

//! Memory layout of rings and their entries (virtio 1.3, sections 2.7.5, 2.7.8 and 2.8;
//! `include/uapi/linux/virtio_ring.h`).

/// The buffer continues with the descriptor in `next`.
pub const DESC_F_NEXT: u16 = 1;
/// The device writes the buffer; without this flag the device reads it.
pub const DESC_F_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const DESC_F_INDIRECT: u16 = 4;

/// Size of a descriptor in memory, in bytes.
pub const DESC_SIZE: u64 = 16;

/// `VRING_USED_F_NO_NOTIFY`: the device asks for no kicks.
pub(crate) const USED_F_NO_NOTIFY: u16 = 1;
/// `VRING_AVAIL_F_NO_INTERRUPT`: the driver asks for no calls.
pub(crate) const AVAIL_F_NO_INTERRUPT: u16 = 1;

// Offsets in the available and the used ring, in bytes; both start with flags, index, entries.
pub(crate) const OFFSET_FLAGS: u64 = 0;
pub(crate) const OFFSET_INDEX: u64 = 2;
pub(crate) const OFFSET_ENTRIES: u64 = 4;
pub(crate) const AVAIL_ENTRY_SIZE: u64 = 2;
pub(crate) const USED_ENTRY_SIZE: u64 = 8;

// Flags of a packed ring's descriptors that say whether one is available or used, as bits of the
// second word (`VRING_PACKED_DESC_F_AVAIL`, `VRING_PACKED_DESC_F_USED`).
const PACKED_AVAIL: u64 = 1 << (48 + 7);
const PACKED_USED: u64 = 1 << (48 + 15);

// Values of a packed ring's event flags.
/// `VRING_PACKED_EVENT_FLAG_ENABLE`: notify for every descriptor.
pub(crate) const EVENT_ENABLE: u16 = 0;
/// `VRING_PACKED_EVENT_FLAG_DISABLE`: do not notify.
pub(crate) const EVENT_DISABLE: u16 = 1;
/// `VRING_PACKED_EVENT_FLAG_DESC`: notify for the descriptor at the position in the event.
pub(crate) const EVENT_DESC: u16 = 2;

/// A descriptor as it lies in memory, two little-endian words.
///
/// Any bit pattern is valid.
pub type RawDesc = [u64; 2];

/// A used entry in the form that the ring's format needs
/// ([`CompleteWork::used_entry`](crate::CompleteWork)).
///
/// It is two little-endian words. For a split ring they are an element of the used ring as it lies
/// in memory: the id, then the length in bytes. For a packed ring they are the length, then the id
/// in the lower 16 bits and the number of descriptors to advance by in the upper 16.
pub type RawUsed = [u32; 2];

/// Byte order of a ring: little-endian, except for legacy devices of big-endian guests (virtio 1.3,
/// section 2.4.3; `VHOST_SET_VRING_ENDIAN`).
///
/// The ring code takes values as they lie in little-endian memory. The functions here convert a
/// value loaded from a ring of this order to that form, and a value to be stored back: both are the
/// same swap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByteOrder {
    /// Least significant byte first.
    #[default]
    Little,
    /// Most significant byte first.
    Big,
}

impl ByteOrder {
    /// Converts a 16-bit value: an index, flags, an event, an entry of the available ring.
    #[inline(always)]
    #[must_use]
    pub const fn half(self, raw: u16) -> u16 {
        match self {
            Self::Little => raw,
            Self::Big => raw.swap_bytes(),
        }
    }

    /// A descriptor.
    #[inline(always)]
    #[must_use]
    pub const fn desc(self, raw: RawDesc) -> RawDesc {
        match self {
            Self::Little => raw,
            Self::Big => {
                let [addr, rest] = raw;
                // The length, the flags and `next`.
                let [a, b, c, d, e, f, g, h] = rest.to_ne_bytes();
                let rest = u64::from_ne_bytes([d, c, b, a, f, e, h, g]);
                [addr.swap_bytes(), rest]
            }
        }
    }

    /// An element of the used ring.
    #[inline(always)]
    #[must_use]
    pub const fn used(self, raw: RawUsed) -> RawUsed {
        match self {
            Self::Little => raw,
            Self::Big => {
                let [id, len] = raw;
                [id.swap_bytes(), len.swap_bytes()]
            }
        }
    }
}

/// A descriptor of a split ring or of its indirect table, in host byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Desc {
    /// Guest-physical address of the buffer.
    pub addr: u64,
    /// Length of the buffer in bytes.
    pub len: u32,
    /// `DESC_F_*`; other bits are ignored.
    pub flags: u16,
    /// Index of the next descriptor, if `flags` has [`DESC_F_NEXT`].
    pub next: u16,
}

impl Desc {
    /// Decodes a descriptor.
    #[inline]
    #[must_use]
    pub const fn from_raw(raw: RawDesc) -> Self {
        let [addr, rest] = raw;
        let rest = u64::from_le(rest);
        // CAST: the fields lie in the word from its low end upwards: 32, 16 and 16 bits.
        Self {
            addr: u64::from_le(addr),
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }

    /// Encodes the descriptor as a driver writes it.
    #[inline]
    #[must_use]
    pub const fn to_raw(self) -> RawDesc {
        let rest = self.len as u64 | (self.flags as u64) << 32 | (self.next as u64) << 48;
        [self.addr.to_le(), rest.to_le()]
    }

    /// Decodes a packed ring's descriptor into the buffer, with `next` 0, and the id.
    #[inline]
    #[must_use]
    pub const fn from_packed(raw: RawDesc) -> (Self, u16) {
        let [addr, rest] = raw;
        let rest = u64::from_le(rest);
        // CAST: the fields lie in the word from its low end upwards: 32, 16 and 16 bits.
        let desc = Self {
            addr: u64::from_le(addr),
            len: rest as u32,
            flags: (rest >> 48) as u16,
            next: 0,
        };
        (desc, (rest >> 32) as u16)
    }

    /// Encodes the descriptor as a driver with the wrap counter `wrap` makes it available in a
    /// packed ring; `next` is not used.
    #[must_use]
    pub const fn to_packed(self, id: u16, wrap: bool) -> RawDesc {
        let whose = if wrap { PACKED_AVAIL } else { PACKED_USED };
        let rest = self.len as u64 | (id as u64) << 32 | (self.flags as u64) << 48;
        [self.addr.to_le(), (rest | whose).to_le()]
    }

    /// Whether `flag` is set.
    #[inline]
    pub(crate) const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// A mask of the bits that say whether a packed ring's descriptor is available, and their value if
/// it is available at the wrap counter `wrap`; both for its second word as it lies in memory.
#[inline]
#[must_use]
pub const fn packed_availability(wrap: bool) -> (u64, u64) {
    let bits = if wrap { PACKED_AVAIL } else { PACKED_USED };
    ((PACKED_AVAIL | PACKED_USED).to_le(), bits.to_le())
}

/// The second word of a packed ring's descriptor, as it lies in memory, that marks it used by the
/// entry `used` at the wrap counter `wrap`; and the number of descriptors to advance by.
#[inline]
#[must_use]
pub const fn packed_used(used: RawUsed, wrap: bool) -> (u64, u16) {
    let [len, id] = [u32::from_le(used[0]), u32::from_le(used[1])];
    let whose = if wrap { PACKED_AVAIL | PACKED_USED } else { 0 };
    // Virtio 1.3, section 2.8.4: the length is valid only with the write flag.
    let write = if len == 0 { 0 } else { DESC_F_WRITE };
    // CAST: the halves of a word.
    let word = len as u64 | (id as u16 as u64) << 32 | (write as u64) << 48 | whose;
    (word.to_le(), (id >> 16) as u16)
}

/// Makes a descriptor of its bytes as they lie in memory.
#[inline]
pub(crate) fn raw_from_bytes(bytes: &[u8; DESC_SIZE as usize]) -> RawDesc {
    let (addr, rest) = bytes.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    let rest = rest.first_chunk::<8>().unwrap_or(&[0; 8]);
    [u64::from_ne_bytes(*addr), u64::from_ne_bytes(*rest)]
}

/// Offset of an entry in the available or the used ring; for `position` equal to the ring's size,
/// that of the event field behind the last entry.
#[inline(always)]
pub(crate) fn offset_of_entry(position: u16, entry_size: u64) -> u64 {
    // No wrap: 2^16 entries of at most 8 bytes.
    u64::from(position)
        .wrapping_mul(entry_size)
        .wrapping_add(OFFSET_ENTRIES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_uapi_header_puts_them() {
        let raw: [u8; 16] = [
            1, 2, 3, 4, 5, 6, 7, 8, // addr
            9, 10, 11, 12, // len
            13, 14, // flags
            15, 16, // next
        ];
        let word = |from: usize| u64::from_ne_bytes(raw[from..from + 8].try_into().unwrap());
        let desc = Desc::from_raw([word(0), word(8)]);
        assert_eq!(
            desc,
            Desc {
                addr: 0x0807_0605_0403_0201,
                len: 0x0c0b_0a09,
                flags: 0x0e0d,
                next: 0x100f,
            }
        );
        assert_eq!(desc.to_raw(), [word(0), word(8)]);
        // The same bytes in a big-endian ring.
        let swapped = ByteOrder::Big.desc([word(0), word(8)]);
        assert_eq!(
            Desc::from_raw(swapped),
            Desc {
                addr: 0x0102_0304_0506_0708,
                len: 0x090a_0b0c,
                flags: 0x0d0e,
                next: 0x0f10,
            }
        );
        assert_eq!(ByteOrder::Big.desc(swapped), [word(0), word(8)]);
        assert_eq!(ByteOrder::Little.desc(swapped), swapped);
    }

    #[test]
    fn used_elements_and_indexes_are_swapped_field_by_field() {
        let id = u32::from_ne_bytes([1, 2, 3, 4]);
        let len = u32::from_ne_bytes([5, 6, 7, 8]);
        let [big_id, big_len] = ByteOrder::Big.used([id, len]).map(u32::from_le);
        assert_eq!((big_id, big_len), (0x0102_0304, 0x0506_0708));
        let half = u16::from_ne_bytes([1, 2]);
        assert_eq!(u16::from_le(ByteOrder::Big.half(half)), 0x0102);
        let order = ByteOrder::default();
        assert_eq!((order.used([id, len]), order.half(half)), ([id, len], half));
    }
}
