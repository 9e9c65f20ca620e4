// SPDX-License-Identifier: GPL-2.0

//! Calls from several threads, that change nothing in the end, against traffic that must not
//! notice.

use crate::cases::common::{Case, Context, Kind, check, ring_case};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::iotlb::{BACKEND_MSG_V2, Message, VERSION_1};
use crate::driver::ring::Format;
use crate::driver::traffic::{self, Flow, Plan, RxFlow, TxFlow};
use crate::driver::uapi::{self, MemoryRegion, VringAddr, feature};
use crate::driver::vhost::{RX, TX, Vhost};
use crate::sys::ioctl::BadPointer;
use crate::sys::process::{Forked, RawSlot, redirect};
use anyhow::{Context as _, Result, bail};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) const CASES: &[Case] = &[ring_case("stress.ioctls", 180, ioctls)];

/// Threads that call.
const THREADS: u64 = 3;

/// Calls of each thread, by default.
const CALLS: u64 = 1000;

/// What the calls are made with.
struct Target {
    vhost: Vhost,
    kind: Kind,
    features: u64,
    table: Vec<MemoryRegion>,
    /// Of each queue: size, place, and descriptors to kick, call and tell of errors.
    queues: [(u32, VringAddr, [i32; 3]); 2],
    tap: i32,
    /// A number that stands for the tap, for a pipe, or for nothing.
    slot: RawSlot,
}

impl Target {
    fn new(ctx: &Context, device: &NetDevice) -> Result<Self> {
        let queue = |queue: &crate::driver::queue::Queue| {
            let fds = [queue.kick.as_fd(), queue.call.as_fd(), queue.err.as_fd()];
            (
                u32::from(queue.ring.size()),
                device.address(queue),
                fds.map(|fd| fd.as_raw_fd()),
            )
        };
        Ok(Self {
            vhost: Vhost::from_fd(device.vhost.as_fd().try_clone_to_owned()?),
            kind: ctx.kind,
            features: device.setup.features,
            table: device.memory.table(),
            queues: [queue(&device.rx), queue(&device.tx)],
            tap: device.tap.number(),
            slot: RawSlot::new(device.tap_duplicate()?),
        })
    }

    /// Makes any one of the calls.
    fn call(&self, ctx: &Context, rng: &mut SmallRng) -> Result<()> {
        let vhost = &self.vhost;
        let index = rng.random_range(RX..=TX);
        let (num, place, [kick, call, err]) = self.queues[index as usize];
        let number = rng.random_range(0..31);
        let (result, refusals): (io::Result<()>, &[i32]) = match number {
            0 => (vhost.set_features(self.features), &[]),
            1 => (vhost.set_memory(&self.table), &[]),
            2 => (vhost.set_addr(place), &[]),
            // Allowed while another thread has stopped the queue.
            3 => (vhost.set_num(index, num), &[libc::EBUSY]),
            4 => (vhost.base(index).map(drop), &[]),
            5 => (vhost.set_kick(index, kick), &[]),
            6 => (vhost.set_call(index, call), &[]),
            7 => (vhost.set_err(index, err), &[]),
            8 => (vhost.set_log_base(0), &[]),
            9 => (vhost.set_log_fd(err), &[]),
            10 => (vhost.set_owner(), &[libc::EBUSY]),
            11 => (vhost.set_backend(index, self.tap), &[]),
            12 | 13 => {
                vhost.set_backend(index, -1)?;
                (vhost.set_backend(index, self.tap), &[])
            }
            // Another thread changes what the number stands for.
            14 | 15 => (
                vhost.set_backend(index, self.slot.number()),
                &[libc::ENOTSOCK],
            ),
            16 => (
                vhost.bad(uapi::SET_MEM_TABLE.number(), BadPointer::Kernel),
                &[libc::EFAULT],
            ),
            17 => (
                vhost.set_addr(VringAddr { index: 7, ..place }),
                &[libc::ENOBUFS],
            ),
            18 => {
                drop(vhost.as_fd().try_clone_to_owned()?);
                drop(ctx.owned()?);
                (Ok(()), &[])
            }
            19 => (vhost.features().map(drop), &[]),
            20 => (vhost.set_features_array(&[self.features, 0]), &[]),
            21 => (vhost.backend_features().map(drop), &[]),
            22 => (vhost.set_backend_features(BACKEND_MSG_V2), &[]),
            23 => (vhost.set_busy_timeout(index, rng.random_range(0..50)), &[]),
            24 => (vhost.busy_timeout(index).map(drop), &[]),
            // Some kernels' in-tree driver has no byte order to set.
            25 => (vhost.set_endian(index, 0), &[libc::EBUSY, libc::ENOTTY]),
            26 => (vhost.endian(index).map(drop), &[libc::ENOTTY]),
            27 => {
                vhost.fork_from_owner()?;
                (vhost.set_fork_from_owner(1), &[libc::EBUSY])
            }
            28 if Format::of(self.features) == Format::Split => {
                // No index; while a queue runs there is none that it could be set to.
                let result = vhost.set_base(index, 1 << 20);
                (result, &[libc::EBUSY, libc::EINVAL])
            }
            // A packed ring's may be anything until it is started.
            28 => (vhost.base(index).map(drop), &[]),
            29 => (self.message(), &[libc::EFAULT]),
            _ => (self.worker(index), &[]),
        };
        match result {
            Ok(()) => Ok(()),
            Err(error)
                if error
                    .raw_os_error()
                    .is_some_and(|got| refusals.contains(&got)) =>
            {
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("call {number}")),
        }
    }

