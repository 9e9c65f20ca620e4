// SPDX-License-Identifier: GPL-2.0

//! The device node that drivers use, and the format of their rings.

use crate::driver::ring::Format;
use crate::driver::setup::Setup;
use crate::driver::uapi::feature;
use crate::driver::vhost::Vhost;
use anyhow::Result;
use std::path::{Path, PathBuf};

/// A device node, with the format that rings have on it.
#[derive(Clone, Debug)]
pub struct Node {
    /// The path of the node.
    pub path: PathBuf,
    /// The format of all rings that do not say otherwise.
    pub format: Format,
}

impl Node {
    /// A node for split rings.
    #[must_use]
    pub fn split(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            format: Format::Split,
        }
    }

    /// Opens the device.
    ///
    /// # Errors
    ///
    /// When it is missing.
    pub fn open(&self) -> Result<Vhost> {
        Vhost::open(&self.path)
    }

    /// Opens the device and becomes its owner.
    ///
    /// # Errors
    ///
    /// When it is missing, or refuses.
    pub fn owned(&self) -> Result<Vhost> {
        Vhost::owned(&self.path)
    }

    /// Features that say what the rest of a device looks like, for rings of the node's format: a
    /// packed ring has no legacy layout.
    #[must_use]
    pub fn versions(&self) -> &'static [u64] {
        match self.format {
            Format::Split => &[feature::VERSION_1, 0],
            Format::Packed => &[feature::VERSION_1],
        }
    }

    /// A device's setup with the features that the node's format needs.
    pub(crate) fn fit(&self, mut setup: Setup) -> Setup {
        setup.features |= self.format.features();
        setup
    }
}
