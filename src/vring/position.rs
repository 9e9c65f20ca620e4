// SPDX-License-Identifier: GPL-2.0

//! Positions in a packed ring.

/// The bit of a position that is the wrap counter.
const WRAP: u16 = 1 << 15;

/// A position in a packed ring: the offset of a descriptor, and the wrap counter of the side
/// (driver or device) that reaches it.
///
/// The wrap counter is 1 on the first lap of the ring, 0 on the second, and so on, so there are
/// twice as many positions as descriptors. The layout is that of events and of the owner's base:
/// the wrap counter is bit 15.
///
/// Any bits are a position; whether the offset is within a ring depends on the ring's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position(u16);

impl Position {
    /// Where a ring starts after a reset.
    pub const START: Self = Self(WRAP);

    /// The position with these bits.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The offset in bits 0 to 14, and the wrap counter in bit 15.
    #[inline(always)]
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The offset of the descriptor.
    #[inline(always)]
    #[must_use]
    pub const fn offset(self) -> u16 {
        self.0 & !WRAP
    }

    /// The wrap counter.
    #[inline(always)]
    #[must_use]
    pub const fn wrap(self) -> bool {
        self.0 & WRAP != 0
    }

    /// The start of this position's lap.
    #[inline]
    #[must_use]
    pub const fn lap(self) -> Self {
        Self(self.0 & WRAP)
    }

    /// The position `by` descriptors further on, in a ring of `size`.
    #[inline(always)]
    #[must_use]
    pub fn advance(self, size: u16, by: u16) -> Self {
        // No wrap: in 32 bits.
        let to = u32::from(self.offset()).wrapping_add(u32::from(by));
        if to < u32::from(size) {
            // CAST: below the size.
            Self(to as u16 | self.0 & WRAP)
        } else {
            self.lapped(size, to)
        }
    }

    /// The position `by` descriptors back, in a ring of `size`.
    #[must_use]
    pub fn retreat(self, size: u16, by: u16) -> Self {
        match self.offset().checked_sub(by) {
            Some(to) => Self(to | self.0 & WRAP),
            None => {
                // Advance instead: a step of two laps changes nothing, so `-by` is `2 * size - by`.
                let ring = u32::from(size).wrapping_mul(2);
                let missing = u32::from(by.wrapping_sub(self.offset()));
                // No wrap: the remainder is less than two laps.
                let on = ring.wrapping_sub(missing.checked_rem(ring).unwrap_or(0));
                self.lapped(size, on)
            }
        }
    }

    /// How many descriptors this position is ahead of `from` in a ring of `size`: less than two
    /// laps.
    #[inline(always)]
    #[must_use]
    pub fn distance(self, size: u16, from: Self) -> u32 {
        let size = u32::from(size);
        let laps = if self.wrap() == from.wrap() { 0 } else { size };
        let on = u32::from(self.offset()).wrapping_add(laps);
        match on.checked_sub(u32::from(from.offset())) {
            Some(on) => on,
            // No wrap: less than a lap back.
            None => on
                .wrapping_add(size.wrapping_mul(2))
                .wrapping_sub(u32::from(from.offset())),
        }
    }

    /// The position `to` descriptors after the start of this position's lap.
    #[inline(never)]
    fn lapped(self, size: u16, to: u32) -> Self {
        let size = u32::from(size);
        let laps = to.checked_div(size).unwrap_or(0);
        let offset = to.checked_rem(size).unwrap_or(0);
        let turned = if laps & 1 == 0 { 0 } else { WRAP };
        // CAST: below the size.
        Self(offset as u16 | (self.0 ^ turned) & WRAP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All positions of a ring, in ring order.
    fn positions(size: u16) -> Vec<Position> {
        let lap = |wrap| (0..size).map(move |offset| Position(offset | wrap));
        lap(WRAP).chain(lap(0)).collect()
    }

    #[test]
    fn steps_lead_round_the_ring_twice() {
        for size in [1u16, 2, 3, 7, 300] {
            let all = positions(size);
            assert_eq!(all[0], Position::START);
            for (number, &from) in all.iter().enumerate() {
                for by in (0..4 * size + 2).chain([0x7fff, 0x8000, u16::MAX]) {
                    let to = all[(number + usize::from(by)) % all.len()];
                    assert_eq!(from.advance(size, by), to, "{from:?} by {by} of {size}");
                    assert_eq!(to.retreat(size, by), from, "{to:?} by {by} of {size}");
                    let distance = u32::from(by) % (2 * u32::from(size));
                    assert_eq!(to.distance(size, from), distance);
                }
            }
        }
    }

    #[test]
    fn the_largest_ring_has_all_positions() {
        let size = 32768;
        let last = Position(0x7fff | WRAP);
        assert_eq!(last.advance(size, 1), Position(0));
        assert_eq!(Position(0).retreat(size, 1), last);
        assert_eq!(Position(0x7fff).advance(size, 1), Position::START);
        assert_eq!(Position::START.retreat(size, 1), Position(0x7fff));
        assert_eq!(Position::START.advance(size, 32768), Position(0));
        assert_eq!(Position(0).distance(size, Position::START), 32768);
        assert_eq!(Position::START.distance(size, Position(1)), 32767);
    }

    #[test]
    fn no_bits_are_too_wild() {
        for size in [0, 1, 5, 32768] {
            for bits in [0, 4, 5, 0x7fff, 0x8000, 0xffff] {
                for by in [0, 1, 0x7fff, 0xffff] {
                    let at = Position::from_bits(bits);
                    let _ = (at.advance(size, by), at.retreat(size, by));
                    let _ = at.distance(size, Position::from_bits(by));
                }
            }
        }
    }
}
