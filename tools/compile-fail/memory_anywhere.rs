// SPDX-License-Identifier: GPL-2.0

//! User memory without the proof that the running task has some.

use core::marker::PhantomData;

use kernel::prelude::*;
use vring::UserAddr;

use crate::kapi::OwnerMemory;

fn clear() -> Result {
    OwnerMemory(PhantomData).clear(UserAddr(0), 1) //~ E0423
}
