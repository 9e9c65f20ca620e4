// SPDX-License-Identifier: GPL-2.0

//! A waker that borrows: a forgotten poller would go on with what is gone.

use crate::kapi::{Counter, Wake};

struct Borrows<'a>(&'a Counter);

impl<'a> Wake for Borrows<'a> {
    //~^ E0478 E0495
    fn wake(&self) {
        self.0.add(1);
    }
}
