// SPDX-License-Identifier: GPL-2.0

//! Waiting for a file of any kind, such as a signalfd, whose wait queue may go before it.

use kernel::fs::File;
use kernel::prelude::*;
use kernel::sync::aref::ARef;

use crate::kapi::{Poller, Wake, POLLIN};

fn poller<W: Wake>(file: ARef<File>, waker: W) -> Result<Poller<W>> {
    Poller::new(file, POLLIN, waker) //~ E0308
}
