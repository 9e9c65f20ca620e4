// SPDX-License-Identifier: GPL-2.0
//! Looking for trouble in what a kernel said.

use std::collections::BTreeMap;

/// What the kernel prints when something is wrong with it, or when one of its
/// checks gave up.
const MARKS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "Oops",
    "Kernel panic",
    "refcount_t:",
    "UBSAN:",
    "ODEBUG:",
    "general protection fault",
    "stack-protector:",
    "blocked for more than",
    "detected stall",
    "self-detected stall",
    "detected expedited stalls",
    "unregister_netdevice: waiting",
    "rust_kernel: panicked",
    "list_add corruption",
    "list_del corruption",
    "list_add double add",
    "ref_tracker:",
    "bad: scheduling from the idle thread",
    "INFO: possible",
    "INFO: suspicious",
    "INFO: trying to register non-static key",
    "suspicious RCU usage",
    "turning off the locking correctness validator",
    "Kernel memory leak detector disabled",
    "nobody cared",
];

/// How a report of a data race begins, and the line that ends it.
const RACE: &str = "BUG: KCSAN:";
const RACE_END: &str = "==================================================================";

/// Races of the kernel proper that are found on a stack of ours.
const KNOWN_RACES: &[&str] = &[
    // eventfd_poll() reads the counter without its lock, and says why that is right.
    "eventfd_poll / eventfd_signal_mask",
];

/// How a function of ours is named in a stack.
const OURS: &str = "[vhost_rnet]";

/// Returns the lines of `log` that tell of a kernel bug.
pub fn scan(log: &str) -> Vec<&str> {
    let lines: Vec<&str> = log.lines().collect();
    (0..)
        .zip(&lines)
        .filter(|(_, line)| MARKS.iter().any(|mark| line.contains(mark)))
        .filter(|(at, _)| !is_foreign_race(&lines[*at..]))
        .map(|(_, line)| *line)
        .collect()
}

/// Tells whether `lines` begin with a data race in which no code of ours was,
/// or one that is known.
///
/// The kernel proper has many that are harmless; to judge them is up to those
/// who wrote it.
fn is_foreign_race(lines: &[&str]) -> bool {
    let Some((first, rest)) = lines.split_first() else {
        return false;
    };
    let known = KNOWN_RACES.iter().any(|race| first.ends_with(race));
    let mut report = rest.iter().take_while(|line| !line.contains(RACE_END));
    first.contains(RACE) && (known || !report.any(|line| line.contains(OURS)))
}

/// Returns the places that allocated what the detector lists as leaked, with
/// how often.
pub fn leaks(list: &str) -> Vec<String> {
    let mut places: BTreeMap<String, u32> = BTreeMap::new();
    for leak in list.split("unreferenced object ").skip(1) {
        let stack: Vec<&str> = leak.lines().filter(|line| is_frame(line)).collect();
        *places.entry(stack.join("\n")).or_default() += 1;
    }
    places
        .into_iter()
        .map(|(stack, count)| format!("kmemleak: {count} objects, allocated by\n{stack}"))
        .collect()
}

/// Tells whether a line of the detector's list is a function of a stack: its
/// name with an offset, or the bare address in a module that went.
fn is_frame(line: &str) -> bool {
    line.strip_prefix("    ")
        .is_some_and(|rest| rest.contains("+0x") || rest.starts_with("0x"))
}

#[cfg(test)]
mod tests {
    use super::{RACE_END, leaks, scan};

    #[test]
    fn ordinary_lines_pass() {
        let log = "[    0.1] Linux version 7.3\n\
                   [    1.0] vhost_rnet: loading out-of-tree module taints kernel.\n\
                   [    1.1] kmemleak: Kernel memory leak detector initialized\n\
                   [    1.2] kasan: KernelAddressSanitizer initialized (generic)\n\
                   [    1.3] Running RCU self tests\n";
        assert!(scan(log).is_empty());
    }

