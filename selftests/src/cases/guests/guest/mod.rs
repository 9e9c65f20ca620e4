// SPDX-License-Identifier: GPL-2.0

//! A guest that breaks the rules of the ring: its queue stops, nothing else does.

mod evil;
pub(crate) mod tx;
pub(crate) mod rx;
