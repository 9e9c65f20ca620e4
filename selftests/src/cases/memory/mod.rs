// SPDX-License-Identifier: GPL-2.0

//! Guest memory that is translated, logged, missing or denied.

pub(crate) mod iotlb;
pub(crate) mod log;
pub(crate) mod away;
pub(crate) mod faults;
pub(crate) mod shortage;
pub(crate) mod pressure;
pub(crate) mod goes_on;
