// SPDX-License-Identifier: GPL-2.0
//! Finding reports of bugs in a kernel's log.

use std::collections::BTreeMap;

use rnet_e2e::emulation::OURS;
use selftests::host::kmsg::Begun;

/// What the kernel prints when something is wrong with it, or when one of its
/// checks gave up.
const MARKS: &[&str] = &[
    "WARNING:",
    "BUG:",
    // SLUB begins its reports like this, with the name of a cache. The bracket that ends the
    // timestamp keeps "DEBUG kernel" from matching.
    "] BUG ",
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

/// The beginning of a report of a data race, and the line that ends it.
const RACE: &str = "BUG: KCSAN:";
const RACE_END: &str = "==================================================================";

/// What the line before the stack of one of its accesses has.
const RACE_ACCESS: &str = " to 0x";

/// Functions that access memory on behalf of their callers, without leading underscores; functions of
/// the kernel's Rust code count as such, too.
const FOR_OTHERS: &[&str] = &[
    "memcpy",
    "memmove",
    "memset",
    "memcmp",
    "copy_to_user",
    "copy_from_user",
    "copy_to_iter",
    "copy_from_iter",
];

/// A line that tells of a kernel bug.
#[derive(Debug, PartialEq, Eq)]
pub struct Trouble<'a> {
    /// The line.
    pub line: &'a str,
    /// The test case or fuzzing episode that had begun last.
    pub begun: Option<Begun>,
}

/// Returns the lines of `log` that tell of a kernel bug.
pub fn scan(log: &str) -> Vec<Trouble<'_>> {
    let lines: Vec<&str> = log.lines().collect();
    let mut begun = None;
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if let Some(next) = Begun::parse(line) {
            begun = Some(next);
        } else if MARKS.iter().any(|mark| line.contains(mark)) && !is_foreign_race(&lines[at..]) {
            found.push(Trouble {
                line,
                begun: begun.clone(),
            });
        }
    }
    found
}

/// Returns the lines of `log` that tell of a kernel bug, each group below what had begun, as `told`.
pub fn report(log: &str, told: impl Fn(&Begun) -> String) -> Vec<String> {
    let mut lines = Vec::new();
    let mut last = None;
    for trouble in scan(log) {
        if trouble.begun != last {
            let told = trouble.begun.as_ref().map(&told);
            lines.extend(told.map(|told| format!("after {told}:")));
            last = trouble.begun;
        }
        lines.push(trouble.line.to_owned());
    }
    lines
}

/// Returns what began last in `log`.
pub fn last_begun(log: &str) -> Option<Begun> {
    log.lines().rev().find_map(Begun::parse)
}

/// Returns whether `lines` begin with a data race in which no access was ours.
///
/// The rest of the kernel has many harmless data races, some of them in
/// functions that we call, or in interrupts that arrive meanwhile. They are not
/// failures of our tests.
fn is_foreign_race(lines: &[&str]) -> bool {
    let Some((first, rest)) = lines.split_first() else {
        return false;
    };
    first.contains(RACE) && !accesses(rest).iter().any(|line| line.contains(OURS))
}

/// Returns, from the stacks of a race, the lines of the functions on whose behalf memory was accessed.
fn accesses<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut wanted = false;
    for line in lines.iter().take_while(|line| !line.contains(RACE_END)) {
        if line.contains(RACE_ACCESS) {
            wanted = true;
        } else if wanted && line.contains("+0x") && !is_for_others(line) {
            found.push(*line);
            wanted = false;
        }
    }
    found
}

/// Tells whether the function in a line of a stack accesses memory for others.
fn is_for_others(line: &str) -> bool {
    let text = line.split_once("] ").map_or(line, |(_, text)| text).trim();
    let name = text.split('+').next().unwrap_or(text);
    let rust = name.starts_with("_R") || name.starts_with("rust_helper_");
    (rust && !line.contains(OURS)) || FOR_OTHERS.contains(&name.trim_start_matches('_'))
}

/// Returns the places that allocated memory that kmemleak lists as leaked, each
/// with a count.
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

/// Returns whether a line of kmemleak's list is a function of a stack: a name
/// with an offset, or a bare address in a module that was unloaded.
fn is_frame(line: &str) -> bool {
    line.strip_prefix("    ")
        .is_some_and(|rest| rest.contains("+0x") || rest.starts_with("0x"))
}

#[cfg(test)]
mod tests {
    use selftests::host::kmsg::Begun;

    use super::{RACE_END, last_begun, leaks, report, scan};

