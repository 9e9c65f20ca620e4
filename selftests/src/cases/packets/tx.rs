// SPDX-License-Identifier: GPL-2.0

//! Frames from the guest: every byte, under every combination of features and layouts.

use super::matrix;
use crate::cases::common::frames::{all_sizes, roomy};
use crate::cases::common::{Case, Context, ring_case};
use crate::driver::device::NetDevice;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    ring_case("tx.integrity", 90, |ctx| {
        matrix::integrity(ctx, traffic::transmit)
    }),
    ring_case("tx.layout", 60, |ctx| {
        matrix::layout(ctx, traffic::transmit)
    }),
    ring_case("tx.gso", 60, |ctx| matrix::gso(ctx, traffic::transmit)),
    ring_case("tx.send_buffer", 60, send_buffer),
];

/// With a limit on frames in flight each is sent by itself, and may have to wait.
fn send_buffer(ctx: &Context) -> Result<()> {
    for bytes in [1 << 20, 100_000] {
        let mut device = NetDevice::start(&ctx.device, roomy(feature::VERSION_1))?;
        device.tap.set_send_buffer(bytes)?;
        traffic::exchange(&mut device, Plan::new(ctx.seed, 330, all_sizes))
            .with_context(|| format!("a send buffer of {bytes}"))?;
    }
    Ok(())
}
