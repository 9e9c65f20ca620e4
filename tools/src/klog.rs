// SPDX-License-Identifier: GPL-2.0
//! Looking for trouble in a kernel log.

/// What the kernel prints when something is wrong with it.
const MARKS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "Oops",
    "Kernel panic",
    "refcount_t:",
    "UBSAN:",
    "general protection fault",
    "stack-protector:",
    "blocked for more than",
    "detected stall",
    "self-detected stall",
    "detected expedited stalls",
    "unregister_netdevice: waiting",
    "new suspected memory leaks",
    "rust_kernel: panicked",
    "list_add corruption",
    "list_del corruption",
    "bad: scheduling from the idle thread",
    "INFO: possible",
    "INFO: suspicious",
    "suspicious RCU usage",
    "nobody cared",
];

/// Returns the lines of `log` that tell of a kernel bug.
pub fn scan(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| MARKS.iter().any(|mark| line.contains(mark)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::scan;

    #[test]
    fn ordinary_lines_pass() {
        let log = "[    0.1] Linux version 7.3\n\
                   [    1.0] vhost_rnet: loading out-of-tree module taints kernel.\n\
                   [    1.1] kmemleak: Kernel memory leak detector initialized\n";
        assert!(scan(log).is_empty());
    }

    #[test]
    fn trouble_is_found() {
        for bad in [
            "[ 3.1] WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2",
            "[ 3.1] BUG: kernel NULL pointer dereference, address: 0",
            "[ 3.1] Oops: Oops: 0002 [#1] SMP NOPTI",
            "[ 3.1] refcount_t: underflow; use-after-free.",
            "[ 3.1] rcu: INFO: rcu_preempt self-detected stall on CPU",
            "[ 3.1] INFO: task a:1 blocked for more than 30 seconds.",
            "[ 3.1] kmemleak: 3 new suspected memory leaks (see /sys/...)",
        ] {
            let log = format!("[ 1.0] fine\n{bad}\n[ 4.0] fine\n");
            assert_eq!(scan(&log), [bad]);
        }
    }
}
