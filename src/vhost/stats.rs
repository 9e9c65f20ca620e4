// SPDX-License-Identifier: GPL-2.0

//! Statistics of a queue, for the operator.
//!
//! They are shown in `/proc/<pid>/fdinfo/<fd>` of the process that has the device open: a line for
//! each queue with the most important ones, then a line for each counter. Reading them takes no
//! lock that a round holds, so it never waits for a guest.

use core::array::from_fn;

use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::seq_print;
use kernel::sync::{new_spinlock, Arc, SpinLock};
use vring::Fault;

use crate::kapi::{Counter, Ticks};

/// Number of classes of packet lengths.
const SIZES: usize = SIZE_NAMES.len();

/// The classes of packet lengths: the longest packet of each, in bytes without the virtio-net
/// header.
const SIZE_NAMES: [&str; 12] = [
    "64", "128", "256", "512", "1024", "2048", "4096", "8192", "16384", "32768", "65536", "more",
];

/// Bits of the longest length of the first class.
const FIRST_SIZE_BITS: u32 = 6;

/// Why a packet was dropped.
#[derive(Clone, Copy)]
pub(crate) enum Dropped {
    /// The guest's buffers were too short for it.
    TooLong,
    /// The backend, a filter or a device behind it refused it.
    Refused,
    /// Its virtio-net header was wrong.
    Header,
    /// The tap had no memory for it, and it is too long to be tried again.
    NoMemory,
    /// The guest's buffers could not be written.
    Unmapped,
}

impl Dropped {
    /// The names of the reasons, in the order above.
    const NAMES: [&str; 5] = ["too_long", "refused", "header", "no_memory", "unmapped"];
}

/// Why a round ended, if not by a fault.
#[derive(Clone, Copy)]
pub(crate) enum End {
    /// There were no more packets.
    Drained,
    /// The guest had made no more buffers available.
    Unbuffered,
    /// The backend had no room.
    NoRoom,
    /// The limit of packets, bytes or descriptors was reached.
    Budget,
    /// It is to be tried again later.
    Retry,
}

impl End {
    /// The names of the reasons, in the order above.
    const NAMES: [&str; 5] = ["drained", "unbuffered", "no_room", "budget", "retry"];
}

/// Counters of one queue since the device was opened, which are changed under the queue's mutex.
#[pin_data]
pub(crate) struct Stats {
    /// Number of rounds.
    pub(crate) rounds: Counter,
    /// Rounds that began since the worker was woken, not since the last one had left more to do.
    pub(crate) wakeups: Counter,
    /// Packets moved; for transmit, including dropped ones.
    pub(crate) packets: Counter,
    /// Bytes moved, including headers.
    pub(crate) bytes: Counter,
    /// Packets to be segmented, as their virtio-net header says.
    pub(crate) gso: Counter,
    /// Batches of used buffers published.
    pub(crate) batches: Counter,
    /// Calls to the guest.
    pub(crate) calls: Counter,
    /// Batches after which the guest wanted no call.
    pub(crate) unwanted_calls: Counter,
    /// Busy polls that found work.
    pub(crate) busy_hits: Counter,
    /// Busy polls that found none.
    pub(crate) busy_misses: Counter,
    /// Translations that the owner was asked for.
    pub(crate) iotlb_misses: Counter,
    /// Kicks of the guest, whether the worker slept or not; counted by the kick's wait queue.
    pub(crate) kicks: Arc<Counter>,
    /// Events of the backend, likewise.
    pub(crate) events: Arc<Counter>,
    /// Pages of `PAGE_SIZE` that the queue keeps for later frames, now; counted by their pool.
    pub(crate) pages_kept: Arc<Counter>,
    /// Times that the watchdog has let the queue look; only the watchdog counts them.
    pub(crate) watchdog: Counter,
    /// Packets by [`SIZE_NAMES`].
    sizes: [Counter; SIZES],
    /// Packets by [`Dropped::NAMES`].
    drops: [Counter; Dropped::NAMES.len()],
    /// Rounds by [`End::NAMES`].
    ends: [Counter; End::NAMES.len()],
    /// Faults that were reported to the owner, by [`Fault::kind`].
    faults: [Counter; Fault::NAMES.len()],
    /// When a packet was last moved.
    progress: Ticks,
    /// The last fault, and when it was; its lock is the last in the lock order, and is held for an
    /// assignment.
    #[pin]
    last_fault: SpinLock<Option<(Fault, Ticks)>>,
}

