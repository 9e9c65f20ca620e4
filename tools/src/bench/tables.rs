// SPDX-License-Identifier: GPL-2.0
//! The tables of the benchmarks.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use rnet_e2e::Report as Guest;
use selftests::bench::record::{Floor, Record};
use selftests::bench::stats;

use super::pairs::{Better, Pair};
use super::ratios::{Figures, Rows};
use super::targets::Verdict;
use crate::vm::device::RNET;

/// Formats a value with `digits` decimal places; "-" for none.
fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

/// A table with numbers to the right of the first column.
fn table(header: &[&str], rows: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Instructions of both devices by case, with the ratio of [`Rows::ratio`], and the cost of the tap alone for the
/// cases in `floors`.
pub fn instructions_table(rows: &Rows, floors: &[&Floor]) -> Table {
    let body = rows.0.iter().map(|row| {
        let instructions = |f: Option<Figures>| number(f.map(|f| f.instructions), 0);
        let rates = |f: Option<Figures>, what: fn(Figures) -> f64| number(f.map(what), 4);
        let floor = floors.iter().find(|floor| floor.case == row.case);
        let spread = [row.ours, row.theirs]
            .iter()
            .flatten()
            .filter_map(|figures| figures.spread)
            .reduce(f64::max);
        let name = match row.note.as_str() {
            "" => row.case.clone(),
            note => format!("{} ({note})", row.case),
        };
        let mut cells = vec![
            name,
            instructions(row.ours),
            instructions(row.theirs),
            number(rows.ratio(row), 3),
            rates(row.ours, |f| f.kicks),
            rates(row.theirs, |f| f.kicks),
            rates(row.ours, |f| f.calls),
            rates(row.theirs, |f| f.calls),
            spread.map_or("-".to_owned(), |spread| format!("{:.2} %", spread * 100.0)),
        ];
        if !floors.is_empty() {
            cells.push(number(floor.map(|floor| floor.per_packet), 0));
        }
        cells
    });
    let mut header = vec![
        "instructions per packet",
        "rnet",
        "C",
        "ratio",
        "kicks rnet",
        "kicks C",
        "calls rnet",
        "calls C",
        "spread",
    ];
    if !floors.is_empty() {
        header.push("tap alone");
    }
    table(&header, body.collect())
}

/// Targets, and whether they are reached.
pub fn targets_table(verdicts: &[Verdict]) -> Table {
    let body = verdicts.iter().map(|verdict| {
        vec![
            verdict.case.to_owned(),
            verdict.against.to_owned(),
            format!("{:.2}", verdict.bound),
            number(verdict.found, 3),
            number(verdict.theirs, 3),
            match verdict.holds() {
                Some(true) => "holds",
                Some(false) => "MISSED",
                None => "not measured",
            }
            .to_owned(),
        ]
    });
    table(
        &["target", "against", "at most", "found", "C likewise", ""],
        body.collect(),
    )
}

/// How each device's instructions divide among subsystems: shares from a profile,
/// applied to counts that were measured without one.
pub fn share_table(records: &[Record], rows: &Rows) -> Option<Table> {
    let body: Vec<Vec<String>> = records
        .iter()
        .filter_map(|record| {
            let Record::Share(share) = record else {
                return None;
            };
            let row = rows.get(&share.case);
            let figures = row.and_then(|row| match share.device.as_str() {
                RNET => row.ours,
                _ => row.theirs,
            });
            let part = |part: f64| {
                let count = figures.map(|figures| figures.instructions * part);
                format!("{} ({:.0} %)", number(count, 0), part * 100.0)
            };
            Some(vec![
                share.case.clone(),
                share.device.clone(),
                number(figures.map(|figures| figures.instructions), 0),
                part(share.tap),
                part(share.notify),
                part(share.own),
            ])
        })
        .collect();
    let header = [
        "case",
        "device",
        "instructions per packet",
        "tap and network stack",
        "notifications, scheduler",
        "vhost's own",
    ];
    (!body.is_empty()).then(|| table(&header, body))
}

/// Throughput or latency: values multiplied by `scale`, in `unit`, and whether targets are reached.
pub fn clock_table(
    unit: &str,
    pairs: &[Pair],
    (digits, scale): (usize, f64),
    better: Better,
) -> Table {
    let body = pairs.iter().map(|pair| {
        let value = |values: &[f64]| number(stats::median(values).map(|v| v * scale), digits);
        let spread = |values: &[f64]| format!("{:.0} %", stats::spread(values) * 100.0);
        let range = pair.range();
        vec![
            pair.name.clone(),
            value(&pair.ours),
            spread(&pair.ours),
            value(&pair.theirs),
            spread(&pair.theirs),
            number(pair.ratio(), 2),
            range.map_or("-".to_owned(), |(low, high)| {
                format!("{low:.2} to {high:.2}")
            }),
            number(stats::median(&pair.ours_worker), 0),
            number(stats::median(&pair.theirs_worker), 0),
            pair.verdict(better).to_owned(),
        ]
    });
    table(
        &[
            unit,
            "rnet",
            "spread",
            "C",
            "spread",
            "rnet/C",
            "run by run",
            "worker ns rnet",
            "worker ns C",
            "not worse",
        ],
        body.collect(),
    )
}

/// Medians of the measurements of guests on each backend.
pub fn guest_table(guests: &[Guest]) -> Table {
    let mut names: Vec<&str> = Vec::new();
    for guest in guests {
        if !names.contains(&guest.backend.as_str()) {
            names.push(&guest.backend);
        }
    }
    let body = names.iter().map(|name| {
        let median = |what: fn(&Guest) -> f64, scale: f64| {
            let mine = guests.iter().filter(|guest| guest.backend == *name);
            let runs = mine.filter(|guest| guest.error.is_none());
            let values: Vec<f64> = runs.map(what).collect();
            let middle = stats::median(&values).map(|value| value * scale);
            format!(
                "{} ± {:.0} %",
                number(middle, 1),
                stats::spread(&values) * 50.0
            )
        };
        vec![
            (*name).to_owned(),
            median(|g| g.guest_sends, 1e-6),
            median(|g| g.guest_receives, 1e-6),
            median(|g| g.udp_sends, 1e-6),
            median(|g| g.udp_receives, 1e-6),
            median(|g| g.requests, 1.0),
        ]
    });
    table(
        &[
            "guest on",
            "TCP out Mbit/s",
            "TCP in Mbit/s",
            "UDP out Mbit/s",
            "UDP in Mbit/s",
            "requests/s",
        ],
        body.collect(),
    )
}
