// SPDX-License-Identifier: GPL-2.0

//! The owner stops the device and starts it again, while the driver makes chains available and the
//! worker takes them.
//!
//! What is not of `vring` is modelled here after the file that each part names.

use std::sync::Arc;

use loom::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use loom::sync::atomic::{fence, AtomicBool};
use loom::sync::{Mutex, Notify};
use loom::thread;

use crate::device::{Backend, Device, Next, Worker};
use crate::driver::Driver;
use crate::{explore, Broken, Kind, Shared, CHAINS, PACKED, SPLIT};

/// Preemptions tried: with a third, three threads take minutes. Every broken rule shows with two.
const PREEMPTIONS: usize = 2;

/// The most chains of a round: one that is full ends with kicks off, and leaves a chain.
const MAX_ROUND: u16 = 2;

/// The backend that the owner starts the queue with again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Second {
    /// It is ready, and wakes the queue at once.
    Ready,
    /// It becomes ready later.
    Late,
}

/// What of the module's rules is not kept, to see that it is noticed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// All are.
    Nothing,
    /// A start wakes nobody.
    NoWake,
    /// A start wakes the queue before it takes the mutex.
    EarlyWake,
    /// A start without the barrier of `Rings::start`.
    NoBarrier,
    /// A stop does not take the mutex.
    StopUnlocked,
    /// A round looks for its backend before it takes the mutex.
    LookUnlocked,
    /// The flag is cleared after the look for work.
    LateTake,
    /// The flag orders nothing.
    RelaxedFlag,
    /// The worker says that it sleeps after it has looked at the flag.
    LateSleep,
}

/// A flag, with the orders of `kapi/flag.rs`.
struct Flag {
    value: AtomicBool,
    relaxed: bool,
}

impl Flag {
    /// Sets the flag; whether it was clear.
    fn set(&self) -> bool {
        !self.exchange(true)
    }

    /// Clears the flag; whether it was set.
    fn take(&self) -> bool {
        self.is_set() && self.exchange(false)
    }

    /// Whether it is set; as `READ_ONCE()`.
    fn is_set(&self) -> bool {
        self.value.load(Relaxed)
    }

    /// The kernel's `xchg()`: a full barrier before it, and one after it.
    fn exchange(&self, value: bool) -> bool {
        if self.relaxed {
            return self.value.swap(value, Relaxed);
        }
        fence(SeqCst);
        let old = self.value.swap(value, AcqRel);
        fence(SeqCst);
        old
    }
}

/// The worker's thread, as `kapi/kthread.rs` and the kernel's scheduler see it.
///
/// The state is swapped, not stored: for loom, stores of two threads that know nothing of each other
/// have no order, while swaps come one after the other.
struct Task {
    asleep: AtomicBool,
    woken: Notify,
}

impl Task {
    /// `rnet_set_sleeping()`, with its full barrier.
    fn set_sleeping(&self) {
        self.asleep.swap(true, Relaxed);
        fence(SeqCst);
    }

    /// `rnet_set_running()`, with none.
    fn set_running(&self) {
        self.asleep.swap(false, Relaxed);
    }

    /// `schedule()`: returns when it has been woken since it said that it sleeps.
    fn schedule(&self) {
        while self.asleep.load(Acquire) {
            self.woken.wait();
        }
    }

    /// `wake_up_process()`: does nothing to who does not sleep.
    fn wake(&self) {
        fence(SeqCst);
        if self.asleep.swap(false, AcqRel) {
            self.woken.notify();
        }
    }
}

/// A socket, under the lock of its wait queue: that who joins that and then looks at the socket
/// misses no event is the socket's business.
struct Socket {
    ready: bool,
    /// Whether the queue waits for it to become ready (`kapi/poller.rs`).
    armed: bool,
}

/// A queue of a device and what surrounds it.
struct Queue {
    shared: Arc<Shared>,
    worker: Worker,
    second: Second,
    wrong: Wrong,
    device: Mutex<Device>,
    /// Whether there is a backend: changed and looked at under the mutex, but for what is wrong.
    bound: AtomicBool,
    pending: Flag,
    task: Task,
    /// That of the backend; not looked at when it is always ready.
    socket: Mutex<Socket>,
}

