// SPDX-License-Identifier: GPL-2.0

//! Rings that do not start at index zero, and that go on where they stopped.

use crate::cases::common::live::stop_and_start;
use crate::cases::common::{Case, Context, check, ring_case};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    ring_case("base.any_start", 60, any_start),
    ring_case("base.continue", 60, go_on),
];

fn any_start(ctx: &Context) -> Result<()> {
    for base in [1, 255, 256, 32767, 32768, 65279, 65280, 65534, 65535] {
        for events in [0, feature::EVENT_IDX] {
            let mut setup = Setup::new(feature::VERSION_1 | events);
            setup.base = base;
            start_at(ctx, setup)?;
        }
    }
    Ok(())
}

/// Moves frames from the base of `setup` on, and fails unless the queue stops where it has to.
pub(super) fn start_at(ctx: &Context, setup: Setup) -> Result<()> {
    let (base, features) = (setup.base, setup.features);
    let mut device = NetDevice::start(&ctx.device, setup)?;
    traffic::exchange(&mut device, Plan::new(ctx.seed, 300, |_| 80))
        .with_context(|| format!("base {base}, features {features:#x}"))?;
    device.unbind(TX)?;
    let stopped = device.vhost.base(TX)?;
    let format = device.tx.layout.format();
    let expected = format.base(device.tx.ring.size(), u32::from(base) + 300);
    check(stopped == expected, || {
        format!("stopped at {stopped:#x}, not {expected:#x}")
    })
}

/// Unbinding and binding again needs no new base: the device knows where it was.
fn go_on(ctx: &Context) -> Result<()> {
    let mut device = NetDevice::start(&ctx.device, Setup::new(feature::VERSION_1))?;
    for round in 0..100 {
        let count = 1 + round % 7;
        traffic::exchange(&mut device, Plan::new(ctx.seed + round, count, |_| 80))?;
        for queue in [RX, TX] {
            stop_and_start(&mut device, queue, false)?;
        }
    }
    Ok(())
}
