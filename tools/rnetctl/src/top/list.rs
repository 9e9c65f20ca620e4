// SPDX-License-Identifier: GPL-2.0
//! The list of all queues.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Text;
use ratatui::widgets::{Cell, Row, Table, TableState};

use super::bars::bars;
use super::columns::{self, Column};
use super::model::{Model, Order};
use crate::output::escaped;

/// The most room for the bars of the last minute that is of use: a second for each.
const BARS: u16 = 60;

/// Draws the list.
pub fn draw(frame: &mut Frame, area: Rect, model: &Model) {
    let (columns, room) = columns::fitting(area.width);
    let room = room.min(BARS);
    let with_bars = room > 0;
    let mut headings: Vec<Cell> = columns
        .iter()
        .map(|column| {
            let mark = match (is_order(column, model.order), model.reversed) {
                (false, _) => "",
                (true, false) => "▼",
                (true, true) => "▲",
            };
            cell(column, format!("{}{mark}", column.heading))
        })
        .collect();
    let mut widths: Vec<Constraint> = columns
        .iter()
        .map(|column| Constraint::Length(column.width))
        .collect();
    if with_bars {
        headings.push(Cell::from("LAST MINUTE"));
        widths.push(Constraint::Length(room));
    }
    let rows = model.rows.iter().map(|row| {
        let mut cells: Vec<Cell> = columns
            .iter()
            .map(|column| cell(column, escaped(&(column.cell)(row))))
            .collect();
        if with_bars {
            let past = row.past(usize::from(room));
            cells.push(Cell::from(bars(&past)).style(Style::new().fg(Color::Green)));
        }
        let style = if row.rates.drops > 0.0 {
            Style::new().fg(Color::Yellow)
        } else {
            Style::new()
        };
        Row::new(cells).style(style)
    });
    let table = Table::new(rows, widths)
        .header(Row::new(headings).bold())
        .column_spacing(1)
        .row_highlight_style(Style::new().reversed());
    // The table scrolls to what is selected.
    let mut state = TableState::new().with_selected(Some(model.selected));
    frame.render_stateful_widget(table, area, &mut state);
}

fn cell(column: &Column, words: String) -> Cell<'static> {
    let alignment = if column.right {
        Alignment::Right
    } else {
        Alignment::Left
    };
    Cell::from(Text::from(words).alignment(alignment))
}

/// Whether rows are ordered by the column.
fn is_order(column: &Column, order: Order) -> bool {
    let heading = match order {
        Order::Device => "DEVICE",
        Order::Name => "NAME",
        Order::Packets => "PKT/S",
        Order::Bits => "BIT/S",
        Order::Drops => "DROP/S",
        Order::Processor => "CPU%",
    };
    column.heading == heading
}
