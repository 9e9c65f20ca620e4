// SPDX-License-Identifier: GPL-2.0
//! `rnetctl list`: the open devices of the host.

use std::io::Write;

use serde::Serialize;

use crate::cli::ListArgs;
use crate::device::Device;
use crate::exit::Error;
use crate::host::Host;
use crate::output::{self, Table};
use crate::scan::{self, Scan};

/// Lists what is open.
///
/// # Errors
///
/// Those of [`scan::scan()`] and of `out`.
pub fn run(host: &Host, args: &ListArgs, out: &mut dyn Write) -> Result<(), Error> {
    let scan = scan::scan(host)?;
    if args.json {
        output::json(out, &Listing::of(&scan))?;
    } else {
        table(&scan, args.features).write(out)?;
        if scan.devices.is_empty() {
            output::complain(scan.nothing())?;
        }
    }
    for note in scan.notes() {
        output::complain(&note)?;
    }
    Ok(())
}

/// The table of all devices; with the names of their features if `features` is set.
fn table(scan: &Scan, features: bool) -> Table {
    let mut headings = vec![
        "DEVICE",
        "NUMBER",
        "KIND",
        "NAME",
        "INTERFACE",
        "RX",
        "TX",
        "WORKERS",
        "CPUS",
    ];
    if features {
        headings.push("FEATURES");
    }
    let mut table = Table::new(&headings);
    for device in &scan.devices {
        let mut cells = vec![
            device.id(),
            device.number.map_or_else(dash, |number| number.to_string()),
            device.kind.to_string(),
            device.process.known_as().to_owned(),
            device.interface_list(),
            queue(device.rx.state.as_ref()),
            queue(device.tx.state.as_ref()),
            joined(device.workers.iter().map(|worker| worker.tid.to_string())),
            cpus(device),
        ];
        if features {
            let names = device.features.clone().unwrap_or_default();
            cells.push(joined(names.into_iter()));
        }
        table.row(cells);
    }
    table
}

fn dash() -> String {
    "-".to_owned()
}

/// Words with commas, or a dash.
fn joined(words: impl Iterator<Item = String>) -> String {
    let words: Vec<_> = words.collect();
    if words.is_empty() {
        dash()
    } else {
        words.join(",")
    }
}

/// A queue in one word.
fn queue(state: Option<&crate::debugfs::QueueState>) -> String {
    let Some(state) = state else { return dash() };
    let word = if state.running == Some(true) {
        "running"
    } else if state.stopped == Some(true) {
        "stopped"
    } else if state.started == Some(false) {
        "unstarted"
    } else {
        return state.waits_for.map_or_else(dash, |wait| wait.to_string());
    };
    word.to_owned()
}

/// The processors of all workers, without repeating a list.
fn cpus(device: &Device) -> String {
    let mut lists: Vec<_> = device
        .workers
        .iter()
        .filter_map(|worker| worker.task.cpus.clone())
        .collect();
    lists.dedup();
    if lists.is_empty() {
        dash()
    } else {
        lists.join(" ")
    }
}

/// The listing as JSON.
#[derive(Serialize)]
struct Listing<'a> {
    devices: Vec<Entry<'a>>,
    module_loaded: bool,
    hidden_processes: usize,
}

/// A device as JSON.
#[derive(Serialize)]
struct Entry<'a> {
    device: String,
    pid: i32,
    fd: i32,
    number: Option<u64>,
    owner: Option<i32>,
    kind: String,
    process: &'a str,
    vm: Option<&'a str>,
    interfaces: Vec<&'a str>,
    features: Option<&'a [String]>,
    workers: Vec<Thread<'a>>,
    certain: bool,
    rx: Option<&'a crate::debugfs::QueueState>,
    tx: Option<&'a crate::debugfs::QueueState>,
}

/// A worker as JSON.
#[derive(Serialize)]
struct Thread<'a> {
    tid: i32,
    name: &'a str,
    kernel: bool,
    cpus: Option<&'a str>,
}

impl<'a> Listing<'a> {
    fn of(scan: &'a Scan) -> Self {
        Self {
            devices: scan.devices.iter().map(Entry::of).collect(),
            module_loaded: scan.module,
            hidden_processes: scan.hidden_processes,
        }
    }
}

impl<'a> Entry<'a> {
    fn of(device: &'a Device) -> Self {
        let thread = |worker: &'a crate::host::process::Worker| Thread {
            tid: worker.tid,
            name: &worker.task.name,
            kernel: worker.task.kernel,
            cpus: worker.task.cpus.as_deref(),
        };
        Self {
            device: device.id(),
            pid: device.process.pid,
            fd: device.fd,
            number: device.number,
            owner: device.owner,
            kind: device.kind.to_string(),
            process: &device.process.task.name,
            vm: device.process.vm.as_deref(),
            interfaces: device.interfaces.iter().map(String::as_str).collect(),
            features: device.features.as_deref(),
            workers: device.workers.iter().map(thread).collect(),
            certain: device.certain,
            rx: device.rx.state.as_ref(),
            tx: device.tx.state.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Listing, table};
    use crate::fixture;
    use crate::scan;

    #[test]
    fn devices_are_listed() {
        let host = fixture::usual();
        let scan = scan::scan(&host.host()).unwrap();
        insta::assert_snapshot!("table", table(&scan, false).render());
        insta::assert_snapshot!("features", table(&scan, true).render());
        let mut out = Vec::new();
        crate::output::json(&mut out, &Listing::of(&scan)).unwrap();
        insta::assert_snapshot!("json", String::from_utf8(out).unwrap());
    }
}
