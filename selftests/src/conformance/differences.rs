// SPDX-License-Identifier: GPL-2.0

//! Where `vhost_rnet` differs from the in-tree driver on purpose, and why.

use super::ioctls::of;
use super::states::{Owner, State};
use super::step::{Action, Argument, Outcome, Step};
use crate::driver::uapi::feature::RING_PACKED;

/// Regions of a memory table that the in-tree driver takes, unless its module parameter
/// `max_mem_regions` says otherwise.
const C_REGIONS: u32 = 64;
/// Regions of a memory table that `vhost_rnet` takes.
const RNET_REGIONS: u32 = 1024;

/// A difference: which calls it is about, in which states, and what it looks like.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// What differs, and why that is meant.
    pub reason: &'static str,
    /// Whether a call is one of those that may differ.
    pub calls: fn(&Step) -> bool,
    /// Whether such a call differs in a state.
    pub states: fn(&State, &Step) -> bool,
    /// Whether the outcomes, the in-tree driver's first, are those that are meant.
    pub outcomes: fn(&Outcome, &Outcome) -> bool,
    /// Whether later calls show it, too: nothing can be compared any more.
    pub diverges: bool,
}

impl Difference {
    /// Whether a call must differ in a state of the table.
    #[must_use]
    pub fn foretells(&self, state: &State, step: &Step) -> bool {
        (self.calls)(step) && (self.states)(state, step)
    }

    /// Whether the devices go different ways after a call, as is meant.
    #[must_use]
    pub fn parts(&self, step: &Step) -> bool {
        self.diverges && (self.calls)(step)
    }

    /// Whether it explains the outcomes of a call in an unknown state.
    #[must_use]
    pub fn excuses(&self, step: &Step, c: &Outcome, rnet: &Outcome) -> bool {
        (self.calls)(step) && (self.outcomes)(c, rnet)
    }
}

/// All differences.
pub const ALL: &[Difference] = &[
    Difference {
        reason: "rings may be packed: the in-tree vhost serves split rings only",
        calls: |step| {
            let one = argument(step, "SET_FEATURES")
                .filter(|argument| argument.has(8))
                .map(|argument| [argument.word(0), argument.word(1)]);
            // Of an array, the first of two words, beside a second without any.
            let first = argument(step, "SET_FEATURES_ARRAY")
                .filter(|argument| argument.has(24) && argument.word(0) == Some(2))
                .filter(|argument| [1, 4, 5].map(|at| argument.word(at)) == [Some(0); 3])
                .map(|argument| [argument.word(2), argument.word(3)]);
            // CAST: bit 34, in the upper half.
            one.or(first) == Some([Some(0), Some((RING_PACKED >> 32) as u32)])
        },
        states: |_, _| true,
        outcomes: |c, rnet| {
            // The format of a running ring cannot change.
            c.is(libc::EOPNOTSUPP) && (rnet.result == Ok(0) || rnet.is(libc::EBUSY))
        },
        diverges: true,
    },
    Difference {
        reason: "worker ioctls are served: the in-tree vhost implements them and vhost-scsi \
                 serves them, but vhost-net does not pass them on",
        calls: |step| is_any(step, WORKERS),
        states: |state, step| match state.owner {
            Owner::Nobody => true,
            Owner::Other => false,
            Owner::Caller => {
                let of_a_queue = is_any(step, &["ATTACH_VRING_WORKER", "GET_VRING_WORKER"]);
                has_index(step) && (!of_a_queue || known_queue(step))
            }
        },
        outcomes: |c, _| c.is(libc::EPERM) || c.is(libc::ENOTTY) || c.is(libc::ENOBUFS),
        diverges: false,
    },
    Difference {
        reason: "a ring's byte order can be set: the in-tree vhost leaves that to \
                 CONFIG_VHOST_CROSS_ENDIAN_LEGACY, which few kernels have",
        calls: |step| is_any(step, &["SET_VRING_ENDIAN", "GET_VRING_ENDIAN"]),
        states: |state, step| state.owner == Owner::Caller && known_queue(step),
        outcomes: |c, _| c.is(libc::ENOTTY),
        diverges: false,
    },
    Difference {
        reason: "a memory table may have 1024 regions, for guests with much hotplugged memory: \
                 the in-tree vhost takes 64 unless a module parameter says otherwise",
        calls: |step| {
            argument(step, "SET_MEM_TABLE").is_some_and(|argument| {
                let count = argument.word(0).unwrap_or(0);
                argument.has(8)
                    && argument.word(1) == Some(0)
                    && (C_REGIONS + 1..=RNET_REGIONS).contains(&count)
            })
        },
        states: |state, _| state.owner == Owner::Caller,
        outcomes: |c, rnet| c.is(libc::E2BIG) && !rnet.is(libc::E2BIG),
        diverges: true,
    },
    Difference {
        reason: "a memory region has a size: the in-tree vhost takes a size of zero at address \
                 zero for all of 2^64 bytes, and then no backend, since no process has that much",
        calls: |step| {
            argument(step, "SET_MEM_TABLE").is_some_and(|argument| {
                let count = argument.word(0).unwrap_or(0);
                argument.has(8 + 32 * count as usize)
                    && argument.word(1) == Some(0)
                    && (1..=C_REGIONS as usize).contains(&(count as usize))
                    && (0..count as usize).any(|region| {
                        // Guest address and size.
                        let words = 2 + 8 * region..6 + 8 * region;
                        words.into_iter().all(|word| argument.word(word) == Some(0))
                    })
            })
        },
        states: |state, _| state.owner == Owner::Caller && !state.bound,
        outcomes: |c, rnet| c.result == Ok(0) && rnet.is(libc::EFAULT),
        diverges: true,
    },
    Difference {
        reason: "unbinding always works: the in-tree vhost refuses it when ring or memory are \
                 unusable, though nothing is bound then, and QEMU takes a refusal for a bug",
        calls: |step| {
            argument(step, "NET_SET_BACKEND").is_some_and(|argument| {
                argument.has(8) && argument.word(1) == Some(u32::MAX) && known_queue(step)
            })
        },
        states: |state, _| state.owner == Owner::Caller && state.unusable,
        outcomes: |c, rnet| c.is(libc::EFAULT) && rnet.result == Ok(0),
        diverges: false,
    },
];

