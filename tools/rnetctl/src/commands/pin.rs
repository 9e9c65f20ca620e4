// SPDX-License-Identifier: GPL-2.0
//! `rnetctl pin`: lets workers run on some processors only.

use std::collections::BTreeSet;
use std::io::{self, Write};

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{sched_getaffinity, sched_setaffinity};

use crate::cli::PinArgs;
use crate::commands::chosen;
use crate::cpus::CpuList;
use crate::device::{Device, Direction, Kind};
use crate::exit::Error;
use crate::host::Host;
use crate::output;
use crate::scan;

/// Sets the processors of the workers that `args` means, and says what the kernel made of it.
///
/// # Errors
///
/// Those of [`scan::scan()`], of choosing devices and of `out`; a device without a known worker;
/// what the kernel refuses. Then the workers named before are set, as the output says.
pub fn run(host: &Host, args: &PinArgs, out: &mut dyn Write) -> Result<(), Error> {
    let scan = scan::scan(host)?;
    let mut done = BTreeSet::new();
    for device in chosen(&scan, &args.device)? {
        for tid in tids(device, args.queue)? {
            if !done.insert(tid) {
                continue;
            }
            let cpus = pin(tid, &args.cpus).map_err(|errno| refusal(tid, &args.cpus, errno))?;
            let serves = serves(device, tid);
            writeln!(
                out,
                "{}: worker {tid}{serves} may run on {cpus}",
                device.described()
            )?;
            if cpus != args.cpus {
                output::complain(&format!(
                    "the kernel left out processors of {} for worker {tid}: they are offline, or \
                     not in its cpuset",
                    args.cpus
                ))?;
            }
        }
        if !device.certain {
            output::complain(&format!(
                "the module does not tell which worker serves {}, so all workers of process {} \
                 were set",
                device.described(),
                device.process.pid
            ))?;
        }
    }
    Ok(())
}

/// The workers of a device, or the one of a queue.
fn tids(device: &Device, queue: Option<Direction>) -> Result<Vec<i32>, Error> {
    let Some(direction) = queue else {
        let tids: Vec<_> = device.workers.iter().map(|worker| worker.tid).collect();
        if tids.is_empty() {
            return Err(Error::Lacking(format!(
                "{} has no worker{}",
                device.described(),
                match (device.kind, device.owner) {
                    (Kind::Rnet, None) => ": it has no owner, or the module does not say",
                    _ => " that this user can see",
                }
            )));
        }
        return Ok(tids);
    };
    let state = device.queue(direction).state.as_ref();
    let worker = state.and_then(|state| state.worker);
    worker.map(|tid| vec![tid]).ok_or_else(|| {
        Error::Lacking(format!(
            "which worker serves {direction} of {} is not known: debugfs does not tell",
            device.described()
        ))
    })
}

/// Which queues a worker serves, in brackets.
fn serves(device: &Device, tid: i32) -> String {
    let queues: Vec<_> = Direction::ALL
        .into_iter()
        .filter(|&direction| {
            let state = device.queue(direction).state.as_ref();
            state.and_then(|state| state.worker) == Some(tid)
        })
        .map(|direction| direction.to_string())
        .collect();
    match &*queues {
        [] => String::new(),
        _ => format!(" ({})", queues.join(", ")),
    }
}

/// Sets a thread's processors; returns what the kernel made of them.
fn pin(tid: i32, cpus: &CpuList) -> Result<CpuList, Errno> {
    // The kernel takes no thread for the caller's own.
    let pid = Pid::from_raw(tid).ok_or(Errno::SRCH)?;
    sched_setaffinity(Some(pid), &cpus.set())?;
    CpuList::of(&sched_getaffinity(Some(pid))?).ok_or(Errno::INVAL)
}

/// The sentence for what the kernel said.
fn refusal(tid: i32, cpus: &CpuList, errno: Errno) -> Error {
    match errno {
        Errno::INVAL => Error::Failed(format!(
            "worker {tid} may not run on any of {cpus}: the processors are not there or offline, \
             or its cpuset has none of them"
        )),
        Errno::SRCH => Error::Failed(format!("worker {tid} has ended")),
        _ => Error::system(
            &format!("setting the processors of worker {tid}"),
            &io::Error::from(errno),
        ),
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::{pin, refusal, serves, tids};
    use crate::device::{Direction, select};
    use crate::fixture;
    use crate::scan;

    #[test]
    fn a_thread_is_pinned() {
        std::thread::spawn(|| {
            let me = rustix::thread::gettid();
            let allowed =
                crate::cpus::CpuList::of(&rustix::thread::sched_getaffinity(Some(me)).unwrap());
            let allowed = allowed.unwrap().to_string();
            let first = allowed.split(['-', ',']).next().unwrap();
            let tid = me.as_raw_nonzero().get();
            let set = pin(tid, &first.parse().unwrap()).unwrap();
            assert_eq!(set.to_string(), first);
            let none = "1023".parse().unwrap();
            assert_eq!(pin(tid, &none), Err(Errno::INVAL));
            assert_eq!(refusal(tid, &none, Errno::INVAL).status(), 1);
            assert_eq!(refusal(tid, &none, Errno::PERM).status(), 5);
            assert_eq!(pin(0, &none), Err(Errno::SRCH));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn workers_are_those_of_the_device_or_the_queue() {
        let host = fixture::usual();
        let devices = scan::scan(&host.host()).unwrap().devices;
        let web = select(&devices, "web").unwrap()[0];
        assert_eq!(tids(web, None).unwrap(), [4720]);
        assert_eq!(tids(web, Some(Direction::Rx)).unwrap(), [4720]);
        assert_eq!(serves(web, 4720), " (rx, tx)");
        let old = select(&devices, "old").unwrap()[0];
        assert_eq!(tids(old, None).unwrap(), [5010]);
        assert_eq!(tids(old, Some(Direction::Rx)).unwrap_err().status(), 4);
    }
}
