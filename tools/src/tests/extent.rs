// SPDX-License-Identifier: GPL-2.0
//! How much the tests run.

/// How much is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Not the cases that take the debug kernel longest, nor the guests and migrations whose options
    /// others have too, put together otherwise, nor the packages; on the older series only
    /// [`SMOKE`](super::cases::SMOKE).
    Short,
    /// Everything.
    Long,
}
