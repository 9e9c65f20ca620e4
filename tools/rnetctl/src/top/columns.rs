// SPDX-License-Identifier: GPL-2.0
//! The columns of a queue, for the list and for the plain table.

use super::model::{Model, Row};
use crate::output::{Table, short};

/// A column.
pub struct Column {
    /// Its heading.
    pub heading: &'static str,
    /// Its width in a terminal.
    pub width: u16,
    /// Whether it is set to the right, as numbers are.
    pub right: bool,
    /// How early it is left out where there is little room: the highest first, 0 never.
    pub rank: u8,
    /// What it shows.
    pub cell: fn(&Row) -> String,
}

const fn words(heading: &'static str, width: u16, rank: u8, cell: fn(&Row) -> String) -> Column {
    Column {
        heading,
        width,
        right: false,
        rank,
        cell,
    }
}

const fn number(heading: &'static str, width: u16, rank: u8, cell: fn(&Row) -> String) -> Column {
    Column {
        heading,
        width,
        right: true,
        rank,
        cell,
    }
}

/// All columns, in their order.
pub const COLUMNS: [Column; 11] = [
    words("DEVICE", 11, 0, |row| row.sample.key.device()),
    words("Q", 2, 0, |row| row.sample.key.direction.to_string()),
    words("NAME", 12, 5, |row| row.sample.name.clone()),
    words("INTERFACE", 10, 4, |row| row.sample.interface.clone()),
    number("PKT/S", 7, 0, |row| short(row.rates.packets.round())),
    number("BIT/S", 7, 1, |row| short(row.rates.bits.round())),
    number("PKT/ROUND", 9, 7, |row| optional(row.rates.per_round, 1)),
    number("CALL/PKT", 8, 8, |row| optional(row.rates.calls, 3)),
    number("KICK/PKT", 8, 9, |row| optional(row.rates.kicks, 3)),
    number("DROP/S", 7, 3, |row| short(row.rates.drops.round())),
    number("CPU%", 5, 2, |row| optional(row.rates.processor, 1)),
];

/// A number with so many digits behind the point, or a dash.
pub fn optional(number: Option<f64>, digits: usize) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"))
}

/// The least room for the bars of the last minute.
const BARS: u16 = 8;

/// When the bars are left out, as for a column.
const BARS_RANK: u8 = 6;

/// The columns that a terminal of that width has room for, with a space between two, and the room for
/// the bars of the last minute: none, or enough.
pub fn fitting(width: u16) -> (Vec<&'static Column>, u16) {
    let mut columns: Vec<&Column> = COLUMNS.iter().collect();
    let mut bars = BARS;
    loop {
        let widths = columns.iter().map(|column| column.width.saturating_add(1));
        let needed = widths.sum::<u16>();
        let room = width.saturating_sub(needed);
        let last = columns.iter().map(|column| column.rank).max().unwrap_or(0);
        if bars > 0 && room >= bars {
            return (columns, room);
        }
        if (bars == 0 && needed <= width.saturating_add(1)) || last == 0 {
            return (columns, 0);
        }
        if bars > 0 && last < BARS_RANK {
            bars = 0;
        } else {
            columns.retain(|column| column.rank != last);
        }
    }
}

/// The table that is written where no terminal is.
#[must_use]
pub fn table(model: &Model) -> Table {
    let headings: Vec<&'static str> = COLUMNS.iter().map(|column| column.heading).collect();
    let places = COLUMNS.iter().enumerate();
    let right: Vec<usize> = places
        .filter(|(_, column)| column.right)
        .map(|(place, _)| place)
        .collect();
    let mut table = Table::new(&headings).right(&right);
    for row in &model.rows {
        table.row(COLUMNS.iter().map(|column| (column.cell)(row)));
    }
    table
}
