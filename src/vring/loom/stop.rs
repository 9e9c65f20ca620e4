// SPDX-License-Identifier: GPL-2.0

//! The owner stops the device and starts it again, while the driver makes chains available and the
//! worker takes them.
//!
//! Parts that are not in `vring` are modelled here; each names the file that it follows.

use std::sync::Arc;

use loom::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use loom::sync::atomic::{fence, AtomicBool};
use loom::sync::{Mutex, Notify};
use loom::thread;

use crate::device::{Backend, Device, Next, Worker};
use crate::driver::Driver;
use crate::{explore, Broken, Kind, Shared, CHAINS, PACKED, SPLIT};

/// Preemptions tried: with three, three threads take minutes.
///
/// Two are enough to detect every broken rule.
const PREEMPTIONS: usize = 2;

/// The most chains of a round: a full round ends with kicks off and leaves a chain.
const MAX_ROUND: u16 = 2;

/// The backend with which the owner restarts the queue.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Second {
    /// It is ready, and wakes the queue at once.
    Ready,
    /// It becomes ready later.
    Late,
}

/// The rule of the module that is broken on purpose, to check that the model detects it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// No rule is broken.
    Nothing,
    /// A start does not wake the queue.
    NoWake,
    /// A start wakes the queue before it takes the mutex.
    EarlyWake,
    /// A start lacks the barrier of `Rings::start`.
    NoBarrier,
    /// A stop does not take the mutex.
    StopUnlocked,
    /// A round looks for its backend before it takes the mutex.
    LookUnlocked,
    /// The flag is cleared after the look for work.
    LateTake,
    /// The flag orders nothing.
    RelaxedFlag,
    /// The worker sets its sleeping state after it has checked the flag.
    LateSleep,
}

/// A flag with the memory ordering of `kapi/flag.rs`.
struct Flag {
    value: AtomicBool,
    relaxed: bool,
}

impl Flag {
    /// Sets the flag; returns whether it was clear.
    fn set(&self) -> bool {
        !self.exchange(true)
    }

    /// Clears the flag; returns whether it was set.
    fn take(&self) -> bool {
        self.is_set() && self.exchange(false)
    }

    /// Whether it is set, as by `READ_ONCE()`.
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
/// The state is swapped, not stored: loom does not order unsynchronized stores of two threads, but
/// it does order swaps.
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

    /// `rnet_set_running()`, without a barrier.
    fn set_running(&self) {
        self.asleep.swap(false, Relaxed);
    }

    /// `schedule()`: returns when the thread has been woken since it set its sleeping state.
    fn schedule(&self) {
        while self.asleep.load(Acquire) {
            self.woken.wait();
        }
    }

    /// `wake_up_process()`: does nothing if the thread does not sleep.
    fn wake(&self) {
        fence(SeqCst);
        if self.asleep.swap(false, AcqRel) {
            self.woken.notify();
        }
    }
}

/// A socket under the lock of its wait queue; the socket itself guarantees that a waiter that joins
/// the wait queue and then polls misses no event.
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
    /// Whether there is a backend; written and read under the mutex, except where a rule is broken.
    bound: AtomicBool,
    pending: Flag,
    task: Task,
    /// The backend's socket; not used when the backend is always ready.
    socket: Mutex<Socket>,
}

impl Queue {
    /// A queue that has just been started for the first time.
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

    /// The effect of a kick or of an event of the backend: `Waker::wake()` of `worker.rs`.
    fn wake(&self) {
        if self.pending.set() {
            self.task.wake();
        }
    }

    /// The worker's thread: `main()` of `kapi/kthread.rs`, which vhost tasks match.
    ///
    /// It returns when it has taken all chains.
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

    /// `Job::serve()` of `worker.rs`; returns whether all chains have been taken.
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

    /// `Owner::set_backend()` of `owner.rs` without a backend.
    ///
    /// After it returns, the device must not access the memory.
    fn stop(&self) {
        let device = (self.wrong != Wrong::StopUnlocked).then(|| self.device.lock().unwrap());
        self.bound.store(false, Relaxed);
        drop(device);
        self.shared.mapped.store(false, Relaxed);
    }

    /// `Owner::set_backend()` of `owner.rs`, with a backend.
    fn start(&self) {
        if self.second == Second::Late {
            // A new socket.
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
        // QEMU sets the base that it read when it stopped the queue.
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

    /// The second backend becomes ready: it has packets, or room for some.
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

/// Checks that all chains are taken and given back, and that nothing accesses the ring while it is
/// stopped.
///
/// If a chain is lost, the worker sleeps for ever, which loom reports as a deadlock.
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
        // QEMU may serve the ring itself meanwhile, without kicks.
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

/// Runs the model with all rules kept and with each backend.
fn no_chain_is_lost_with_any(worker: Worker, kinds: [Kind; 2]) {
    for kind in kinds {
        for second in [Second::Ready, Second::Late] {
            no_chain_is_lost(worker, kind, second, Wrong::Nothing);
        }
    }
}

/// Runs the model with one rule broken, and with the backend that detects it.
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

/// With a ready backend the missing barrier would not be detected: waking the queue is a full
/// barrier, too.
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
