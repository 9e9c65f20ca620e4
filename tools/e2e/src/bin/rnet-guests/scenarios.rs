// SPDX-License-Identifier: GPL-2.0
//! Kinds of guests, and the steps of each.

use rnet_e2e::arch::Arch;
use rnet_e2e::qemu::Options;

use crate::steps::{self, Step};

/// `VIRTIO_NET_F_MRG_RXBUF`.
const MRG_RXBUF: usize = 15;
/// `VIRTIO_NET_F_MQ`.
const MQ: usize = 22;
/// `VIRTIO_RING_F_INDIRECT_DESC`.
const INDIRECT_DESC: usize = 28;
/// `VIRTIO_RING_F_EVENT_IDX`.
const EVENT_IDX: usize = 29;
/// `VIRTIO_F_VERSION_1`.
const VERSION_1: usize = 32;
/// `VIRTIO_F_ACCESS_PLATFORM`.
const ACCESS_PLATFORM: usize = 33;
/// `VIRTIO_F_IN_ORDER`.
const IN_ORDER: usize = 35;
/// `VIRTIO_F_RING_RESET`.
const RING_RESET: usize = 40;

/// The format of a guest's rings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Split.
    Split,
    /// Packed. The kind is only for a device that has them.
    Packed,
}

/// A kind of guest.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// How it differs from the usual guest.
    pub options: Options,
    /// The format of its rings.
    pub format: Format,
    /// Whether a short run leaves it out.
    pub long: bool,
    /// Other feature bits that the guest must have negotiated, or must not have.
    pub features: &'static [(usize, bool)],
    /// Its steps in addition to those of every guest.
    special: &'static [(&'static str, Step)],
    /// Whether memory is plugged in, too.
    hotplug: bool,
}

impl Scenario {
    /// A guest with nothing special, for kinds to differ from.
    const USUAL: Self = Self {
        name: "usual",
        options: Options::USUAL,
        format: Format::Split,
        long: false,
        features: &[],
        special: &[],
        hotplug: false,
    };

    /// Whether the kind is for a device that has packed rings, or has none, as `packed` says, and for
    /// guests of this architecture.
    pub fn suits(&self, packed: bool) -> bool {
        let boots = !self.options.firmware || Arch::HERE.boots_from_network();
        boots && (packed || self.format == Format::Split)
    }

    /// All of its steps that guests of this architecture can do, in order.
    pub fn steps(&self) -> impl Iterator<Item = (&'static str, Step)> {
        const FIRST: &[(&str, Step)] = &[
            ("features", steps::features),
            ("ping", steps::ping),
            ("stream", steps::stream),
        ];
        const HOTPLUG: &[(&str, Step)] = &[("hotplug", steps::hotplug)];
        const LAST: &[(&str, Step)] = &[("vhost", steps::vhost), ("end", steps::end)];
        let plugs = self.hotplug && Arch::HERE.plugs_memory();
        let hotplug = if plugs { HOTPLUG } else { &[] };
        let all = [FIRST, self.special, hotplug, LAST];
        all.into_iter().flatten().copied()
    }
}

/// A guest with an IOMMU.
const IOMMU: Options = Options {
    iommu: true,
    ..Options::USUAL
};

