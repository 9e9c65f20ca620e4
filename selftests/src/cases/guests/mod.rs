// SPDX-License-Identifier: GPL-2.0

//! Guests that break the rules, or take more than their share.

pub(crate) mod guest;
pub(crate) mod bounded;
pub(crate) mod load;
