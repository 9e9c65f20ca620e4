// SPDX-License-Identifier: GPL-2.0
//! `rnetctl explain`: says in words what queues wait for.

use std::io::Write;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::cli::ExplainArgs;
use crate::commands::chosen;
use crate::device::{Device, Direction, Kind};
use crate::exit::Error;
use crate::explain::answer::Turn;
use crate::explain::facts::Facts;
use crate::explain::{self, Explanation};
use crate::host::Host;
use crate::output::{self, BAD, GOOD, HEADING, WARNING};
use crate::rates::Key;
use crate::scan::{self, Scan};

/// After which time a kick that has not come is lost: far longer than a guest takes from making
/// buffers available to its kick, unless its processor is taken away.
const PATIENCE: Duration = Duration::from_millis(300);

/// Explains the queues of the devices that `args` means.
///
/// # Errors
///
/// Those of [`scan::scan()`], of choosing devices and of `out`.
pub fn run(host: &Host, args: &ExplainArgs, out: &mut dyn Write) -> Result<(), Error> {
    let scan = scan::scan(host)?;
    let devices = chosen(&scan, &args.device)?;
    let again = devices
        .iter()
        .any(|device| explain::needs_second_look(device));
    let later = if again {
        thread::sleep(PATIENCE);
        Some(scan::scan(host)?)
    } else {
        None
    };
    let mut all = Vec::new();
    for device in devices {
        let (device, before) = match &later {
            None => (device, None),
            Some(later) => (find(later, device)?, Some(device)),
        };
        all.push((device, explained(host, &scan, device, before)));
    }
    if args.json {
        let values: Vec<_> = all
            .iter()
            .map(|(device, queues)| {
                json!({
                    "device": device.id(),
                    "number": device.number,
                    "name": device.process.known_as(),
                    "interfaces": device.interfaces,
                    "queues": queues,
                })
            })
            .collect();
        output::json(out, &values)?;
    } else {
        for (device, queues) in &all {
            write(out, device, queues)?;
        }
    }
    for note in scan.notes() {
        output::complain(&note)?;
    }
    Ok(())
}

/// A device in a later look.
fn find<'a>(later: &'a Scan, device: &Device) -> Result<&'a Device, Error> {
    let mut devices = later.devices.iter();
    let found = devices.find(|found| Key::of(found) == Key::of(device));
    found.ok_or_else(|| Error::Failed(format!("{} was closed meanwhile", device.described())))
}

/// What is to be said about both queues of `device`, which was `before` at an earlier look.
fn explained(
    host: &Host,
    scan: &Scan,
    device: &Device,
    before: Option<&Device>,
) -> Vec<Explanation> {
    let queue = |direction| {
        let mut facts = Facts::of(host, device, direction, scan.debugfs);
        facts.stands_still =
            before.is_some_and(|before| explain::stands_still(before, device, direction));
        explain::explain(&facts)
    };
    Direction::ALL.map(queue).to_vec()
}

/// Writes the explanation of a device.
fn write(out: &mut dyn Write, device: &Device, queues: &[Explanation]) -> Result<(), Error> {
    let number = device.number.map(|number| format!(", device {number}"));
    writeln!(
        out,
        "{HEADING}{}, {}{}{HEADING:#}",
        device.described(),
        device.kind,
        number.unwrap_or_default()
    )?;
    for queue in queues {
        let style = match (queue.answer.turn, queue.answer.rule) {
            (_, "stopped" | "lost_kick") => BAD,
            (Turn::Operator, _) | (_, "no_buffers" | "retry" | "room") => WARNING,
            (Turn::Unknown, _) => HEADING,
            _ => GOOD,
        };
        let lines = queue.lines(device.kind == Kind::Rnet);
        for (at, line) in lines.iter().enumerate() {
            match at {
                0 => writeln!(out, "  {}: {style}{line}{style:#}", queue.queue)?,
                _ => writeln!(out, "      {line}")?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::cli::ExplainArgs;
    use crate::fixture;

    fn said(host: &fixture::Fixture, json: bool) -> String {
        let mut out = Vec::new();
        let device = "web".to_owned();
        run(&host.host(), &ExplainArgs { device, json }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn both_queues_are_explained() {
        let host = fixture::usual();
        let text = anstream::adapter::strip_str(&said(&host, false)).to_string();
        insta::assert_snapshot!("text", text);
        insta::assert_snapshot!("json", said(&host, true));
    }

    #[test]
    fn a_queue_that_stands_still_with_work_has_lost_a_kick() {
        let host = fixture::usual();
        let state = fixture::resting("kick").replace("available:\tno", "available:\tyes");
        host.queue("4711-3", "tx", &state);
        let text = said(&host, false);
        assert!(text.contains("rnetctl wake 4711:9 tx"), "{text}");
    }
}