/// What a queue had done at the beginning of a round.
pub(crate) struct Mark {
    rounds: u64,
    packets: u64,
    bytes: u64,
    ends: [u64; End::NAMES.len()],
}

/// What a round has done.
pub(crate) struct Moved {
    /// Packets moved; for transmit, including dropped ones.
    pub(crate) packets: u64,
    /// Bytes moved, including headers.
    pub(crate) bytes: u64,
    /// Why the round ended, as the statistics have it.
    pub(crate) end: Option<&'static str>,
}

/// Counts packets by length in a round.
///
/// Packets that follow each other are mostly of one class, which a comparison finds out.
pub(crate) struct Sizes {
    /// The shortest length of the current class, in bytes.
    low: usize,
    /// Length of the current class less 1, in bytes.
    span: usize,
    class: usize,
    /// Number of packets of the current class that are not in [`Stats`] yet.
    packets: usize,
}

impl Sizes {
    /// Starts with no packets.
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self::of_class(0)
    }

    /// No packets of class `class`, which is less than [`SIZES`].
    const fn of_class(class: usize) -> Self {
        // A class begins above the longest length of the one before it, and is as long as all before
        // it together. The first one begins at nothing, and the last one has no end.
        // CAST: less than `SIZES`.
        let before = (1usize << (FIRST_SIZE_BITS - 1)).wrapping_shl(class as u32);
        let above = before.wrapping_add(1);
        let (low, span) = match class {
            0 => (0, 1 << FIRST_SIZE_BITS),
            _ if class == SIZES.wrapping_sub(1) => (above, usize::MAX.wrapping_sub(above)),
            _ => (above, before.wrapping_sub(1)),
        };
        Self {
            low,
            span,
            class,
            packets: 0,
        }
    }

    /// Counts a packet of `len` bytes, without its virtio-net header.
    #[inline(always)]
    pub(crate) fn add(&mut self, len: usize, stats: &Stats) {
        if len.wrapping_sub(self.low) > self.span {
            self.change(len, stats);
        }
        self.packets = self.packets.wrapping_add(1);
    }

    /// Hands the packets over to `stats`.
    #[inline]
    pub(crate) fn flush(&mut self, stats: &Stats) {
        stats.sized(self.class, core::mem::take(&mut self.packets));
    }

    /// Starts with the class of `len` bytes.
    #[inline(never)]
    fn change(&mut self, len: usize, stats: &Stats) {
        self.flush(stats);
        let above = len.saturating_sub(1) >> FIRST_SIZE_BITS;
        // CAST: widening.
        let bits = usize::BITS.wrapping_sub(above.leading_zeros()) as usize;
        *self = Self::of_class(bits.min(SIZES.wrapping_sub(1)));
    }
}