impl Queue {
    /// A queue that has just been started the first time.
    fn new(worker: Worker, kind: Kind, second: Second, wrong: Wrong) -> Self {
        let shared = Arc::new(Shared::new(Broken::Nothing));
        Self {
            shared: shared.clone(),
            worker,
            second,
            wrong,
            device: Mutex::new(Device::new(shared, kind)),
            bound: AtomicBool::new(true),
            pending: Flag {
                value: AtomicBool::new(true),
                relaxed: wrong == Wrong::RelaxedFlag,
            },
            task: Task {
                asleep: AtomicBool::new(false),
                woken: Notify::new(),
            },
            socket: Mutex::new(Socket {
                ready: true,
                armed: false,
            }),
        }
    }

    /// What a kick does, or an event of the backend: `Waker::wake()` of `worker.rs`.
    fn wake(&self) {
        if self.pending.set() {
            self.task.wake();
        }
    }

    /// The worker's thread: `main()` of `kapi/kthread.rs`, and vhost tasks do the same. It leaves when
    /// it has taken all chains.
    fn work(&self) {
        loop {
            let pending = if self.wrong == Wrong::LateSleep {
                let pending = self.pending.is_set();
                self.task.set_sleeping();
                pending
            } else {
                self.task.set_sleeping();
                self.pending.is_set()
            };
            if !pending {
                self.task.schedule();
                continue;
            }
            self.task.set_running();
            if self.serve() {
                return;
            }
        }
    }

    /// `Job::serve()` of `worker.rs`; whether all chains have been taken.
    fn serve(&self) -> bool {
        let late = self.wrong == Wrong::LateTake;
        let pending = match late {
            true => self.pending.is_set(),
            false => self.pending.take(),
        };
        if !pending {
            return false;
        }
        let early = self.wrong == Wrong::LookUnlocked && self.bound.load(Relaxed);
        let mut device = self.device.lock().unwrap();
        let next = if early || self.bound.load(Relaxed) {
            device.round(self.worker, MAX_ROUND, self)
        } else {
            Next::Wait
        };
        if late {
            self.pending.take();
        }
        if next == Next::Again {
            self.pending.set();
        }
        device.taken == CHAINS
    }

    /// `Owner::set_backend()` of `owner.rs`, with none. When it returns, the memory is the owner's.
    fn stop(&self) {
        let device = (self.wrong != Wrong::StopUnlocked).then(|| self.device.lock().unwrap());
        self.bound.store(false, Relaxed);
        drop(device);
        self.shared.mapped.store(false, Relaxed);
    }

    /// `Owner::set_backend()` of `owner.rs`, with a backend.
    fn start(&self) {
        if self.second == Second::Late {
            // Another one.
            *self.socket.lock().unwrap() = Socket {
                ready: false,
                armed: false,
            };
        }
        if self.wrong == Wrong::EarlyWake {
            self.arm();
        }
        let mut device = self.device.lock().unwrap();
        self.shared.mapped.store(true, Relaxed);
        // QEMU sets what it read when it had stopped the queue.
        let base = device.ring.base();
        assert!(device.ring.set_base(base));
        self.shared.set_barriers(self.wrong != Wrong::NoBarrier);
        device.ring.start(&*self.shared).unwrap();
        self.shared.set_barriers(true);
        if !matches!(self.wrong, Wrong::NoWake | Wrong::EarlyWake) {
            self.arm();
        }
        self.bound.store(true, Relaxed);
    }

    /// The second backend has packets, or room for some.
    fn become_ready(&self) {
        if self.second == Second::Late {
            let mut socket = self.socket.lock().unwrap();
            socket.ready = true;
            if socket.armed {
                self.wake();
            }
        }
    }
}

impl Backend for Queue {
    fn is_ready(&self) -> bool {
        self.second == Second::Ready || self.socket.lock().unwrap().ready
    }

