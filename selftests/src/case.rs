// SPDX-License-Identifier: GPL-2.0

//! What a case is, and what it is run on.

use crate::driver::node::Node;
use crate::driver::ring::Format;
use crate::driver::vhost::Vhost;
pub use crate::skip::Skip;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which driver is behind the device node; expectations differ where one is meant to be better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The in-tree `vhost_net`.
    C,
    /// `vhost_rnet`.
    Rnet,
}

impl Kind {
    /// The driver whose node usually has that name.
    #[must_use]
    pub fn of(device: &Path) -> Self {
        if device.file_name().is_some_and(|name| name == "vhost-net") {
            Self::C
        } else {
            Self::Rnet
        }
    }
}

impl std::str::FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "c" => Ok(Self::C),
            "rnet" => Ok(Self::Rnet),
            _ => bail!("`{text}` is neither `c` nor `rnet`"),
        }
    }
}

/// What a case is run on.
#[derive(Clone, Debug)]
pub struct Context {
    /// The device node, with the format of rings that the case is run on.
    pub device: Node,
    /// Which driver that is.
    pub kind: Kind,
    /// The name of the case that runs, empty if none does.
    pub case: &'static str,
    /// The file of the module behind it, if that is not installed.
    pub module: Option<PathBuf>,
    /// Seed of all content.
    pub seed: u64,
    /// A process id or the like, for helper roles.
    pub argument: u64,
    /// A factor for the number of repetitions in cases whose bugs show only after many.
    pub factor: u64,
    /// By how much deadlines are multiplied.
    pub patience: u32,
}

impl Context {
    pub(crate) fn open(&self) -> Result<Vhost> {
        self.device.open()
    }

    pub(crate) fn owned(&self) -> Result<Vhost> {
        self.device.owned()
    }

    /// `usual` repetitions, multiplied as the caller of the program asked, and fewer on a slow machine.
    pub(crate) fn times(&self, usual: u64) -> u64 {
        let slowness = u64::from(self.patience.div_ceil(2)).max(1);
        usual.saturating_mul(self.factor).div_ceil(slowness)
    }

    /// A case that is repeated more often than usual may take longer.
    #[must_use]
    pub fn timeout(&self, case: &Case) -> Duration {
        let factor = u32::try_from(self.factor).unwrap_or(u32::MAX);
        case.timeout.saturating_mul(factor)
    }
}

/// One test.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name on split rings, family first.
    pub name: &'static str,
    /// The time after which it counts as hung.
    pub timeout: Duration,
    /// Whether the machine has to have all of [`crate::host::nics::ALL`].
    pub cards: bool,
    /// The formats of rings that it is for.
    pub formats: &'static [Format],
    /// The one of them that it is run on.
    pub format: Format,
    /// The test itself.
    pub run: fn(&Context) -> Result<()>,
}

impl Case {
    /// The name by which it is chosen and reported: that on packed rings begins with `packed.`.
    #[must_use]
    pub fn full_name(&self) -> String {
        match self.format {
            Format::Split => self.name.to_owned(),
            Format::Packed => format!("packed.{}", self.name),
        }
    }

    /// The case on rings of another format, if it is for that.
    #[must_use]
    pub fn on(self, format: Format) -> Option<Self> {
        let is_for = self.formats.contains(&format);
        is_for.then_some(Self { format, ..self })
    }
}

/// A case that has no rings, or is about split ones.
pub(crate) const fn case(
    name: &'static str,
    seconds: u64,
    run: fn(&Context) -> Result<()>,
) -> Case {
    Case {
        name,
        timeout: Duration::from_secs(seconds),
        cards: false,
        formats: &[Format::Split],
        format: Format::Split,
        run,
    }
}

/// A case that is about rings of any format, and runs on each.
pub(crate) const fn ring_case(
    name: &'static str,
    seconds: u64,
    run: fn(&Context) -> Result<()>,
) -> Case {
    Case {
        formats: &[Format::Split, Format::Packed],
        ..case(name, seconds, run)
    }
}

/// A process that a case starts beside itself.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub run: fn(&Context) -> Result<()>,
}

pub(crate) const fn role(name: &'static str, run: fn(&Context) -> Result<()>) -> Role {
    Role { name, run }
}
