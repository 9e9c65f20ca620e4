// SPDX-License-Identifier: GPL-2.0

//! User memory that goes to another thread, which may have none.

use kernel::prelude::*;

use crate::kapi::OwnerMemory;

fn sent<T: Send>(_value: T) {}

fn send() {
    let task = current!();
    sent(OwnerMemory::of_caller(task)); //~ E0277
}
