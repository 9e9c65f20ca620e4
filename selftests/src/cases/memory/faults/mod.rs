// SPDX-License-Identifier: GPL-2.0

//! What the memory of an owner goes through, and allocations that fail.

pub(crate) mod owner;
pub(crate) mod alloc;
pub(crate) mod alloc_random;
