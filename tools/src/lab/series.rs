// SPDX-License-Identifier: GPL-2.0
//! Kernel series, such as 7.3: what Debian's source packages are named after.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result};

/// A kernel series.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Series {
    major: u16,
    minor: u16,
}

impl Series {
    /// The oldest one that the module is written for, as in `Kbuild`.
    pub const OLDEST: Self = Self { major: 7, minor: 2 };

    /// The series of a version, such as `7.3.4`.
    pub fn of_version(version: &str) -> Option<Self> {
        let mut numbers = version.split('.').map(str::parse);
        let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some(Self { major, minor })
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Series {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::of_version(text)
            .filter(|series| series.to_string() == text)
            .context("not a kernel series, such as 7.3")
    }
}

#[cfg(test)]
mod tests {
    use super::Series;

    fn read(text: &str) -> Option<Series> {
        text.parse().ok()
    }

    #[test]
    fn series_are_read_and_ordered() {
        let mut series = ["7.10", "8.0", "7.3"].map(|text| read(text).unwrap());
        series.sort();
        assert_eq!(series.map(|one| one.to_string()), ["7.3", "7.10", "8.0"]);
        assert_eq!(Series::of_version("7.3.4"), read("7.3"));
        for other in ["", "7", "7.", "7.3.4", "07.3", "7.x", "debug"] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    /// A kernel that the lab takes is one that the module's build accepts.
    #[test]
    fn kbuild_accepts_the_oldest() {
        let kbuild = include_str!("../../../Kbuild");
        let (major, minor) = (Series::OLDEST.major, Series::OLDEST.minor);
        assert!(kbuild.contains(&format!("oldest := {major} {minor}\n")));
    }

    /// DKMS builds from the oldest kernel on that the module's build accepts.
    #[test]
    fn dkms_accepts_the_oldest() {
        let check = include_str!("../../packaging/dkms/check");
        let (major, minor) = (Series::OLDEST.major, Series::OLDEST.minor);
        let list = format!("\n{major}.[{minor}3] | {major}.[{minor}3][.+-]*) ;;\n");
        assert!(check.contains(&list), "{list}");
        assert!(check.contains(&format!("it is for Linux {major}.{minor} and ")));
    }
}
