// SPDX-License-Identifier: GPL-2.0
//! The rules: the first that applies to a queue says what it waits for.

use super::answer::{Answer, Turn};
use super::facts::Facts;
use super::faults;
use crate::debugfs::Wait;
use crate::output::escaped;
use crate::scan::DebugFs;

/// A rule.
pub struct Rule {
    /// Its name, by which programs know it.
    pub name: &'static str,
    /// Whether it applies.
    pub applies: fn(&Facts) -> bool,
    /// What is the matter, whose turn it is, and what to do.
    pub say: fn(&Facts) -> (String, Turn, Option<String>),
}

/// All rules. The last one always applies.
pub const RULES: [Rule; 21] = [
    Rule {
        name: "vhost_net",
        applies: |facts| facts.is_net(),
        say: |_| {
            say(
                "vhost-net serves this device, and tells nothing of its queues",
                Turn::Unknown,
                None,
            )
        },
    },
    Rule {
        name: "frozen",
        applies: |facts| facts.device.process.frozen,
        say: |facts| {
            say(
                &format!(
                    "the control group of process {} is frozen, and its workers with it",
                    facts.device.process.pid
                ),
                Turn::Operator,
                Some("thaw it: write 0 to cgroup.freeze of its control group".to_owned()),
            )
        },
    },
    Rule {
        name: "process_stopped",
        applies: |facts| facts.device.process.task.is_stopped(),
        say: |facts| {
            let pid = facts.device.process.pid;
            say(
                &format!("process {pid} is stopped by a signal or a debugger"),
                Turn::Operator,
                Some(format!(
                    "let it go on: kill -CONT {pid}, or end the debugger"
                )),
            )
        },
    },
    Rule {
        name: "no_owner",
        applies: |facts| {
            facts.device.number.is_some()
                && facts.device.owner.is_none()
                && facts.device.folder.is_none()
        },
        say: |_| {
            say(
                "the device has no owner: it was opened, and no process has set it up since",
                Turn::Owner,
                None,
            )
        },
    },
    Rule {
        name: "no_state",
        applies: |facts| facts.state().is_none(),
        say: |facts| {
            let (why, advice) = match facts.debugfs {
                DebugFs::Denied => ("this user may not read debugfs", Some("run this as root")),
                DebugFs::Missing => (
                    "the module shows nothing in debugfs",
                    Some("mount debugfs at /sys/kernel/debug, or load a newer module"),
                ),
                DebugFs::Read => ("debugfs does not have it (any more)", None),
            };
            say(
                &format!("the queue's state is not known: {why}"),
                Turn::Unknown,
                advice.map(str::to_owned),
            )
        },
    },
    Rule {
        name: "running",
        applies: |facts| facts.state().and_then(|state| state.running) == Some(true),
        say: |_| say("the queue moves packets just now", Turn::Module, None),
    },
    Rule {
        name: "not_started",
        applies: |facts| facts.state().and_then(|state| state.started) == Some(false),
        say: |_| {
            say(
                "the queue is not started: the owner has bound it to no backend",
                Turn::Owner,
                Some(
                    "if the guest runs, see whether it has loaded its driver and set its \
                     interface up; a paused or migrated guest has no queues started"
                        .to_owned(),
                ),
            )
        },
    },
    Rule {
        name: "stopped",
        applies: |facts| facts.state().and_then(|state| state.stopped) == Some(true),
        say: stopped,
    },
    Rule {
        name: "translation",
        applies: |facts| facts.waits_for() == Some(Wait::Translation),
        say: |facts| {
            say(
                &format!(
                    "the queue has asked the owner to translate an address of the guest's IOMMU, \
                     and waits for the answer; it has asked {} times so far",
                    facts.count("iotlb_misses")
                ),
                Turn::Owner,
                Some(
                    "if this lasts, the guest uses an address that it has not mapped, or the \
                      hypervisor does not answer: see its log"
                        .to_owned(),
                ),
            )
        },
    },
    Rule {
        name: "interface_down",
        applies: |facts| facts.link.is_some_and(|link| !link.up),
        say: |facts| {
            let name = facts.interface_name();
            say(
                &format!("{name} is down, so no packet passes it"),
                Turn::Operator,
                Some(format!("set it up: ip link set {name} up")),
            )
        },
    },
    Rule {
        name: "lost_kick",
        applies: |facts| facts.may_have_lost_kick() && facts.stands_still,
        say: |facts| {
            say(
                "the guest has made buffers available, but the queue still waits for a kick: it \
                 was lost, or the guest did not make it",
                Turn::Operator,
                Some(format!(
                    "wake the queue: rnetctl wake {} {}; if it happens again, look for an error \
                     of the guest's driver or of the hypervisor's ioeventfd",
                    facts.device.id(),
                    facts.direction
                )),
            )
        },
    },
    Rule {
        name: "about_to_kick",
        applies: |facts| facts.may_have_lost_kick(),
        say: |_| {
            say(
                "the guest has just made buffers available, and its kick is to come",
                Turn::Guest,
                None,
            )
        },
    },
    Rule {
        name: "room",
        applies: |facts| facts.waits_for() == Some(Wait::Room),
        say: |facts| {
            let name = facts.interface_name();
            say(
                &format!("{name} takes no more packets: those before are still in flight"),
                Turn::Network,
                Some(format!(
                    "if this lasts, find who holds them: queueing of the interfaces behind it \
                     (tc -s qdisc), or a reader of {name} that does not read"
                )),
            )
        },
    },
    Rule {
        name: "retry",
        applies: |facts| facts.waits_for() == Some(Wait::Retry),
        say: |facts| {
            let fault = facts.state().and_then(|state| state.fault.as_deref());
            let why = match fault.and_then(faults::find) {
                Some(fault) => fault.meaning.to_owned(),
                None => "something failed for the moment, usually for want of memory".to_owned(),
            };
            say(
                &format!("{why}; the queue tries again by itself within a second"),
                Turn::Module,
                Some(
                    "if this lasts, see whether the host is short of memory, and the kernel log"
                        .to_owned(),
                ),
            )
        },
    },
    Rule {
        name: "no_carrier",
        applies: |facts| facts.link.is_some_and(|link| link.carrier == Some(false)),
        say: |facts| {
            let name = facts.interface_name();
            say(
                &format!("{name} has no carrier: its other side is not connected"),
                Turn::Operator,
                Some(format!(
                    "see ip link show {name}: for a macvtap, the state of the interface below \
                     it; for a tap, whether the hypervisor has taken its link away"
                )),
            )
        },
    },
    Rule {
        name: "packet",
        applies: |facts| facts.waits_for() == Some(Wait::Packet),
        say: |facts| {
            say(
                &format!(
                    "the queue waits for a packet from {}; the guest is ready to receive",
                    facts.interface_name()
                ),
                Turn::Network,
                Some(
                    "none, if no packet is expected; otherwise see whether the interface is in \
                     its bridge, and what filters drop"
                        .to_owned(),
                ),
            )
        },
    },
    Rule {
        name: "no_buffers",
        applies: |facts| facts.waits_for() == Some(Wait::Kick) && !facts.is_tx(),
        say: |facts| {
            say(
                "the guest has no buffers to receive into: packets wait, and are dropped when \
                 there are too many",
                Turn::Guest,
                Some(format!(
                    "see whether the guest hangs or is short of memory or processors{}",
                    match facts.count("packets") {
                        0 => "; it has not received anything so far",
                        _ => "",
                    }
                )),
            )
        },
    },
    Rule {
        name: "nothing_to_send",
        applies: |facts| facts.waits_for() == Some(Wait::Kick),
        say: |_| {
            say(
                "the guest has nothing to send; its next kick wakes the queue",
                Turn::Guest,
                None,
            )
        },
    },
    Rule {
        name: "no_backend",
        applies: |facts| {
            let backend = facts.state().and_then(|state| state.backend.as_deref());
            backend == Some("none")
        },
        say: |_| say("the queue has no backend", Turn::Owner, None),
    },
    Rule {
        name: "about_to_run",
        applies: |facts| facts.waits_for() == Some(Wait::Nothing),
        say: |_| say("the queue is about to look for work", Turn::Module, None),
    },
    Rule {
        name: "unknown",
        applies: |_| true,
        say: |_| {
            say(
                "the module does not tell what the queue waits for: it runs just now, or is of a \
                 version that this program does not know",
                Turn::Unknown,
                Some("try again, or use the rnetctl of the module's version".to_owned()),
            )
        },
    },
];

