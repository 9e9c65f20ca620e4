// SPDX-License-Identifier: GPL-2.0

//! A device behind an IOMMU.

use crate::cases::common::{Context, accepts, check};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::iommu::Iommu;
use crate::driver::iotlb::{BACKEND_MSG_V2, VERSION_2};
use crate::driver::queue::Queue;
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use anyhow::{Context as _, Result};

/// A device behind an IOMMU.
pub(crate) struct Behind {
    pub(crate) device: NetDevice,
    pub(crate) iommu: Iommu,
}

impl Behind {
    /// Makes one, with nothing bound.
    pub(crate) fn prepare(ctx: &Context, mut setup: Setup, version: u32) -> Result<Self> {
        setup.features |= feature::ACCESS_PLATFORM;
        let device = NetDevice::prepare(&ctx.device, setup, "tap0", false)?;
        let backend = if version == VERSION_2 {
            BACKEND_MSG_V2
        } else {
            0
        };
        accepts(
            "SET_BACKEND_FEATURES",
            device.vhost.set_backend_features(backend),
        )?;
        let iommu = Iommu::start(&device.vhost, &device.memory)?;
        iommu.set_version(version);
        Ok(Self { device, iommu })
    }

    pub(crate) fn start(ctx: &Context, setup: Setup, version: u32) -> Result<Self> {
        let behind = Self::prepare(ctx, setup, version)?;
        behind.bind(RX)?;
        behind.bind(TX)?;
        Ok(behind)
    }

    /// Binds a queue.
    pub(crate) fn bind(&self, index: u32) -> Result<()> {
        self.iommu.bind(&self.device, index)
    }

    /// A queue.
    pub(crate) fn queue(&self, index: u32) -> &Queue {
        if index == RX {
            &self.device.rx
        } else {
            &self.device.tx
        }
    }

    /// Runs `body`, and fails if the IOMMU had trouble, or was asked for what nobody may use.
    pub(crate) fn run(
        mut self,
        body: impl FnOnce(&mut NetDevice, &Iommu) -> Result<()>,
    ) -> Result<()> {
        let result = body(&mut self.device, &self.iommu);
        let refused = self.iommu.take_refused();
        self.iommu.stop().context("the IOMMU")?;
        result?;
        check(refused.is_empty(), || {
            format!("asked for what is not there: {refused:x?}")
        })
    }
}
