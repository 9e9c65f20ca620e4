// SPDX-License-Identifier: GPL-2.0
//! Processes and threads, by what `/proc` tells of them.

use std::io;

use crate::fields::Fields;
use crate::host::{self, Host};

/// What `status` of a process or thread says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// Its name, as the kernel shows it.
    pub name: String,
    /// The letter of its state, such as `R`, `S`, `T` (stopped) or `Z`.
    pub state: Option<char>,
    /// The processors on which it may run, as a list such as `0-3,5`.
    pub cpus: Option<String>,
    /// Whether it is a thread of the kernel.
    pub kernel: bool,
}

impl Task {
    /// Reads the text of `status`.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let fields = Fields::parse(bytes);
        Self {
            name: fields.get("Name").unwrap_or_default().to_owned(),
            state: fields.get("State").and_then(|state| state.chars().next()),
            cpus: fields.get("Cpus_allowed_list").map(str::to_owned),
            kernel: fields.get("Kthread") == Some("1"),
        }
    }

    /// Whether the task is stopped by a signal or a debugger, or frozen with its control group.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, Some('T' | 't'))
    }
}

/// A process that has a device open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// What its `status` says.
    pub task: Task,
    /// The name of the virtual machine that it runs.
    pub vm: Option<String>,
    /// Whether its control group is frozen.
    pub frozen: bool,
}

impl Process {
    /// Looks at process `pid`.
    ///
    /// # Errors
    ///
    /// Those of reading its `status`. What else cannot be read is left out.
    pub fn read(host: &Host, pid: i32) -> io::Result<Self> {
        let read = |file: &str| std::fs::read(host.proc(format!("{pid}/{file}")));
        Ok(Self {
            pid,
            task: Task::parse(&read("status")?),
            vm: read("cmdline").ok().and_then(|line| vm_name(&line)),
            frozen: read("cgroup").is_ok_and(|cgroup| is_frozen(host, &cgroup)),
        })
    }

    /// The name by which people know it: that of the virtual machine, or the process's own.
    #[must_use]
    pub fn known_as(&self) -> &str {
        self.vm.as_deref().unwrap_or(&self.task.name)
    }
}

/// Whether the control group of version 2 in a process's `cgroup` is frozen.
fn is_frozen(host: &Host, cgroup: &[u8]) -> bool {
    let text = String::from_utf8_lossy(cgroup);
    let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return false;
    };
    // `..` stands for a group outside the reader's namespace.
    if path.split('/').any(|part| part == "..") {
        return false;
    }
    let events = host.sys("fs/cgroup").join(path).join("cgroup.events");
    let events = std::fs::read_to_string(events).unwrap_or_default();
    events.lines().any(|line| line == "frozen 1")
}

/// A thread that moves packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its id.
    pub tid: i32,
    /// What its `status` says.
    pub task: Task,
}

/// The threads of process `pid` that are vhost workers: those named `vhost-` and a number.
///
/// # Errors
///
/// Those of reading the process's threads, except for threads that end meanwhile.
pub fn workers(host: &Host, pid: i32) -> io::Result<Vec<Worker>> {
    let mut workers = Vec::new();
    for tid in host::numbers(&host.proc(format!("{pid}/task")))? {
        let read = |file: &str| std::fs::read(host.proc(format!("{pid}/task/{tid}/{file}")));
        // A process has many threads: most need no more than a look at the name.
        if !read("comm").is_ok_and(|name| served(&name).is_some()) {
            continue;
        }
        if let Ok(status) = read("status") {
            let task = Task::parse(&status);
            workers.push(Worker { tid, task });
        }
    }
    Ok(workers)
}

/// The thread whose device a vhost worker called `name` serves.
#[must_use]
pub fn served(name: &[u8]) -> Option<i32> {
    let name = std::str::from_utf8(name).ok()?.trim_end();
    name.strip_prefix("vhost-")?.parse().ok()
}

