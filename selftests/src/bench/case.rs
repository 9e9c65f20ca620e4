// SPDX-License-Identifier: GPL-2.0

//! What is measured: direction, frame length, ring format and mode, memory layout, sizes.

use crate::driver::ring::Format;
use crate::driver::uapi::feature;
use crate::packet::header::NetHeader;

/// The virtio-net header that goes before each frame.
pub const HEADER: usize = 12;
/// What guests allocate at least for a received frame.
const RX_BUFFER: usize = 1536;
/// The most one descriptor of a scattered chain covers, and the largest mergeable buffer.
const PAGE: usize = 4096;
/// Frames longer than this carry a segmentation header, as no wire takes them whole.
const JUMBO: usize = 9018;
/// A frame that goes another way than those that fit a page, and gains least by it.
const JUST_OVER_A_PAGE: usize = 4200;
/// Payload of each segment of the longest.
const SEGMENT: u16 = 1448;

/// What tells the name of a case with packed rings from that of the same case with split ones.
const PACKED: &str = "-packed";

/// Which way frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the guest.
    Tx,
    /// To the guest.
    Rx,
}

/// How the ring is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One descriptor per frame, notifications by flags.
    Plain,
    /// Notifications by index.
    EventIdx,
    /// Header and data apart, in a table behind one descriptor.
    Indirect,
    /// A received frame may span buffers.
    Mergeable,
    /// Buffers are used in the order they were made available.
    InOrder,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::EventIdx => "event",
            Self::Indirect => "indirect",
            Self::Mergeable => "mergeable",
            Self::InOrder => "in_order",
        }
    }

    fn feature(self) -> u64 {
        match self {
            Self::Plain => 0,
            Self::EventIdx => feature::EVENT_IDX,
            Self::Indirect => feature::INDIRECT,
            Self::Mergeable => feature::MRG_RXBUF,
            Self::InOrder => feature::IN_ORDER,
        }
    }
}

/// One row of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Which way frames go.
    pub direction: Direction,
    /// Length of the frame without virtio-net header.
    pub frame: usize,
    /// Whether rings are packed, else split.
    pub packed: bool,
    /// How the ring is used.
    pub mode: Mode,
    /// Regions of guest memory.
    pub regions: usize,
    /// Whether buffers lie in all regions, neighbours never in the same one; else all lie in the
    /// first.
    pub scattered: bool,
    /// Descriptors of the ring.
    pub queue: u16,
    /// Frames given to the device at once.
    pub batch: u16,
}

impl Case {
    /// The case that all others differ from in one respect.
    #[must_use]
    pub const fn base(direction: Direction, frame: usize) -> Self {
        Self {
            direction,
            frame,
            packed: false,
            mode: Mode::Plain,
            regions: 1,
            scattered: false,
            queue: 256,
            batch: 64,
        }
    }

    /// What tells it from all others, such as `tx-60-batch1`.
    #[must_use]
    pub fn name(&self) -> String {
        let base = Self::base(self.direction, self.frame);
        let direction = match self.direction {
            Direction::Tx => "tx",
            Direction::Rx => "rx",
        };
        let mut name = format!("{direction}-{}", self.frame);
        if self.packed {
            name.push_str(PACKED);
        }
        if self.mode != base.mode {
            name.push_str(&format!("-{}", self.mode.name()));
        }
        if self.regions != base.regions {
            name.push_str(&format!("-regions{}", self.regions));
            if !self.scattered {
                name.push_str("-local");
            }
        }
        if self.queue != base.queue {
            name.push_str(&format!("-queue{}", self.queue));
        }
        if self.batch != base.batch {
            name.push_str(&format!("-batch{}", self.batch));
        }
        name
    }

    /// The features a driver accepts for it.
    #[must_use]
    pub fn features(&self) -> u64 {
        let format = if self.packed {
            Format::Packed
        } else {
            Format::Split
        };
        feature::VERSION_1 | format.features() | self.mode.feature()
    }

    /// Whether frames are to be segmented later.
    #[must_use]
    pub fn segmented(&self) -> bool {
        self.frame > JUMBO
    }

    /// The virtio-net header of its frames.
    #[must_use]
    pub fn header(&self) -> NetHeader {
        if !self.segmented() {
            return NetHeader::default();
        }
        NetHeader {
            flags: 1,
            gso_type: 1,
            hdr_len: 54,
            gso_size: SEGMENT,
            csum_start: 34,
            csum_offset: 16,
            ..NetHeader::default()
        }
    }

    /// `frame` behind its header, as it lies in a buffer.
    #[must_use]
    pub fn packet(&self, frame: &[u8]) -> Vec<u8> {
        let mut bytes = self.header().bytes()[..HEADER].to_vec();
        bytes.extend_from_slice(frame);
        bytes
    }

    /// Length of a buffer, header included.
    #[must_use]
    pub fn buffer(&self, direction: Direction) -> usize {
        let whole = HEADER + self.frame;
        match (direction, self.mode) {
            (Direction::Tx, _) => whole,
            // A guest adapts mergeable buffers to what it gets, up to a page.
            (Direction::Rx, Mode::Mergeable) => whole.clamp(RX_BUFFER, PAGE),
            (Direction::Rx, _) => whole.max(RX_BUFFER),
        }
    }

    /// Buffers that a frame takes.
    #[must_use]
    pub fn parts(&self) -> u16 {
        let parts = (HEADER + self.frame).div_ceil(self.buffer(self.direction));
        u16::try_from(parts).unwrap_or(u16::MAX)
    }

