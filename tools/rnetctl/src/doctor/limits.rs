// SPDX-License-Identifier: GPL-2.0
//! Limits that a guest may meet: threads, locked memory, regions of memory.

use super::files::Files;
use super::finding::Finding;
use super::guest::Guest;
use crate::fields::Fields;

/// The number of regions that QEMU takes for the limit while the module vhost is not loaded.
const REGIONS: u64 = 64;

/// Looks at the limits of a guest.
pub fn check(files: &Files, guest: &Guest) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(check_threads(files, guest));
    if guest.has_vfio {
        findings.extend(check_memory(files, guest));
    }
    findings.extend(check_regions(files, guest));
    let subject = guest.subject();
    let about = |finding: Finding| finding.about(&subject);
    findings.into_iter().map(about).collect()
}

/// The soft limit called `name` of a process; `None` if there is none, or it is not known.
fn limit(files: &Files, pid: u32, name: &str) -> Option<u64> {
    let limits = files.read(&format!("proc/{pid}/limits"))?;
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What the kernel tells of a process.
fn status(files: &Files, pid: &str) -> Option<Fields> {
    let text = files.read(&format!("proc/{pid}/status"))?;
    Some(Fields::parse(text.as_bytes()))
}

/// The real user of a process.
fn user(status: &Fields) -> Option<u32> {
    let users = status.get("Uid")?;
    users.split_whitespace().next()?.parse().ok()
}

/// The number of threads that a user's processes have.
fn threads(files: &Files, uid: u32) -> u64 {
    let pids = files.names("proc").unwrap_or_default();
    pids.iter()
        .filter(|name| name.bytes().all(|letter| letter.is_ascii_digit()))
        .filter_map(|pid| {
            let status = status(files, pid)?;
            (user(&status) == Some(uid)).then_some(())?;
            status.parsed::<u64>("Threads")
        })
        .fold(0, u64::saturating_add)
}

/// Worker threads are the owner's, and count among the threads of its user.
fn check_threads(files: &Files, guest: &Guest) -> Option<Finding> {
    let check = "limit-threads";
    let status = status(files, &guest.pid.to_string())?;
    let uid = user(&status)?;
    // The kernel does not hold root to it.
    let most = limit(files, guest.pid, "Max processes").filter(|_| uid != 0);
    let Some(most) = most else {
        return Some(Finding::ok(
            check,
            "The number of its threads is not limited.",
        ));
    };
    let used = threads(files, uid);
    let left = most.saturating_sub(used);
    let sentence = format!("The user {uid} has {used} threads of at most {most}.");
    let command = format!("prlimit --pid {} --nproc=unlimited", guest.pid);
    Some(if left == 0 {
        Finding::problem(check, format!("{sentence} No worker thread can be made."))
            .mended_by(command)
    } else if left < most / 10 {
        Finding::advice(check, sentence).mended_by(command)
    } else {
        Finding::ok(check, sentence)
    })
}

/// The memory of a guest that has a host device is locked.
fn check_memory(files: &Files, guest: &Guest) -> Option<Finding> {
    let check = "limit-locked-memory";
    let Some(most) = limit(files, guest.pid, "Max locked memory") else {
        return Some(Finding::ok(
            check,
            "The memory that it may lock is not limited.",
        ));
    };
    let memory = guest.qemu.as_ref()?.memory?;
    let mib = |bytes: u64| bytes >> 20;
    let sentence = format!(
        "The guest has {} MiB of memory and a host device, and may lock {} MiB.",
        mib(memory),
        mib(most)
    );
    Some(if most < memory {
        Finding::problem(check, sentence)
            .mended_by(format!("prlimit --pid {} --memlock=unlimited", guest.pid))
    } else {
        Finding::ok(check, sentence)
    })
}

/// Memory is plugged in as regions of their own, for which QEMU asks the module vhost for the limit.
fn check_regions(files: &Files, guest: &Guest) -> Option<Finding> {
    let check = "limit-regions";
    let slots = guest.qemu.as_ref()?.slots;
    if slots == 0 || guest.devices.is_empty() {
        return None;
    }
    let most = files
        .line("sys/module/vhost/parameters/max_mem_regions")
        .and_then(|line| line.parse().ok())
        .unwrap_or(REGIONS);
    let sentence = format!(
        "The guest has {slots} slots for memory, and QEMU counts on at most {most} regions."
    );
    // The memory that it starts with is a region, too.
    Some(if slots >= most {
        Finding::advice(check, sentence).mended_by(
            "echo options vhost max_mem_regions=1024 > /etc/modprobe.d/vhost-regions.conf",
        )
    } else {
        Finding::ok(check, sentence)
    })
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::Fixture;
    use super::super::finding::Verdict;
    use super::super::guest::find;
    use super::super::guest::tests::{INFO, open, process};
    use super::check;

    /// A host with one guest, of user 64055, that was started with `options`.
    fn guest(options: &str) -> Fixture {
        let fixture = process(Fixture::new(), 10, &format!("qemu-system-x86_64 {options}"));
        open(fixture, 10, 3, "/dev/vhost-rnet", INFO)
            .file("proc/10/status", "Uid:\t64055\t64055\nThreads:\t6\n")
            .file("proc/11/status", "Uid:\t64055\t0\nThreads:\t4\n")
            .file("proc/12/status", "Uid:\t0\t0\nThreads:\t100\n")
            .file("proc/13/status", "Uid:\todd\n")
    }

    fn limited(fixture: Fixture, name: &str, limit: &str) -> Fixture {
        let header = "Limit                     Soft Limit           Hard Limit           Units";
        fixture.file(
            "proc/10/limits",
            format!("{header}\n{name:25} {limit:20} unlimited            x\n"),
        )
    }

    fn of(fixture: &Fixture, name: &str) -> Option<Verdict> {
        let files = fixture.files();
        let found = check(&files, &find(&files).guests[0]);
        Some(found.into_iter().find(|it| it.check == name)?.verdict)
    }

    #[test]
    fn threads_of_the_user_are_counted() {
        for (limit, verdict) in [
            ("unlimited", Verdict::Ok),
            ("100", Verdict::Ok),
            ("11", Verdict::Ok),
            ("10", Verdict::Problem),
            ("5", Verdict::Problem),
            ("odd", Verdict::Ok),
        ] {
            let fixture = limited(guest(""), "Max processes", limit);
            assert_eq!(of(&fixture, "limit-threads"), Some(verdict), "{limit}");
        }
        let many = guest("").file("proc/14/status", "Uid:\t64055\nThreads:\t85\n");
        let fixture = limited(many, "Max processes", "100");
        assert_eq!(of(&fixture, "limit-threads"), Some(Verdict::Advice));
        let root = limited(guest(""), "Max processes", "5").file("proc/10/status", "Uid:\t0\t0\n");
        assert_eq!(of(&root, "limit-threads"), Some(Verdict::Ok));
    }

    #[test]
    fn locked_memory_counts_with_a_host_device() {
        let with = |limit: &str| limited(guest("-m 2G"), "Max locked memory", limit);
        assert_eq!(of(&with("65536"), "limit-locked-memory"), None);
        for (limit, verdict) in [
            ("65536", Verdict::Problem),
            ("2147483648", Verdict::Ok),
            ("unlimited", Verdict::Ok),
        ] {
            let fixture = open(with(limit), 10, 4, "/dev/vfio/vfio", "");
            assert_eq!(
                of(&fixture, "limit-locked-memory"),
                Some(verdict),
                "{limit}"
            );
        }
    }

    #[test]
    fn slots_are_compared_with_the_limit_of_regions() {
        let parameter = "sys/module/vhost/parameters/max_mem_regions";
        let with = |slots: u32| guest(&format!("-m 2G,slots={slots},maxmem=1T"));
        assert_eq!(of(&guest("-m 2G"), "limit-regions"), None);
        assert_eq!(of(&with(63), "limit-regions"), Some(Verdict::Ok));
        assert_eq!(of(&with(64), "limit-regions"), Some(Verdict::Advice));
        let raised = with(64).file(parameter, "1024\n");
        assert_eq!(of(&raised, "limit-regions"), Some(Verdict::Ok));
        let odd = with(64).file(parameter, "odd\n");
        assert_eq!(of(&odd, "limit-regions"), Some(Verdict::Advice));
    }
}