    #[test]
    fn ordinary_lines_pass() {
        let log = "[    0.1] Linux version 7.3\n\
                   [    1.0] vhost_rnet: loading out-of-tree module taints kernel.\n\
                   [    1.1] kmemleak: Kernel memory leak detector initialized\n\
                   [    1.2] kasan: KernelAddressSanitizer initialized (generic)\n\
                   [    1.3] Running RCU self tests\n\
                   [    1.4] ** This means that this is a DEBUG kernel and it is **\n";
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
            "[ 3.1] BUG kmalloc-64 (Not tainted): Poison overwritten",
            "[ 3.1] BUG f_cache (Tainted: G    B      O      ): Objects remaining on \
             __kmem_cache_shutdown()",
            "[ 3.1] BUG f_cache (Not tainted): Objects remaining in f_cache on \
             __kmem_cache_shutdown()",
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
            let found: Vec<&str> = scan(&log).iter().map(|trouble| trouble.line).collect();
            assert_eq!(found, [bad]);
        }
    }

    #[test]
    fn trouble_is_told_with_what_had_begun() {
        let log = "[ 1.0] WARNING: at boot\r\n\
                   [ 2.0] rnet-selftest: rx.integrity\r\n\
                   [ 2.1] BUG: KASAN: slab-use-after-free in f+0x1/0x2 [vhost_rnet]\r\n\
                   [ 2.2] rnet-fuzz: guest seed 7\r\n\
                   [ 2.3] rnet-fuzz: ioctls seed 8\r\n\
                   [ 2.4] rnet-fuzz: page allocation failure: order:0\r\n\
                   [ 2.5] WARNING: at f+0x1/0x2\r\n\
                   [ 2.6] Oops: Oops: 0002 [#1] SMP\r\n\
                   [ 2.7] rnet-fuzz: ioctls seed 9\r\n";
        let episode = |seed| {
            Some(Begun::Episode {
                fuzzer: "ioctls".to_owned(),
                seed,
            })
        };
        let found: Vec<_> = scan(log).into_iter().map(|trouble| trouble.begun).collect();
        let case = Some(Begun::Case("rx.integrity".to_owned()));
        assert_eq!(found, [None, case, episode(8), episode(8)]);
        assert_eq!(
            report(log, |begun| format!("{begun} (again)")),
            [
                "[ 1.0] WARNING: at boot",
                "after rnet-selftest: rx.integrity (again):",
                "[ 2.1] BUG: KASAN: slab-use-after-free in f+0x1/0x2 [vhost_rnet]",
                "after rnet-fuzz: ioctls seed 8 (again):",
                "[ 2.5] WARNING: at f+0x1/0x2",
                "[ 2.6] Oops: Oops: 0002 [#1] SMP",
            ]
        );
        assert_eq!(last_begun(log), episode(9));
        assert_eq!(last_begun("[ 1.0] fine\n"), None);
    }

    #[test]
    fn races_count_if_an_access_is_ours() {
        let race = |first: &str, second: &str| {
            format!(
                "[ 2.0] {RACE_END}\n\
                 [ 2.0] BUG: KCSAN: data-race in f / g\n\
                 [ 2.0]\n\
                 [ 2.0] write to 0xffff888101d2dd38 of 8 bytes by task 1 on cpu 0:\n\
                 {first}\
                 [ 2.0]\n\
                 [ 2.0] read (marked) to 0xffff888101d2dd38 of 8 bytes by interrupt on cpu 1:\n\
                 {second}\
                 [ 2.0]\n\
                 [ 2.0] Reported by Kernel Concurrency Sanitizer on:\n\
                 [ 2.0] {RACE_END}\n"
            )
        };
        let ours = "[ 2.0]  _RNv10vhost_rnet+0x1/0x2 [vhost_rnet]\n";
        let theirs = "[ 2.0]  f+0x1/0x2\n";
        let c = "[ 2.0]  handle_tx+0x1/0x2 [vhost_net]\n";
        let found = |log: &str| scan(log).len();
        assert_eq!(found(&race(theirs, c)), 0);
        assert_eq!(found(&race(ours, theirs)), 1);
        assert_eq!(found(&race(theirs, ours)), 1);
        // What we call is theirs, but for what accesses memory on our behalf.
        assert_eq!(found(&race(&format!("{theirs}{ours}"), theirs)), 0);
        for access in [
            "__memcpy",
            "_RNv6kernel",
            "rust_helper_copy",
            "_copy_to_iter",
        ] {
            let access = format!("[ 2.0]  {access}+0x1/0x2\n{ours}");
            assert_eq!(found(&race(theirs, &access)), 1);
        }
        // Each race is judged by itself.
        assert_eq!(found(&(race(theirs, theirs) + &race(ours, ours))), 1);
        assert_eq!(found(&(race(theirs, theirs) + ours)), 0);
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