fn say(what: &str, turn: Turn, advice: Option<String>) -> (String, Turn, Option<String>) {
    (what.to_owned(), turn, advice)
}

/// What is said about a queue that a fault has stopped.
fn stopped(facts: &Facts) -> (String, Turn, Option<String>) {
    let state = facts.state();
    let name = state
        .and_then(|state| state.fault.as_deref())
        .or(facts.queue().counters.last_fault.as_deref())
        .unwrap_or("unknown");
    let Some(fault) = faults::find(name) else {
        return (
            format!(
                "a fault called {} has stopped the queue, which this program does not know",
                escaped(name)
            ),
            Turn::Unknown,
            Some("see the kernel log".to_owned()),
        );
    };
    let what = format!("the fault {name} has stopped the queue: {}", fault.meaning);
    let advice = match (fault.name, fault.turn) {
        ("unmapped" | "unlogged", _) => {
            "the queue tries again by itself; if this lasts, see whether the file or swap behind \
             the guest's memory has errors or is full"
        }
        (_, Turn::Guest) => {
            "the queue goes on with the guest's next kick, if its ring is sound by then; reset \
             the interface in the guest, and report an error of its driver"
        }
        _ => {
            "the queue goes on when the owner has mended it: see the log of the hypervisor; \
             outside of what it has mapped, the guest's driver may be wrong"
        }
    };
    (what, fault.turn, Some(advice.to_owned()))
}

/// What the first rule that applies says.
#[must_use]
pub fn answer(facts: &Facts) -> Answer {
    let [.., last] = &RULES;
    let rule = RULES
        .iter()
        .find(|rule| (rule.applies)(facts))
        .unwrap_or(last);
    let (what, turn, advice) = (rule.say)(facts);
    Answer {
        rule: rule.name,
        what,
        turn,
        advice,
    }
}