/// The open files of process `pid`: descriptors, and what they are as the kernel names it.
///
/// # Errors
///
/// Those of reading the folder of descriptors: often that the user may not.
pub fn files(host: &Host, pid: i32) -> io::Result<Vec<(i32, String)>> {
    let folder = host.proc(format!("{pid}/fd"));
    let mut files = Vec::new();
    for fd in host::numbers(&folder)? {
        if let Ok(target) = std::fs::read_link(folder.join(fd.to_string())) {
            files.push((fd, target.to_string_lossy().into_owned()));
        }
    }
    Ok(files)
}

/// The name of the virtual machine that a process with the arguments `cmdline` runs.
///
/// QEMU's is in `-name NAME` or `-name guest=NAME,...`, with commas doubled; that of crosvm and of
/// Firecracker's kind in `--name NAME`, `--name=NAME` or `--id NAME`.
#[must_use]
pub fn vm_name(cmdline: &[u8]) -> Option<String> {
    let words: Vec<_> = cmdline
        .split(|&byte| byte == 0)
        .map(String::from_utf8_lossy)
        .collect();
    let program = words.first()?.rsplit('/').next().unwrap_or_default();
    let values = |option: &str| {
        words.iter().enumerate().find_map(|(at, word)| {
            if word == option {
                return words.get(at.checked_add(1)?).map(|word| word.to_string());
            }
            let rest = word.strip_prefix(option)?.strip_prefix('=')?;
            Some(rest.to_owned())
        })
    };
    let name = if program.contains("crosvm") {
        values("--name")?
    } else {
        let value = values("-name").or_else(|| values("--name"))?;
        let parts = comma_parts(&value);
        parts
            .iter()
            .find_map(|part| part.strip_prefix("guest=").map(str::to_owned))
            .or_else(|| parts.first().filter(|part| !part.contains('=')).cloned())?
    };
    (!name.is_empty()).then_some(name)
}

/// The parts of a value of QEMU's between single commas; two commas stand for one.
#[must_use]
pub fn comma_parts(value: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = value.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Task, served, vm_name};

    #[test]
    fn names_of_virtual_machines_are_found() {
        let rows: [(&[&str], Option<&str>); 9] = [
            (
                &[
                    "/usr/bin/qemu-system-x86_64",
                    "-name",
                    "guest=web,debug-threads=on",
                ],
                Some("web"),
            ),
            (&["qemu", "-name", "plain"], Some("plain")),
            (&["qemu", "--name", "plain,process=x"], Some("plain")),
            (&["qemu", "-name", "guest=a,,b"], Some("a,b")),
            (&["qemu", "-name", "process=x"], None),
            (&["qemu", "-name"], None),
            (
                &["/opt/crosvm", "run", "--name", "guest=c"],
                Some("guest=c"),
            ),
            (&["crosvm", "run", "--name=c"], Some("c")),
            (&["rnet-selftest"], None),
        ];
        for (words, name) in rows {
            assert_eq!(vm_name(words.join("\0").as_bytes()).as_deref(), name);
        }
    }

    #[test]
    fn status_is_read() {
        let task = Task::parse(
            b"Name:\tqemu\nState:\tT (stopped)\nKthread:\t0\nCpus_allowed_list:\t0-1\n",
        );
        assert!(task.is_stopped() && !task.kernel);
        assert_eq!(task.cpus.as_deref(), Some("0-1"));
    }

    #[test]
    fn workers_are_named_after_their_owner() {
        assert_eq!(served(b"vhost-12\n"), Some(12));
        assert_eq!(served(b"vhost-x\n"), None);
        assert_eq!(served(b"qemu\n"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>) {
            let _ = (vm_name(&bytes), Task::parse(&bytes), served(&bytes));
            let _ = vm_name(&[b"qemu\0-name\0", &bytes[..]].concat());
        }
    }
}