    /// `Backend::arm()` of `backend.rs`, and `Poller::arm()`.
    fn arm(&self) {
        if self.second == Second::Late {
            let mut socket = self.socket.lock().unwrap();
            let waits = socket.armed || !socket.ready;
            socket.armed = true;
            if waits {
                return;
            }
        }
        self.wake();
    }

    fn disarm(&self) {
        if self.second == Second::Late {
            self.socket.lock().unwrap().armed = false;
        }
    }
}

/// All chains are taken and given back; with one lost, the worker sleeps for ever, which loom calls a
/// deadlock. Nothing accesses the ring while it is stopped.
fn no_chain_is_lost(worker: Worker, kind: Kind, second: Second, wrong: Wrong) {
    explore(PREEMPTIONS, move || {
        let queue = Arc::new(Queue::new(worker, kind, second, wrong));
        let worker = thread::spawn({
            let queue = queue.clone();
            move || queue.work()
        });
        let driver = thread::spawn({
            let queue = queue.clone();
            move || {
                let mut driver = Driver::new(&queue.shared, kind);
                for _ in 0..CHAINS {
                    if driver.add() {
                        queue.wake();
                    }
                }
            }
        });
        queue.stop();
        // QEMU may serve it itself meanwhile, without kicks.
        queue.shared.ask_for_no_kick();
        queue.start();
        queue.become_ready();
        driver.join().unwrap();
        worker.join().unwrap();
        assert_eq!(
            queue.shared.used(kind),
            CHAINS,
            "a chain was not given back"
        );
    });
}

/// With all rules kept, and either backend.
fn no_chain_is_lost_with_any(worker: Worker, kinds: [Kind; 2]) {
    for kind in kinds {
        for second in [Second::Ready, Second::Late] {
            no_chain_is_lost(worker, kind, second, Wrong::Nothing);
        }
    }
}

/// With one rule not kept, and the backend that shows it.
fn broken(second: Second, wrong: Wrong) {
    no_chain_is_lost(Worker::OffWhenBusy, SPLIT[0], second, wrong);
}

#[test]
fn no_chain_of_a_split_ring_is_lost() {
    no_chain_is_lost_with_any(Worker::Off, SPLIT);
}

#[test]
fn no_chain_of_a_split_ring_is_lost_when_busy() {
    no_chain_is_lost_with_any(Worker::OffWhenBusy, SPLIT);
}

#[test]
fn no_chain_of_a_packed_ring_is_lost() {
    no_chain_is_lost_with_any(Worker::Off, PACKED);
}

#[test]
fn no_chain_of_a_packed_ring_is_lost_when_busy() {
    no_chain_is_lost_with_any(Worker::OffWhenBusy, PACKED);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_start_has_to_wake() {
    broken(Second::Ready, Wrong::NoWake);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_start_has_to_wake_under_the_mutex() {
    broken(Second::Ready, Wrong::EarlyWake);
}

/// With a backend that is ready it would not show: to wake the queue is a full barrier, too.
#[test]
#[should_panic(expected = "deadlock")]
fn a_start_needs_the_full_barrier() {
    broken(Second::Late, Wrong::NoBarrier);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_start_of_a_packed_ring_needs_the_full_barrier() {
    let (kind, late) = (PACKED[0], Second::Late);
    no_chain_is_lost(Worker::OffWhenBusy, kind, late, Wrong::NoBarrier);
}

#[test]
#[should_panic(expected = "a ring that is stopped was accessed")]
fn a_stop_needs_the_mutex() {
    broken(Second::Ready, Wrong::StopUnlocked);
}

#[test]
#[should_panic(expected = "a ring that is stopped was accessed")]
fn a_round_has_to_look_under_the_mutex() {
    broken(Second::Ready, Wrong::LookUnlocked);
}

#[test]
#[should_panic(expected = "deadlock")]
fn the_flag_has_to_be_cleared_before_the_look() {
    broken(Second::Ready, Wrong::LateTake);
}

#[test]
#[should_panic(expected = "deadlock")]
fn the_flag_needs_its_barriers() {
    broken(Second::Ready, Wrong::RelaxedFlag);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_worker_has_to_look_again_before_it_sleeps() {
    broken(Second::Ready, Wrong::LateSleep);
}
