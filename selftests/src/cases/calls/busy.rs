// SPDX-License-Identifier: GPL-2.0

//! Busy polling (`VHOST_SET_VRING_BUSYLOOP_TIMEOUT`).

use crate::cases::common::{Case, Context, accepts, live, ring_case};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    ring_case("busy.exchange", 120, exchange),
    ring_case("busy.live", 60, set_live),
];

/// Timeouts in microseconds: within the first, a packet mostly arrives; within the second, mostly
/// not.
const TIMEOUTS: [u32; 2] = [2000, 5];

fn set(device: &NetDevice, micros: u32) -> Result<()> {
    for queue in [RX, TX] {
        let set = device.vhost.set_busy_timeout(queue, micros);
        accepts("SET_VRING_BUSYLOOP_TIMEOUT", set)?;
    }
    Ok(())
}

fn sizes(sequence: u64) -> usize {
    [60, 1514, 200, 14][(sequence % 4) as usize]
}

/// No packet is lost when busy polling ends and the worker goes to sleep, with any ring features.
fn exchange(ctx: &Context) -> Result<()> {
    let offered = ctx.open()?.features()?;
    for features in [
        feature::VERSION_1,
        feature::VERSION_1 | feature::EVENT_IDX | feature::MRG_RXBUF,
        feature::VERSION_1 | feature::IN_ORDER | feature::MRG_RXBUF,
        feature::VERSION_1 | feature::IN_ORDER | feature::EVENT_IDX,
    ] {
        for micros in TIMEOUTS {
            let mut device = NetDevice::start(&ctx.device, Setup::new(features & offered))?;
            set(&device, micros)?;
            traffic::exchange(&mut device, Plan::new(ctx.seed, 300, sizes))
                .with_context(|| format!("features {features:#x}, {micros} us"))?;
        }
    }
    Ok(())
}

/// The timeout may be changed at any time.
fn set_live(ctx: &Context) -> Result<()> {
    let setup = Setup::new(feature::VERSION_1 | feature::EVENT_IDX);
    let mut device = NetDevice::start(&ctx.device, setup)?;
    live::under_traffic(ctx, &mut device, 100, |device, number| {
        set(device, [2000, 0, 5][(number % 3) as usize])
    })
}