impl Stats {
    /// Makes counters that are all zero.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            rounds: Counter::new(),
            wakeups: Counter::new(),
            packets: Counter::new(),
            bytes: Counter::new(),
            gso: Counter::new(),
            batches: Counter::new(),
            calls: Counter::new(),
            unwanted_calls: Counter::new(),
            busy_hits: Counter::new(),
            busy_misses: Counter::new(),
            iotlb_misses: Counter::new(),
            kicks: Arc::new(Counter::new(), GFP_KERNEL)?,
            events: Arc::new(Counter::new(), GFP_KERNEL)?,
            pages_kept: Arc::new(Counter::new(), GFP_KERNEL)?,
            watchdog: Counter::new(),
            sizes: from_fn(|_| Counter::new()),
            drops: from_fn(|_| Counter::new()),
            ends: from_fn(|_| Counter::new()),
            faults: from_fn(|_| Counter::new()),
            progress: Ticks::never(),
            last_fault <- new_spinlock!(None, "vhost_rnet_fault"),
        })
    }

    /// Adds packets that were counted by length.
    fn sized(&self, class: usize, packets: usize) {
        if let Some(counter) = self.sizes.get(class) {
            counter.add(packets);
        }
    }

    /// Counts `packets` dropped packets.
    #[inline]
    pub(crate) fn dropped(&self, why: Dropped, packets: usize) {
        // CAST: the number of the variant.
        if let Some(counter) = self.drops.get(why as usize) {
            counter.add(packets);
        }
    }

    /// Counts the end of a round.
    #[inline(always)]
    pub(crate) fn ended(&self, why: End) {
        // CAST: the number of the variant.
        if let Some(counter) = self.ends.get(why as usize) {
            counter.add(1);
        }
    }

    /// What the queue has done, under the queue's mutex.
    #[cold]
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            rounds: self.rounds.get(),
            packets: self.packets.get(),
            bytes: self.bytes.get(),
            ends: self.ends.each_ref().map(Counter::get),
        }
    }

    /// What the round since `mark` has done, if there was one.
    #[cold]
    pub(crate) fn since(&self, mark: &Mark) -> Option<Moved> {
        if self.rounds.get() == mark.rounds {
            return None;
        }
        let mut ends = End::NAMES.iter().zip(self.ends.iter().zip(mark.ends));
        Some(Moved {
            packets: self.packets.get().wrapping_sub(mark.packets),
            bytes: self.bytes.get().wrapping_sub(mark.bytes),
            end: ends
                .find(|(_, (now, before))| now.get() != *before)
                .map(|(name, _)| *name),
        })
    }

    /// Records that packets have been moved.
    #[inline(always)]
    pub(crate) fn progressed(&self) {
        self.progress.set_now();
    }

    /// Records a fault, under the queue's mutex.
    pub(crate) fn fault(&self, fault: Fault) {
        if let Some(counter) = self.faults.get(fault.kind()) {
            counter.add(1);
        }
        *self.last_fault.lock() = Some((fault, Ticks::now()));
    }

    /// The name of the last fault, or `none`.
    pub(crate) fn last_fault(&self) -> &'static str {
        let last_fault = self.last_fault.lock();
        last_fault
            .as_ref()
            .map_or("none", |(fault, _)| fault.name())
    }

    /// Writes the line of the queue called `name`, whose keys stay as they are.
    pub(crate) fn show(&self, name: &str, to: &SeqFile) {
        seq_print!(
            to,
            "{}:\trounds {} packets {} bytes {} dropped {} batches {} calls {} faults {} last_fault {}\n",
            name,
            self.rounds.get(),
            self.packets.get(),
            self.bytes.get(),
            sum(&self.drops),
            self.batches.get(),
            self.calls.get(),
            sum(&self.faults),
            self.last_fault(),
        );
    }

    /// Writes a line for each counter of the queue called `name`.
    pub(crate) fn show_all(&self, name: &str, to: &SeqFile) {
        let line = |key: &str, value: u64| seq_print!(to, "{}_{}:\t{}\n", name, key, value);
        let family = |key: &str, names: &[&str], counters: &[Counter]| {
            for (member, counter) in names.iter().zip(counters) {
                seq_print!(to, "{}_{}_{}:\t{}\n", name, key, member, counter.get());
            }
        };
        let since = |key: &str, ms: Option<u64>| {
            if let Some(ms) = ms {
                line(key, ms);
            }
        };
        let last_fault = self
            .last_fault
            .lock()
            .as_ref()
            .and_then(|(_, at)| at.elapsed_ms());
        line("kicks", self.kicks.get());
        line("backend_events", self.events.get());
        line("wakeups", self.wakeups.get());
        line("calls_unwanted", self.unwanted_calls.get());
        line("busy_poll_hits", self.busy_hits.get());
        line("busy_poll_misses", self.busy_misses.get());
        line("iotlb_misses", self.iotlb_misses.get());
        line("watchdog", self.watchdog.get());
        family("size", &SIZE_NAMES, &self.sizes);
        line("gso", self.gso.get());
        line("pages_kept", self.pages_kept.get());
        family("dropped", &Dropped::NAMES, &self.drops);
        family("ended", &End::NAMES, &self.ends);
        family("fault", &Fault::NAMES, &self.faults);
        since("progress_ms", self.progress.elapsed_ms());
        since("fault_ms", last_fault);
    }
}

/// The sum of `counters`, which wraps.
fn sum(counters: &[Counter]) -> u64 {
    let values = counters.iter().map(Counter::get);
    values.fold(0, u64::wrapping_add)
}
