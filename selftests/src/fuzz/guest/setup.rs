// SPDX-License-Identifier: GPL-2.0

//! Devices and memory that the hostile guest gets, at random.

use crate::driver::device::{Setup, Shape};
use crate::driver::ring::Format;
use crate::driver::uapi::feature;
use crate::host::tap::{OFFLOAD_CSUM, OFFLOAD_TSO4};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

/// The size of each region beside the first.
pub const REGION: usize = 0x1_0000;

/// Regions that the guest uses as it likes: two that touch, and two with a hole between them.
pub const OPEN: [u64; 4] = [0x4000_0000, 0x4001_0000, 0x5000_0000, 0x5002_0000];

/// A region whose pages go from and come back to the process, which has no other use for it.
pub const CLOSED: u64 = 0x6000_0000;

/// A region of which the device may only read every other page, if there is an IOMMU.
pub const LIMITED: u64 = 0x7000_0000;

/// The end of all guest memory.
pub const END: u64 = 0x8000_0000;

/// A device with features, sizes and layouts at random, out of those that are offered, with rings of
/// a format.
pub fn setup(rng: &mut SmallRng, offered: u64, format: Format) -> Setup {
    let bits = [
        (feature::VERSION_1, 0.8),
        (feature::EVENT_IDX, 0.5),
        (feature::INDIRECT, 0.7),
        (feature::MRG_RXBUF, 0.5),
        (feature::IN_ORDER, 0.25),
        (feature::NET_HDR, 0.15),
        (feature::NOTIFY_ON_EMPTY, 0.2),
        (feature::ACCESS_PLATFORM, 0.25),
        (feature::LOG_ALL, 0.3),
    ];
    let wanted: u64 = bits
        .into_iter()
        .filter(|(_, chance)| rng.random_bool(*chance))
        .map(|(bit, _)| bit)
        .sum();
    let mut setup = Setup::new(wanted & offered | format.features());
    let mut queue = || {
        let size = match format {
            Format::Split => 1u16 << rng.random_range(1..=10),
            Format::Packed => rng.random_range(1..=10) * rng.random_range(1..=100),
        };
        let indirect = setup.features & feature::INDIRECT != 0 && rng.random();
        // Of 2 KiB each; direct chains must fit the ring several times.
        let piece = *[100, 256, 700, usize::MAX].choose(rng).unwrap_or(&700);
        let shape = Shape {
            own_header: rng.random(),
            piece,
            indirect,
        };
        let fits = indirect || 4 * (2048 / piece + 2) <= usize::from(size);
        (size, if fits { shape } else { Shape::WHOLE })
    };
    (setup.rx_size, setup.rx_shape) = queue();
    (setup.tx_size, setup.tx_shape) = queue();
    setup.rx_buffers.0 = usize::from(setup.rx_size).min(256);
    setup.tx_buffers.0 = usize::from(setup.tx_size).min(256);
    if setup.features & feature::NET_HDR == 0 && rng.random_bool(0.3) {
        setup.tcp = true;
        setup.offloads = OFFLOAD_CSUM | OFFLOAD_TSO4;
    }
    setup.base = rng.random();
    setup.scattered = setup.features & feature::ACCESS_PLATFORM != 0;
    setup.margin = 1;
    setup.regions = OPEN
        .into_iter()
        .chain([CLOSED, LIMITED])
        .map(|at| (at, REGION))
        .collect();
    setup
}
