// SPDX-License-Identifier: GPL-2.0

//! Headers that the device makes and takes.

use crate::cases::common::frames::{all_sizes, roomy};
use crate::cases::common::{Case, Context, ring_case};
use crate::driver::device::NetDevice;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[ring_case("net.device_header", 60, device_header)];

/// The tap has no headers, the device makes and takes them.
fn device_header(ctx: &Context) -> Result<()> {
    for features in [
        feature::VERSION_1,
        0,
        feature::MRG_RXBUF,
        feature::EVENT_IDX,
    ] {
        let features = features | feature::NET_HDR;
        let mut device = NetDevice::start(&ctx.device, roomy(features))?;
        traffic::exchange(&mut device, Plan::new(ctx.seed, 220, all_sizes))
            .with_context(|| format!("features {features:#x}"))?;
    }
    Ok(())
}