/// All kinds.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "usual",
        options: Options {
            memory: "256M,slots=1,maxmem=1G",
            nic: ",rx_queue_size=1024,tx_queue_size=256",
            append: "memhp_default_state=online",
            ..Options::USUAL
        },
        features: &[
            (MRG_RXBUF, true),
            (INDIRECT_DESC, true),
            (EVENT_IDX, true),
            (VERSION_1, true),
            (RING_RESET, true),
            (ACCESS_PLATFORM, false),
            (IN_ORDER, false),
        ],
        special: &[
            ("vlan", steps::vlan),
            ("jumbo", steps::jumbo),
            ("queue_sizes", steps::queue_sizes),
            ("driver_reload", steps::driver_reload),
            ("rnetctl", steps::rnetctl),
        ],
        hotplug: true,
        ..Scenario::USUAL
    },
    Scenario {
        name: "multiqueue",
        options: Options {
            queues: 4,
            nic: ",mq=on,vectors=10",
            ..Options::USUAL
        },
        features: &[(MQ, true)],
        special: &[("spread", steps::spread)],
        ..Scenario::USUAL
    },
    Scenario {
        name: "mrg_rxbuf_off",
        options: Options {
            nic: ",mrg_rxbuf=off",
            ..Options::USUAL
        },
        features: &[(MRG_RXBUF, false), (VERSION_1, true)],
        ..Scenario::USUAL
    },
    Scenario {
        name: "indirect_desc_off",
        options: Options {
            nic: ",indirect_desc=off",
            ..Options::USUAL
        },
        features: &[(INDIRECT_DESC, false), (VERSION_1, true)],
        ..Scenario::USUAL
    },
    Scenario {
        name: "event_idx_off",
        options: Options {
            nic: ",event_idx=off",
            ..Options::USUAL
        },
        features: &[(EVENT_IDX, false), (VERSION_1, true)],
        special: &[("driver_reload", steps::driver_reload)],
        ..Scenario::USUAL
    },
    Scenario {
        name: "legacy",
        options: Options {
            nic: ",disable-legacy=off,disable-modern=on",
            ..Options::USUAL
        },
        features: &[(VERSION_1, false), (MRG_RXBUF, true)],
        special: &[("driver_reload", steps::driver_reload)],
        ..Scenario::USUAL
    },
    Scenario {
        name: "in_order",
        options: Options {
            nic: ",in_order=on",
            ..Options::USUAL
        },
        features: &[(IN_ORDER, true)],
        special: &[("jumbo", steps::jumbo)],
        ..Scenario::USUAL
    },
    Scenario {
        name: "busy_polling",
        options: Options {
            netdev: ",poll-us=50",
            ..Options::USUAL
        },
        features: &[(VERSION_1, true)],
        ..Scenario::USUAL
    },
    Scenario {
        name: "iommu",
        options: Options {
            nic: ",iommu_platform=on,ats=on,disable-legacy=on",
            ..IOMMU
        },
        features: &[(ACCESS_PLATFORM, true)],
        // No queue_sizes: QEMU 10.0 restarts a queue without a translation for its used ring, which
        // no vhost can start then.
        special: &[
            ("translates", steps::translates),
            ("driver_reload", steps::driver_reload),
        ],
        ..Scenario::USUAL
    },
    Scenario {
        name: "packed",
        options: Options {
            queues: 4,
            memory: "256M,slots=1,maxmem=1G",
            nic: ",packed=on,mq=on,vectors=10,rx_queue_size=1024,tx_queue_size=256",
            append: "memhp_default_state=online",
            ..Options::USUAL
        },
        format: Format::Packed,
        features: &[
            (MQ, true),
            (MRG_RXBUF, true),
            (INDIRECT_DESC, true),
            (EVENT_IDX, true),
            (RING_RESET, true),
            (IN_ORDER, false),
        ],
        special: &[
            ("spread", steps::spread),
            ("queue_sizes", steps::queue_sizes),
            ("driver_reload", steps::driver_reload),
        ],
        hotplug: true,
        ..Scenario::USUAL
    },
    Scenario {
        // All that can be on or off is the other way round than in the usual guest.
        name: "packed_inverse",
        options: Options {
            netdev: ",poll-us=50",
            nic: ",packed=on,in_order=on,mrg_rxbuf=off,indirect_desc=off,event_idx=off,\
                  iommu_platform=on,ats=on,disable-legacy=on",
            ..IOMMU
        },
        format: Format::Packed,
        features: &[
            (IN_ORDER, true),
            (MRG_RXBUF, false),
            (INDIRECT_DESC, false),
            (EVENT_IDX, false),
            (ACCESS_PLATFORM, true),
        ],
        special: &[("translates", steps::translates)],
        ..Scenario::USUAL
    },
    Scenario {
        name: "packed_mrg_rxbuf_off",
        options: Options {
            nic: ",packed=on,mrg_rxbuf=off,event_idx=off",
            ..Options::USUAL
        },
        format: Format::Packed,
        long: true,
        // A buffer for a frame of any length is a chain, in an indirect table.
        features: &[
            (MRG_RXBUF, false),
            (EVENT_IDX, false),
            (INDIRECT_DESC, true),
        ],
        special: &[("driver_reload", steps::driver_reload)],
        ..Scenario::USUAL
    },
    Scenario {
        name: "packed_in_order",
        options: Options {
            nic: ",packed=on,in_order=on,indirect_desc=off",
            ..Options::USUAL
        },
        format: Format::Packed,
        long: true,
        // The chains of long frames lie in the ring.
        features: &[(IN_ORDER, true), (INDIRECT_DESC, false)],
        special: &[("jumbo", steps::jumbo)],
        ..Scenario::USUAL
    },
    Scenario {
        name: "packed_iommu",
        options: Options {
            nic: ",packed=on,iommu_platform=on,ats=on,disable-legacy=on",
            ..IOMMU
        },
        format: Format::Packed,
        long: true,
        features: &[(ACCESS_PLATFORM, true)],
        special: &[
            ("translates", steps::translates),
            ("driver_reload", steps::driver_reload),
        ],
        ..Scenario::USUAL
    },
    Scenario {
        // The firmware has split rings, then the kernel has packed ones, on one open vhost device.
        name: "packed_after_firmware",
        options: Options {
            firmware: true,
            nic: ",packed=on",
            ..Options::USUAL
        },
        format: Format::Packed,
        long: true,
        features: &[(VERSION_1, true)],
        ..Scenario::USUAL
    },
];
