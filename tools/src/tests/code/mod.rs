// SPDX-License-Identifier: GPL-2.0
//! Checks of the code itself, as source or as the compiler leaves it, which run nothing of it.

pub mod circles;
pub mod floors;
mod imports;
pub mod misuse;
pub mod shim;
mod source;
pub mod stack;
pub mod unsafe_code;
