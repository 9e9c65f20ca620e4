// SPDX-License-Identifier: GPL-2.0
//! What is said about a queue.

use std::fmt;

use serde::Serialize;

/// Who has to do something before the queue moves its next packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Turn {
    /// The guest's driver.
    Guest,
    /// The process that owns the device: the hypervisor.
    Owner,
    /// The network behind the interface.
    Network,
    /// The host's operator.
    Operator,
    /// The module.
    Module,
    /// It is not known.
    Unknown,
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Guest => "the guest's driver",
            Self::Owner => "the owner, which is the hypervisor",
            Self::Network => "the network",
            Self::Operator => "yours",
            Self::Module => "the module",
            Self::Unknown => "not known",
        })
    }
}

/// What one queue waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The name of the rule that applied.
    pub rule: &'static str,
    /// What is the matter, a sentence.
    pub what: String,
    /// Whose turn it is.
    pub turn: Turn,
    /// What to do, a sentence; `None` if nothing has to be done.
    pub advice: Option<String>,
}
