// SPDX-License-Identifier: GPL-2.0
//! `rnetctl stat`: what queues have moved, and how fast.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::cli::StatArgs;
use crate::device::{self, Device, Direction, Kind};
use crate::exit::Error;
use crate::host::Host;
use crate::output::{self, Table, short};
use crate::prometheus;
use crate::rates::{Sample, is_gauge};
use crate::scan;

/// The counters of the table, with their headings.
const COLUMNS: [(&str, &str); 7] = [
    ("packets", "PACKETS"),
    ("bytes", "BYTES"),
    ("dropped", "DROPPED"),
    ("rounds", "ROUNDS"),
    ("kicks", "KICKS"),
    ("calls", "CALLS"),
    ("faults", "FAULTS"),
];

/// Those whose rates are in the table, with their headings.
const RATES: [(&str, &str); 3] = [
    ("packets", "PACKETS/S"),
    ("bytes", "BYTES/S"),
    ("dropped", "DROPPED/S"),
];

/// Shows totals once, or totals and rates every interval.
///
/// # Errors
///
/// Those of [`scan::scan()`], of choosing devices and of `out`.
pub fn run(host: &Host, args: &StatArgs, out: &mut dyn Write) -> Result<(), Error> {
    let mut earlier: Option<(Sample, Instant)> = None;
    let mut shown = 0_u64;
    loop {
        let scan = scan::scan(host)?;
        let now = Instant::now();
        let devices = chosen(&scan.devices, args.device.as_deref())?;
        let since = earlier
            .as_ref()
            .map(|(sample, at)| (sample, now.duration_since(*at)));
        // With an interval the first look only tells where rates begin.
        if args.interval.is_none() || since.is_some() {
            show(args, &devices, since, out)?;
            out.flush()?;
            shown = shown.wrapping_add(1);
        }
        if earlier.is_none() {
            if scan.devices.is_empty() {
                output::complain(scan.nothing())?;
            } else if devices.is_empty() {
                output::complain("only vhost-net devices are open, which count nothing")?;
            }
            for note in scan.notes() {
                output::complain(&note)?;
            }
        }
        let Some(interval) = args.interval else {
            return Ok(());
        };
        if args.count.is_some_and(|count| shown >= count) {
            return Ok(());
        }
        earlier = Some((Sample::of(&devices), now));
        thread::sleep(interval);
    }
}

/// The devices with counters that `word` means, or all of them.
fn chosen<'a>(devices: &'a [Device], word: Option<&str>) -> Result<Vec<&'a Device>, Error> {
    let counting = |device: &&Device| device.kind == Kind::Rnet;
    let Some(word) = word else {
        return Ok(devices.iter().filter(counting).collect());
    };
    let found = device::select(devices, word)?;
    let first = found.first().map(|device| device.described());
    let found: Vec<_> = found.into_iter().filter(counting).collect();
    if found.is_empty() {
        return Err(Error::Lacking(format!(
            "{} is a vhost-net device, which counts nothing",
            first.unwrap_or_default()
        )));
    }
    Ok(found)
}

/// Writes one look in the form that was asked for.
fn show(
    args: &StatArgs,
    devices: &[&Device],
    since: Option<(&Sample, Duration)>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    if args.prometheus {
        out.write_all(prometheus::render(devices).as_bytes())?;
    } else if args.json {
        let value = as_json(devices, since);
        match since {
            None => output::json(out, &value)?,
            Some(_) => output::json_line(out, &value)?,
        }
    } else if args.all {
        every(devices, since, args.exact).write(out)?;
    } else {
        table(devices, since, args.exact).write(out)?;
    }
    Ok(())
}

/// A number as it was asked for.
fn number(value: u64, exact: bool) -> String {
    if exact {
        value.to_string()
    } else {
        // Precision beyond a few digits is not shown.
        short(value as f64)
    }
}

/// A rate as it was asked for; a dash if there is none.
fn rate(value: Option<f64>, exact: bool) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if exact => format!("{value:.1}"),
        Some(value) => short(value),
    }
}

/// The cells that tell a queue.
fn queue_cells(device: &Device, direction: Direction) -> Vec<String> {
    vec![
        device.id(),
        device.process.known_as().to_owned(),
        device.interface_list(),
        direction.to_string(),
    ]
}

/// The headings of these cells.
const QUEUE: [&str; 4] = ["DEVICE", "NAME", "INTERFACE", "QUEUE"];