    #[test]
    fn trouble_is_found() {
        for bad in [
            "[ 3.1] WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2",
            "[ 3.1] BUG: kernel NULL pointer dereference, address: 0",
            "[ 3.1] BUG: KASAN: slab-use-after-free in f+0x1/0x2 [vhost_rnet]",
            "[ 3.1] BUG: sleeping function called from invalid context at x.c:1",
            "[ 3.1] BUG: scheduling while atomic: vhost-1/2/0x00000002",
            "[ 3.1] BUG: MAX_LOCKDEP_ENTRIES too low!",
            "[ 3.1] watchdog: BUG: soft lockup - CPU#0 stuck for 134s! [vhost-1:2]",
            "[ 3.1] WARNING: possible circular locking dependency detected",
            "[ 3.1] WARNING: possible recursive locking detected",
            "[ 3.1] WARNING: bad unlock balance detected!",
            "[ 3.1] WARNING: suspicious RCU usage",
            "[ 3.1] INFO: trying to register non-static key.",
            "[ 3.1] turning off the locking correctness validator.",
            "[ 3.1] UBSAN: array-index-out-of-bounds in x.c:1:2",
            "[ 3.1] ODEBUG: free active (active state 0) object: 1 object type: work_struct",
            "[ 3.1] Oops: Oops: 0002 [#1] SMP NOPTI",
            "[ 3.1] refcount_t: underflow; use-after-free.",
            "[ 3.1] ref_tracker: net notrefcnt@1 has 1/1 users at",
            "[ 3.1] list_del corruption. prev->next should be 1, but was 2.",
            "[ 3.1] rcu: INFO: rcu_preempt self-detected stall on CPU",
            "[ 3.1] INFO: task a:1 blocked for more than 30 seconds.",
            "[ 3.1] kmemleak: Kernel memory leak detector disabled",
            "[ 3.1] rust_kernel: panicked at src/tx.rs:1:2:",
        ] {
            let log = format!("[ 1.0] fine\n{bad}\n[ 4.0] fine\n");
            assert_eq!(scan(&log), [bad]);
        }
    }

    #[test]
    fn races_count_if_they_are_ours() {
        let race = |who: &str| {
            format!(
                "[ 2.0] {RACE_END}\n\
                 [ 2.0] BUG: KCSAN: data-race in f / g\n\
                 [ 2.0] write to 0x1 of 8 bytes by task 1 on cpu 0:\n\
                 [ 2.0]  f+0x1/0x2{who}\n\
                 [ 2.0] {RACE_END}\n"
            )
        };
        let log = race("") + &race(" [vhost_rnet]") + &race(" [vhost_net]");
        assert_eq!(scan(&log), ["[ 2.0] BUG: KCSAN: data-race in f / g"]);
        let known = race(" [vhost_rnet]").replace("f / g", "eventfd_poll / eventfd_signal_mask");
        assert!(scan(&known).is_empty());
        // The end of one is not that of another.
        let log = race(" [tun]") + "[ 3.0]  h+0x1/0x2 [vhost_rnet]\n";
        assert!(scan(&log).is_empty());
    }

    #[test]
    fn leaks_are_told_by_place() {
        let leak = |place: &str| {
            format!(
                "unreferenced object 0xffff888012345678 (size 64):\n\
                 \x20 comm \"rnet-selftest\", pid 1, jiffies 2\n\
                 \x20 hex dump (first 32 bytes):\n\
                 \x20   00 00  ..\n\
                 \x20 backtrace (crc 0):\n\
                 \x20   __kmalloc_noprof+0x1/0x2\n\
                 \x20   {place}\n"
            )
        };
        let list = leak("0xffffffffc0000001") + &leak("f+0x1/0x2") + &leak("f+0x1/0x2");
        assert_eq!(
            leaks(&list),
            [
                "kmemleak: 1 objects, allocated by\n    \
                 __kmalloc_noprof+0x1/0x2\n    0xffffffffc0000001",
                "kmemleak: 2 objects, allocated by\n    \
                 __kmalloc_noprof+0x1/0x2\n    f+0x1/0x2",
            ]
        );
        assert!(leaks("").is_empty());
    }
}