/// Hides from the outcome of `step` what `vhost_rnet` offers and the in-tree driver does not:
/// packed rings.
pub fn hide_offer(step: &Step, outcome: &mut Outcome) {
    let word = match () {
        () if argument(step, "GET_FEATURES").is_some() => 0,
        // Behind the count.
        () if argument(step, "GET_FEATURES_ARRAY").is_some() => 8,
        () => return,
    };
    let [.., byte, _, _, _] = RING_PACKED.to_le_bytes();
    for (_, written) in outcome.written.iter_mut().filter(|(at, _)| *at == word + 4) {
        *written &= !byte;
    }
}

/// A difference in traffic: the in-tree driver stalls, loses packets, or does something for far too
/// long. No call shows it; cases do, in which that driver is helped on, or let off.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// What differs, and why that is meant.
    pub reason: &'static str,
    /// The cases, by name.
    pub cases: &'static [&'static str],
}

/// All differences in traffic.
pub const IN_TRAFFIC: &[Course] = &[
    Course {
        reason: "statistics of each queue: the in-tree driver has none",
        cases: &[
            "stats.drops",
            "stats.ends",
            "stats.faults",
            "stats.notifications",
            "stats.pages_kept",
            "stats.segmented",
            "stats.sizes",
            "stats.wakeups",
        ],
    },
    Course {
        reason: "trace events of queues, workers and rounds: the in-tree driver has none",
        cases: &[
            "trace.fault",
            "trace.misses",
            "trace.queues",
            "trace.rounds",
            "trace.workers",
        ],
    },
    Course {
        reason: "directories in debugfs: the in-tree driver has none",
        cases: &[
            "view.before_start",
            "view.device",
            "view.gone",
            "view.hammered",
            "view.iommu",
            "view.refused",
            "view.stopped",
            "view.traffic",
            "view.two",
            "view.wake",
            "view.watchdog",
        ],
    },
    Course {
        reason: "what a queue does and waits for is shown, and it can be woken: the in-tree driver \
                 shows nothing, which rnetctl says",
        cases: &[
            "rnetctl.explain_fault",
            "rnetctl.explain_links",
            "rnetctl.explain_owner",
            "rnetctl.explain_rest",
            "rnetctl.explain_room",
            "rnetctl.explain_stopped",
            "rnetctl.explain_translation",
            "rnetctl.stat",
            "rnetctl.wake",
        ],
    },
    Course {
        reason: "a queue that stopped asks for a kick, and looks again for whatever its owner \
                 changes: the in-tree driver waits for a kick that it has switched off",
        cases: &[
            "accept.error",
            "goes_on.backend",
            "goes_on.backend_again",
            "goes_on.features",
            "goes_on.kick_descriptor",
            "goes_on.link",
            "goes_on.log_base",
            "goes_on.log_descriptor",
            "goes_on.log_off",
            "goes_on.memory_table",
            "goes_on.mended",
            "goes_on.ring_address",
            "goes_on.worker",
            "history.moved_ring",
            "iotlb.permissions",
            "iotlb.ring_permissions",
            "iotlb.switch_live",
            "live.event_index",
            "live.ring_move",
            "live.ring_move_to_flags",
        ],
    },
    Course {
        reason: "used buffers are kept until the guest can be given them: the in-tree driver \
                 forgets them when the used ring cannot be written, or their tap has gone",
        cases: &[
            "away.tx_ring",
            "away.rx_ring",
            "change.deleted",
            "change.namespace",
            "faults.alloc_worker",
        ],
    },
    Course {
        reason: "a chain that cannot be served stops its queue, with an error: the in-tree driver \
                 tries it again for ever in silence, steps over it, or loses the frame",
        cases: &[
            "faults.transmit_memory",
            "frames.headers",
            "guest.rx_bad_ring",
            "guest.rx_bad_second_buffer",
            "guest.rx_closed_page",
            "guest.tx_bad_ring",
            "guest.tx_closed_page",
            "guest.tx_short_header",
            "log.half_written",
        ],
    },
    Course {
        reason: "a queue with VIRTIO_F_IN_ORDER may start at any chain: the in-tree driver takes \
                 its base for a descriptor, too, which is wrong after a chain of several",
        cases: &["in_order.rebind"],
    },
    Course {
        reason: "a frame longer than all buffers of a full ring is dropped: the in-tree driver \
                 waits for buffers that the guest has no room to post",
        cases: &["rx.never_fits"],
    },
    Course {
        reason: "what a packet socket's device or a filter drops is gone, and so is what the socket \
                 has no memory for, since its answer is the same: the in-tree driver sends it again \
                 and again, and nothing behind it",
        cases: &["drops.filter", "drops.full_queue"],
    },
    Course {
        reason: "a layer 3 tap without a limit to its send buffer gets packets one by one: the \
                 in-tree driver batches them as Ethernet frames, which the tap then drops",
        cases: &["accept.layer_3"],
    },
    Course {
        reason: "a call that a signal interrupts while it starts a thread is made again: the \
                 in-tree vhost takes that for a lack of memory",
        cases: &["signals.set_owner"],
    },
    Course {
        reason: "rounds end after so many descriptors, and waits after so much time: the in-tree \
                 driver counts packets and bytes only, and waits anew for each packet",
        cases: &[
            "bounded.rx_descriptors",
            "bounded.tx_descriptors",
            "bounded.rx_bytes",
            "bounded.killed",
            "bounded.busy_polling",
        ],
    },
    Course {
        reason: "unbinding a queue forgets its own miss: the in-tree vhost forgets the other's, too",
        cases: &["goes_on.other_unbound"],
    },
    Course {
        reason: "no write goes unlogged unnoticed: the in-tree vhost goes on without a log that is \
                 away, logs no used entries over more than 64 pieces, and a page with two guest \
                 addresses at one of them only",
        cases: &["away.log", "iotlb.log_pieces", "log.alias", "log.closed"],
    },
    Course {
        reason: "a header that cannot be written does not end a queue: the in-tree driver then neither \
                 waits for packets nor asks for kicks, if memory goes between packet and header",
        cases: &["faults.receive_memory"],
    },
    Course {
        reason: "the memory of an owner that was killed goes with its threads: the in-tree vhost keeps \
                 it until the device is closed",
        cases: &["fork.memory"],
    },
    Course {
        reason: "memory for frames is charged to who owns the device: the in-tree driver's is not",
        cases: &["frames.charged", "frames.charged_kthread", "frames.limit"],
    },
];

/// What a case shows that the in-tree driver does otherwise.
#[must_use]
pub fn in_traffic(case: &str) -> Option<&'static str> {
    let course = IN_TRAFFIC
        .iter()
        .find(|course| course.cases.contains(&case));
    course.map(|course| course.reason)
}

const WORKERS: &[&str] = &[
    "NEW_WORKER",
    "FREE_WORKER",
    "ATTACH_VRING_WORKER",
    "GET_VRING_WORKER",
];

fn argument<'a>(step: &'a Step, name: &str) -> Option<&'a Argument> {
    step.argument_of(of(name))
}

fn is_any(step: &Step, names: &[&str]) -> bool {
    names.iter().any(|name| argument(step, name).is_some())
}

/// Whether the first word, a queue's index in most ioctls, can be read.
fn has_index(step: &Step) -> bool {
    matches!(&step.action, Action::Ioctl(_, argument) if argument.has(4))
}

/// Whether the first word is the index of a queue that there is.
fn known_queue(step: &Step) -> bool {
    match &step.action {
        Action::Ioctl(_, argument) => {
            argument.has(4) && argument.word(0).is_some_and(|index| index < 2)
        }
        _ => false,
    }
}