    /// Lengths of the parts of an indirect chain over a buffer of `len` bytes.
    #[must_use]
    pub fn pieces(&self, len: usize) -> Vec<usize> {
        if self.mode != Mode::Indirect {
            return vec![len];
        }
        let mut pieces = vec![HEADER];
        let mut left = len - HEADER;
        while left > 0 {
            pieces.push(left.min(PAGE));
            left -= left.min(PAGE);
        }
        pieces
    }

    /// Frames given to the device at once, as far as the ring has room.
    #[must_use]
    pub fn batch(&self) -> u16 {
        self.batch.min(self.queue / self.parts()).max(1)
    }

    /// How many packets make a run of about the same work for every length of frame.
    #[must_use]
    pub fn packets(&self, budget: u64) -> u64 {
        let share = match self.frame {
            0..=1514 => 1,
            1515..=JUMBO => 4,
            _ => 25,
        };
        // A batch of one costs the driver far more than the device.
        let share = if self.batch == 1 { share.max(2) } else { share };
        (budget / share).next_multiple_of(u64::from(self.batch()))
    }
}

/// The list that takes minutes: what the targets are about.
#[must_use]
pub fn quick() -> Vec<Case> {
    let mut cases = Vec::new();
    for direction in [Direction::Tx, Direction::Rx] {
        let small = Case::base(direction, 60);
        cases.extend([60, 1500, 9000, 65000].map(|frame| Case::base(direction, frame)));
        cases.push(Case { batch: 1, ..small });
        cases.push(spread(small, 512));
        cases.push(Case {
            regions: 512,
            ..small
        });
        let indirect = Case {
            mode: Mode::Indirect,
            ..small
        };
        cases.push(indirect);
        let in_order = Case {
            mode: Mode::InOrder,
            ..small
        };
        cases.extend([small, in_order, indirect].map(packed));
    }
    cases.push(Case::base(Direction::Tx, JUST_OVER_A_PAGE));
    cases
}

/// The name of the case that differs from the one called `name` only in that its rings are split;
/// none if they are.
#[must_use]
pub fn split_twin(name: &str) -> Option<String> {
    let (before, after) = name.split_once(PACKED)?;
    Some(format!("{before}{after}"))
}

fn packed(case: Case) -> Case {
    Case {
        packed: true,
        ..case
    }
}

fn spread(case: Case, regions: usize) -> Case {
    Case {
        regions,
        scattered: true,
        ..case
    }
}

/// Everything: sizes by modes, and each other dimension varied from the base case.
#[must_use]
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for direction in [Direction::Tx, Direction::Rx] {
        let modes: &[Mode] = match direction {
            Direction::Tx => &[Mode::Plain, Mode::EventIdx, Mode::Indirect, Mode::InOrder],
            // To a driver that only sends, mergeable buffers are nothing.
            Direction::Rx => &[
                Mode::Plain,
                Mode::EventIdx,
                Mode::Indirect,
                Mode::Mergeable,
                Mode::InOrder,
            ],
        };
        for frame in [60, 256, 1500, 9000, 65000] {
            let base = Case::base(direction, frame);
            let cases_of = |base| modes.iter().map(move |&mode| Case { mode, ..base });
            cases.extend(cases_of(base));
            cases.extend(cases_of(packed(base)));
        }
        if direction == Direction::Tx {
            cases.push(Case::base(direction, JUST_OVER_A_PAGE));
        }
        let small = Case::base(direction, 60);
        for regions in [64, 512] {
            cases.push(Case { regions, ..small });
            cases.push(spread(small, regions));
        }
        cases.extend([64, 128, 512, 1024, 2048, 4096].map(|queue| Case { queue, ..small }));
        cases.extend([1, 2, 4, 16, 128, 256].map(|batch| Case { batch, ..small }));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_quick_is_a_part_of_all() {
        let names: BTreeSet<_> = all().iter().map(Case::name).collect();
        assert_eq!(names.len(), all().len());
        for case in quick() {
            assert!(names.contains(&case.name()), "{}", case.name());
        }
        assert!(names.contains("tx-60-regions512-local"));
    }

    #[test]
    fn packed_cases_have_a_split_twin() {
        let cases = all();
        for case in &cases {
            let twin = split_twin(&case.name());
            assert_eq!(twin.is_some(), case.packed, "{}", case.name());
            let split = Case {
                packed: false,
                ..*case
            };
            assert!(cases.contains(&split), "{}", case.name());
            assert!(twin.is_none_or(|twin| twin == split.name()));
        }
    }

    #[test]
    fn batches_fit_their_ring() {
        for case in all() {
            assert!(case.batch() * case.parts() <= case.queue, "{}", case.name());
            let batch = u64::from(case.batch());
            assert_eq!(case.packets(12_800) % batch, 0);
            assert!(case.packets(12_800) >= batch);
        }
    }

    #[test]
    fn packets_are_as_long_as_their_descriptors_say() {
        for case in all() {
            let packet = case.packet(&vec![0; case.frame]);
            assert_eq!(packet.len(), case.buffer(Direction::Tx), "{}", case.name());
        }
    }

    #[test]
    fn a_chain_covers_its_buffer() {
        for case in all() {
            let len = case.buffer(case.direction);
            assert_eq!(case.pieces(len).iter().sum::<usize>(), len);
            assert!(usize::from(case.parts()) * len >= HEADER + case.frame);
        }
    }
}