/// A row for each queue.
fn table(devices: &[&Device], since: Option<(&Sample, Duration)>, exact: bool) -> Table {
    let mut headings = QUEUE.to_vec();
    headings.extend(COLUMNS.iter().map(|(_, heading)| *heading));
    if since.is_some() {
        headings.extend(RATES.iter().map(|(_, heading)| *heading));
    }
    let numbers: Vec<_> = (QUEUE.len()..headings.len()).collect();
    let mut table = Table::new(&headings).right(&numbers);
    for device in devices {
        for direction in Direction::ALL {
            let counters = &device.queue(direction).counters;
            let mut cells = queue_cells(device, direction);
            cells.extend(COLUMNS.iter().map(|(key, _)| {
                let value = counters.get(key);
                value.map_or_else(|| "-".to_owned(), |value| number(value, exact))
            }));
            if let Some((sample, elapsed)) = since {
                cells.extend(
                    RATES
                        .iter()
                        .map(|(key, _)| rate(sample.rate(device, direction, key, elapsed), exact)),
                );
            }
            table.row(cells);
        }
    }
    table
}

/// A row for each counter that is not zero.
fn every(devices: &[&Device], since: Option<(&Sample, Duration)>, exact: bool) -> Table {
    let mut headings = QUEUE.to_vec();
    headings.extend(["COUNTER", "VALUE"]);
    if since.is_some() {
        headings.push("PER SECOND");
    }
    let mut table = Table::new(&headings).right(&[QUEUE.len() + 1, QUEUE.len() + 2]);
    for device in devices {
        for direction in Direction::ALL {
            for (key, value) in device.queue(direction).counters.iter() {
                if value == 0 {
                    continue;
                }
                let mut cells = queue_cells(device, direction);
                cells.extend([key.to_owned(), number(value, exact)]);
                if let Some((sample, elapsed)) = since {
                    let grown = sample.rate(device, direction, key, elapsed);
                    cells.push(rate(grown.filter(|_| !is_gauge(key)), exact));
                }
                table.row(cells);
            }
        }
    }
    table
}

/// All counters and rates of `devices`.
fn as_json(devices: &[&Device], since: Option<(&Sample, Duration)>) -> Value {
    let queue = |device: &Device, direction: Direction| {
        let counters = &device.queue(direction).counters;
        let totals: Map<_, _> = counters
            .iter()
            .map(|(key, value)| (key.to_owned(), value.into()))
            .collect();
        let mut queue = Map::from_iter([
            ("counters".to_owned(), Value::Object(totals)),
            ("last_fault".to_owned(), json!(counters.last_fault)),
        ]);
        if let Some((sample, elapsed)) = since {
            let rates: Map<_, _> = counters
                .iter()
                .filter(|(key, _)| !is_gauge(key))
                .filter_map(|(key, _)| {
                    let rate = sample.rate(device, direction, key, elapsed)?;
                    Some((key.to_owned(), rate.into()))
                })
                .collect();
            queue.insert("per_second".to_owned(), Value::Object(rates));
        }
        Value::Object(queue)
    };
    let devices: Vec<_> = devices
        .iter()
        .map(|device| {
            json!({
                "device": device.id(),
                "pid": device.process.pid,
                "fd": device.fd,
                "number": device.number,
                "name": device.process.known_as(),
                "interfaces": device.interfaces,
                "rx": queue(device, Direction::Rx),
                "tx": queue(device, Direction::Tx),
            })
        })
        .collect();
    json!({
        "devices": devices,
        "seconds": since.map(|(_, elapsed)| elapsed.as_secs_f64()),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{as_json, every, table};
    use crate::fixture;
    use crate::prometheus;
    use crate::rates::Sample;
    use crate::scan;

    #[test]
    fn totals_and_rates_are_shown() {
        let host = fixture::usual();
        let before = scan::scan(&host.host()).unwrap().devices;
        let sample = Sample::of(&before.iter().collect::<Vec<_>>());
        host.file(4711, 9, "/dev/vhost-rnet", &fixture::fdinfo(3, 4711, 6000));
        let after = scan::scan(&host.host()).unwrap().devices;
        let rnet = super::chosen(&after, None).unwrap();
        let since = Some((&sample, Duration::from_secs(2)));
        insta::assert_snapshot!("totals", table(&rnet, None, false).render());
        insta::assert_snapshot!("rates", table(&rnet, since, false).render());
        insta::assert_snapshot!("exact", table(&rnet, since, true).render());
        insta::assert_snapshot!("all", every(&rnet, since, true).render());
        let json = serde_json::to_string_pretty(&as_json(&rnet, since)).unwrap();
        insta::assert_snapshot!("json", json);
        insta::assert_snapshot!("prometheus", prometheus::render(&rnet));
    }

    #[test]
    fn a_device_without_counters_is_refused() {
        let host = fixture::usual();
        let devices = scan::scan(&host.host()).unwrap().devices;
        let error = super::chosen(&devices, Some("old")).unwrap_err();
        assert_eq!(error.status(), 4);
        assert_eq!(
            error.to_string(),
            "5000:5 (old, tap5) is a vhost-net device, which counts nothing"
        );
    }
}
