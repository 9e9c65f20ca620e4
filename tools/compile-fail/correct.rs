// SPDX-License-Identifier: GPL-2.0

//! What the other files do wrongly, done right.

use kernel::prelude::*;
use kernel::sync::Arc;
use vring::{Segment, UserAddr};

use crate::kapi::{
    kick_file, Counter, Kthread, OwnerMemory, Poller, Socket, VhostTask, Wake, Work, POLLIN,
};

/// Shares what it counts in.
struct Shares(Arc<Counter>);

impl Work for Shares {
    fn pending(&self) -> bool {
        self.0.get() == 0
    }

    fn run(&self, memory: OwnerMemory<'_>) {
        let _ = memory.clear(UserAddr(0), 1);
        self.0.add(1);
    }

    fn killed(&self) {}
}

impl Wake for Shares {
    fn wake(&self) {
        self.0.add(1);
    }
}

fn threads() -> Result {
    let counter = Arc::new(Counter::new(), GFP_KERNEL)?;
    let work = Arc::new(Shares(counter.clone()), GFP_KERNEL)?;
    let task = VhostTask::start(work.clone(), c"task")?;
    let kthread = Kthread::start(work, c"kthread")?;
    core::mem::forget((task, kthread));
    counter.add(1);
    Ok(())
}

fn poller(fd: i32) -> Result {
    let counter = Arc::new(Counter::new(), GFP_KERNEL)?;
    let mut poller = Poller::new(kick_file(fd)?, POLLIN, Shares(counter.clone()))?;
    poller.arm()?;
    core::mem::forget(poller);
    counter.add(1);
    Ok(())
}

fn receive(socket: &mut Socket, segments: &[Segment], len: usize) -> Result {
    while let Some(next) = socket.next_len() {
        if next > len {
            socket.discard();
        } else {
            socket.receive(segments, len, 0)?;
        }
    }
    Ok(())
}

fn clear() -> Result {
    let task = current!();
    OwnerMemory::of_caller(task)
        .ok_or(EFAULT)?
        .clear(UserAddr(0), 1)
}
