// SPDX-License-Identifier: GPL-2.0

//! What a machine or a device does not have is no failure.

/// Why a case does not apply to a device; an error that is no failure.
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}
