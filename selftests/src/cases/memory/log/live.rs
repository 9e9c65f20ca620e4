// SPDX-License-Identifier: GPL-2.0

//! Logging under traffic, as a hypervisor turns it on and off and reads it for a migration.

use crate::cases::common::live::under_traffic;
use crate::cases::common::log::{END, USED};
use crate::cases::common::migration::{devices, migrate};
use crate::cases::common::{Case, Context, accepts, check, ring_case};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::layout::Layout;
use crate::driver::log::{DirtyLog, LOG_PAGE, Pages, cover, log_used};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    ring_case("log.migration", 120, migration),
    ring_case("log.toggle", 60, toggle),
];

/// Memory is copied while the device writes to it; what the log names is copied once more.
fn migration(ctx: &Context) -> Result<()> {
    for setup in devices() {
        let features = setup.features;
        let mut device = NetDevice::start(&ctx.device, setup)?;
        for attempt in 0..3 {
            migrate(ctx, &mut device)
                .with_context(|| format!("features {features:#x}, attempt {attempt}"))?;
        }
    }
    Ok(())
}

/// Logging comes and goes; without it nothing is logged any more.
fn toggle(ctx: &Context) -> Result<()> {
    for events in [0, feature::EVENT_IDX] {
        let mut setup = Setup::new(feature::VERSION_1 | events);
        // No page of a ring has anything else.
        setup.removable = true;
        let mut device = NetDevice::start(&ctx.device, setup)?;
        let features = device.setup.features;
        let log = DirtyLog::new(END)?;
        accepts("SET_LOG_BASE", device.vhost.set_log_base(log.addr()))?;
        // The descriptors of packed rings are logged where they are.
        let mut rings_at: Pages = (USED[0] / LOG_PAGE..END / LOG_PAGE).collect();
        for queue in [&device.rx, &device.tx] {
            let entries = queue.layout.entries();
            if let Layout::Packed(_) = queue.layout {
                cover(&mut rings_at, entries.addr, entries.len as u64);
            }
        }
        let (mut data, mut rings) = (0, 0);
        let mut count = |may_data: bool, may_rings: bool| -> Result<()> {
            let logged = log.take();
            let of_rings = logged.intersection(&rings_at).count();
            let of_data = logged.len() - of_rings;
            check(may_data || of_data == 0, || {
                format!("{of_data} pages of data without LOG_ALL")
            })?;
            check(may_rings || of_rings == 0, || {
                format!("{of_rings} pages of used rings without VRING_F_LOG")
            })?;
            data += of_data;
            rings += of_rings;
            Ok(())
        };
        let (mut old_data, mut old_rings) = (false, false);
        under_traffic(ctx, &mut device, 80, |device, number| {
            count(old_data, old_rings)?;
            // Each is on for two changes, of which one waits for either flow: with one alone, there
            // need not be a frame of the other meanwhile.
            let (log_data, log_rings) = (number & 2 != 0, number & 4 != 0);
            let bit = if log_data { feature::LOG_ALL } else { 0 };
            accepts("SET_FEATURES", device.vhost.set_features(features | bit))?;
            for (index, at) in [RX, TX].into_iter().zip(USED) {
                let at = log_rings.then_some(at);
                accepts("SET_VRING_ADDR", log_used(device, index, at))?;
            }
            // What was logged before the change is of the past.
            count(old_data || log_data, old_rings || log_rings)?;
            (old_data, old_rings) = (log_data, log_rings);
            Ok(())
        })?;
        check(data > 0 && rings > 0, || {
            format!("{data} pages of data logged, {rings} of used rings")
        })?;
    }
    Ok(())
}
