// SPDX-License-Identifier: GPL-2.0

//! User memory kept for longer than the thread has it for sure.

use kernel::prelude::*;

use crate::kapi::OwnerMemory;

fn keep() -> Option<OwnerMemory<'static>> {
    let task = current!();
    OwnerMemory::of_caller(task) //~ E0515
}
