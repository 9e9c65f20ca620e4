// SPDX-License-Identifier: GPL-2.0

//! Work that borrows: a forgotten thread would go on with what is gone.

use crate::kapi::{Counter, OwnerMemory, Work};

struct Borrows<'a>(&'a Counter);

impl<'a> Work for Borrows<'a> {
    //~^ E0478 E0495
    fn pending(&self) -> bool {
        self.0.get() == 0
    }

    fn run(&self, _memory: OwnerMemory<'_>) {
        self.0.add(1);
    }

    fn killed(&self) {}
}
