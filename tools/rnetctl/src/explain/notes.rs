// SPDX-License-Identifier: GPL-2.0
//! What else is worth knowing about a queue, whatever it waits for.

use super::facts::Facts;

/// Counters that tell of something an operator may mend: what is counted, and what to do
/// about it.
const COUNTERS: [(&str, &str, &str); 9] = [
    (
        "dropped_refused",
        "packets that the interface, a filter or a device behind it refused",
        "see whether the interface is up, and which filters it has (tc -s filter show dev ...)",
    ),
    (
        "dropped_too_long",
        "packets longer than the guest's buffers",
        "compare the MTU and the offloads of the interface with those of the guest",
    ),
    (
        "dropped_header",
        "packets with a wrong virtio-net header",
        "the guest's driver is wrong",
    ),
    (
        "dropped_no_memory",
        "packets dropped because the interface had no memory",
        "see whether the host is short of memory",
    ),
    (
        "dropped_unmapped",
        "packets lost because the guest's buffers could not be written",
        "see whether the file or swap behind the guest's memory has errors or is full",
    ),
    (
        "ended_no_room",
        "rounds that ended because the interface had no room",
        "many of them mean that the network behind it is slower than the guest",
    ),
    (
        "ended_retry",
        "rounds that ended because something failed that is tried again",
        "see whether the host is short of memory",
    ),
    (
        "watchdog",
        "times that the watchdog had to start the queue",
        "kicks get lost: look for an error of the guest's driver or of the hypervisor's ioeventfd",
    ),
    (
        "faults",
        "faults so far",
        "the kernel log has them, and rnetctl stat --all their kinds",
    ),
];

/// The notes about a queue, each a sentence.
#[must_use]
pub fn notes(facts: &Facts) -> Vec<String> {
    let mut notes = Vec::new();
    if facts.is_net() {
        return notes;
    }
    for (key, what, advice) in COUNTERS {
        let count = facts.count(key);
        if count != 0 {
            notes.push(format!("{what}: {count}; {advice}"));
        }
    }
    if let Some(state) = facts.state() {
        if state.log == Some(true) {
            notes.push("writes are logged: the guest is being migrated".to_owned());
        }
        let missing = state.missing();
        if !missing.is_empty() && state.running != Some(true) && state.started == Some(true) {
            notes.push(format!("the module does not tell: {}", missing.join(", ")));
        }
    }
    if facts.link.is_none() && facts.interface.is_some() {
        notes.push(format!(
            "{} is not in this network namespace, so whether it is up is not known",
            facts.interface_name()
        ));
    }
    notes
}
