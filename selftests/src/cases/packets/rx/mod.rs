// SPDX-License-Identifier: GPL-2.0

//! Frames to the guest: every byte, under every combination of features and layouts.

pub(crate) mod buffers;
pub(crate) mod unfit;

use super::matrix;
use crate::cases::common::frames::{all_sizes, roomy};
use crate::cases::common::{Case, Context, case};
use crate::driver::device::NetDevice;
use crate::driver::traffic::{self, Plan};
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    case("rx.integrity", 90, rx_matrix),
    case("rx.layout", 60, rx_layout),
    case("rx.gso", 60, rx_gso),
];

fn rx_matrix(ctx: &Context) -> Result<()> {
    for (round, features) in (0..).zip(matrix::matrix()) {
        let mut device = NetDevice::start(&ctx.device, roomy(features))?;
        traffic::receive(&mut device, Plan::new(ctx.seed + round, 110, all_sizes))
            .with_context(|| format!("features {features:#x}"))?;
    }
    Ok(())
}

fn rx_layout(ctx: &Context) -> Result<()> {
    matrix::layout(ctx, traffic::receive)
}

fn rx_gso(ctx: &Context) -> Result<()> {
    matrix::gso(ctx, traffic::receive)
}
