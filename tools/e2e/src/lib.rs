// SPDX-License-Identifier: GPL-2.0
//! Guests of a VM on vhost devices, and what their runs report.

pub mod arch;
pub mod emulation;
pub mod files;
pub mod host;
pub mod machine;
pub mod memory;
pub mod netboot;
pub mod pulse;
pub mod qemu;
pub mod qmp;
pub mod shell;
pub mod stream;

use serde::{Deserialize, Serialize};

/// The prefix of the line on which the agent in the VM prints a [`Report`].
pub const REPORT_MARK: &str = "rnet-e2e-report ";

/// The results of a guest on one backend.
#[derive(Serialize, Deserialize, Debug, Clone)]
pub struct Report {
    /// The vhost device, or `vhost=off`.
    pub backend: String,
    /// The failure, if there was one; the other fields then hold what was measured before.
    pub error: Option<String>,
    /// Pings sent and answered.
    pub ping: (u32, u32),
    /// Mean round trip of the pings, in milliseconds.
    pub ping_ms: f64,
    /// Bytes of known content that the guest sent and received, all of them right.
    pub echoed: u64,
    /// TCP from the guest, as received in level 1, in bits per second.
    pub guest_sends: f64,
    /// TCP to the guest, as received there, in bits per second.
    pub guest_receives: f64,
    /// UDP from the guest, as received in level 1, in bits per second; zero if not measured.
    #[serde(default)]
    pub udp_sends: f64,
    /// UDP to the guest, as its network device received it, with all headers, in bits per second; zero
    /// if not measured.
    #[serde(default)]
    pub udp_receives: f64,
    /// Pings per second, each sent on the answer to the one before; zero if not measured.
    #[serde(default)]
    pub requests: f64,
    /// Packets that the tap took from the guest and gave to it.
    pub packets: (u64, u64),
    /// Interrupts that the guest's network device raised.
    pub calls: u64,
    /// Seconds from the start of QEMU to the guest's first line.
    pub boot_seconds: f64,
}
