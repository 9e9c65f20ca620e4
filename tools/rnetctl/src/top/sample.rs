// SPDX-License-Identifier: GPL-2.0
//! What all queues have counted at one moment.

use std::time::Duration;

use crate::debugfs::QueueState;
use crate::device::{Device, Direction, Kind};
use crate::exit::Error;
use crate::fdinfo::Counters;
use crate::host::Host;
use crate::scan;

/// A queue, for as long as its device is open.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key {
    /// The process that has the device open.
    pub pid: i32,
    /// The descriptor in that process.
    pub fd: i32,
    /// The module's number of the open device, which tells a new one with the same descriptor.
    pub number: Option<u64>,
    /// Which of its queues.
    pub direction: Direction,
}

impl Key {
    /// The device, as the command line names it.
    pub fn device(&self) -> String {
        format!("{}:{}", self.pid, self.fd)
    }
}

/// A queue at one moment. Its words are as others chose them: to be escaped where they are shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueSample {
    /// Which queue.
    pub key: Key,
    /// The name of the virtual machine, or of the process.
    pub name: String,
    /// The interface that packets go to or come from.
    pub interface: String,
    /// Ticks of processor time that the queue's worker has used, if it is known which thread that is.
    pub ticks: Option<u64>,
    /// The counters.
    pub counters: Counters,
    /// The state, if debugfs shows it.
    pub state: Option<QueueState>,
}

/// All queues of the host at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sample {
    /// When, since some moment before all samples.
    pub at: Duration,
    /// The queues of vhost-rnet.
    pub queues: Vec<QueueSample>,
    /// What could not be looked at.
    pub notes: Vec<String>,
}

/// Looks at all queues; `at` is the time.
///
/// # Errors
///
/// Those of [`scan::scan()`].
pub fn take(host: &Host, at: Duration) -> Result<Sample, Error> {
    let scan = scan::scan(host)?;
    let mut notes = scan.notes();
    let nets = scan
        .devices
        .iter()
        .filter(|it| it.kind == Kind::Net)
        .count();
    if nets > 0 {
        notes.push(format!(
            "devices of vhost-net, which counts nothing: {nets}"
        ));
    }
    if scan.devices.is_empty() {
        notes.push(scan.nothing().to_owned());
    }
    let rnets = scan.devices.iter().filter(|it| it.kind == Kind::Rnet);
    let queues =
        rnets.flat_map(|device| Direction::ALL.map(|direction| queue(host, device, direction)));
    Ok(Sample {
        at,
        queues: queues.collect(),
        notes,
    })
}

fn queue(host: &Host, device: &Device, direction: Direction) -> QueueSample {
    let queue = device.queue(direction);
    let of_device: Vec<&str> = device.interfaces.iter().map(String::as_str).collect();
    let of_queue = queue.state.as_ref().and_then(|it| it.interface.as_deref());
    let interface = of_queue.map_or_else(|| of_device.join(","), str::to_owned);
    QueueSample {
        key: Key {
            pid: device.process.pid,
            fd: device.fd,
            number: device.number,
            direction,
        },
        name: device.process.known_as().to_owned(),
        interface,
        ticks: worker(device, direction).and_then(|tid| ticks(host, tid)),
        counters: queue.counters.clone(),
        state: queue.state.clone(),
    }
}

/// The thread that serves a queue: the one that the module names, or the only one that there is.
fn worker(device: &Device, direction: Direction) -> Option<i32> {
    let state = device.queue(direction).state.as_ref();
    state.and_then(|state| state.worker).or_else(|| {
        let [only] = device.workers.as_slice() else {
            return None;
        };
        Some(only.tid)
    })
}

/// Ticks of processor time that a thread has used.
fn ticks(host: &Host, tid: i32) -> Option<u64> {
    parse_ticks(&std::fs::read(host.proc(format!("{tid}/stat"))).ok()?)
}

/// The sum of `utime` and `stime` in the file `stat`.
fn parse_ticks(stat: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(stat);
    // The name is in brackets, and may contain any character.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    user.checked_add(fields.next()?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::{parse_ticks, take};
    use crate::host::Host;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = b"9 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 17 0 0 20 0";
        assert_eq!(parse_ticks(stat), Some(267));
        for odd in [
            &b""[..],
            b"9 (vhost-1)",
            b"9 (v) S 1 2 3 4 5 6 7 8 9 10 x 1",
            b"\xff)",
        ] {
            assert_eq!(parse_ticks(odd), None);
        }
    }

    #[test]
    fn a_host_is_sampled() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
            std::fs::write(path, content).unwrap();
        };
        write("proc/10/status", "Name:\tqemu\u{7f}\n");
        write(
            "proc/10/fdinfo/3",
            "device:\t1\nrx:\tpackets 5\ntx:\tpackets 7\n",
        );
        write("proc/10/fdinfo/4", "");
        write("proc/10/task/12/comm", "vhost-10\n");
        write("proc/10/task/12/status", "Name:\tvhost-10\n");
        write("proc/12/stat", "12 (vhost-10) S 1 2 3 4 5 6 7 8 9 10 2 3");
        std::fs::create_dir_all(dir.path().join("proc/10/fd")).unwrap();
        for (fd, target) in [("3", "/dev/vhost-rnet"), ("4", "/dev/vhost-net")] {
            let link = dir.path().join("proc/10/fd").join(fd);
            std::os::unix::fs::symlink(target, link).unwrap();
        }
        let sample = take(&Host::new(dir.path()), Duration::from_secs(1)).unwrap();
        let [rx, tx] = sample.queues.as_slice() else {
            panic!("{sample:?}");
        };
        assert_eq!(rx.key.device(), "10:3");
        assert_eq!(
            (rx.counters.get("packets"), tx.counters.get("packets")),
            (Some(5), Some(7))
        );
        assert_eq!((rx.ticks, rx.name.as_str()), (Some(5), "qemu\u{7f}"));
        assert!(sample.notes.iter().any(|note| note.ends_with("nothing: 1")));
    }
}