    /// Writes a message about IO addresses, of which there are none.
    fn message(&self) -> io::Result<()> {
        let update = Message::update(0, 4096, self.table[0].user);
        self.vhost.send(VERSION_1, update)
    }

    /// Starts a worker, gives it a queue, and takes both back.
    fn worker(&self, index: u32) -> io::Result<()> {
        if self.kind == Kind::C {
            // The in-tree driver has none but the first.
            return Ok(());
        }
        let id = self.vhost.new_worker()?;
        self.vhost.attach_worker(index, id)?;
        self.vhost.attach_worker(index, 0)?;
        self.vhost.free_worker(id)
    }

    /// Changes what the slot stands for, and has another process try to call.
    fn disturb(&self, pipe: &OwnedFd, rng: &mut SmallRng) -> Result<()> {
        redirect(pipe.as_raw_fd(), &self.slot)?;
        redirect(self.tap, &self.slot)?;
        if rng.random_range(0..20) != 0 {
            return Ok(());
        }
        let refused = |result: io::Result<()>| {
            result.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
        };
        let child = Forked::start(|| {
            let vhost = &self.vhost;
            let all = [
                refused(vhost.set_backend(TX, -1)),
                refused(vhost.set_num(RX, 8)),
                refused(vhost.reset_owner()),
                refused(vhost.set_addr(self.queues[0].1)),
            ];
            u8::from(all != [true; 4])
        })?;
        let status = child.wait()?;
        check(status.success(), || {
            format!("a child of the owner: {status}")
        })
    }
}

/// Each thread calls as often as it should; meanwhile every frame arrives.
fn ioctls(ctx: &Context) -> Result<()> {
    let calls = ctx.times(CALLS);
    for features in [0, feature::EVENT_IDX | feature::MRG_RXBUF] {
        let setup = Setup::new(feature::VERSION_1 | features);
        let mut device = NetDevice::start(&ctx.device, setup)?;
        let target = Target::new(ctx, &device)?;
        let (pipe, _keep) = rustix::pipe::pipe()?;
        let stop = AtomicBool::new(false);
        let plan = Plan {
            window: 100,
            ..Plan::new(ctx.seed, u64::MAX, |n| 60 + (n % 900) as usize)
        };
        let (mut tx, mut rx) = (TxFlow::new(plan), RxFlow::new(plan));
        std::thread::scope(|scope| -> Result<()> {
            let target = &target;
            let stop = &stop;
            let callers: Vec<_> = (0..THREADS)
                .map(|number| {
                    scope.spawn(move || -> Result<()> {
                        let mut rng = SmallRng::seed_from_u64(ctx.seed ^ (number << 32));
                        (0..calls).try_for_each(|_| target.call(ctx, &mut rng))
                    })
                })
                .collect();
            let disturber = scope.spawn(|| -> Result<()> {
                let mut rng = SmallRng::seed_from_u64(!ctx.seed);
                while !stop.load(Ordering::Relaxed) {
                    target.disturb(&pipe, &mut rng)?;
                }
                Ok(())
            });
            let mut move_frames = || -> Result<()> {
                while !callers.iter().all(|caller| caller.is_finished()) {
                    let moved = tx.pump(&mut device)? | rx.pump(&mut device)?;
                    let patience = crate::wait::PATIENCE;
                    if !moved && !traffic::wait_activity(&mut device, patience)? {
                        bail!("{}; {}", tx.describe(&device), rx.describe(&device));
                    }
                }
                Ok(())
            };
            let moved = move_frames();
            stop.store(true, Ordering::Relaxed);
            for thread in callers.into_iter().chain([disturber]) {
                thread.join().expect("no thread panics")?;
            }
            moved
        })?;
        tx.finish();
        rx.finish();
        traffic::run(&mut device, &mut [&mut tx, &mut rx])?;
        println!(
            "{} calls against {} frames",
            calls * THREADS,
            tx.seen + rx.seen
        );
        traffic::exchange(&mut device, Plan::new(ctx.seed, 100, |_| 100))?;
    }
    Ok(())
}
