// SPDX-License-Identifier: GPL-2.0
//! One queue: what it does, its state and its counters.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Paragraph, Sparkline, Wrap};

use super::columns::COLUMNS;
use super::model::Opened;
use crate::debugfs::QueueState;
use crate::output::{escaped, short};

/// The width of a counter: name, value and growth.
const COUNTER: u16 = 41;

/// The least height with which there is room for the last minute.
const TALL: u16 = 16;

/// Draws the queue.
pub fn draw(frame: &mut Frame, area: Rect, opened: &Opened) {
    let sample = &opened.row.sample;
    let heading = format!(
        " {} {} of {}, {} ",
        sample.key.device(),
        sample.key.direction,
        escaped(&sample.name),
        escaped(&sample.interface)
    );
    let mut block = Block::new().borders(Borders::TOP).title(heading.bold());
    if opened.is_gone {
        block = block.title(" its device was closed ".fg(Color::Red));
    }
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let past = if inside.height >= TALL { 4 } else { 0 };
    let state = state(sample.state.as_ref());
    let lines = lines(&state, inside.width).min(inside.height / 3);
    let [rates, minute, about, counters] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(past),
        Constraint::Length(lines),
        Constraint::Min(1),
    ])
    .areas(inside);
    let cells = COLUMNS.iter().filter(|column| column.right);
    let words: Vec<String> = cells
        .map(|column| format!("{} {}", column.heading, (column.cell)(&opened.row)))
        .collect();
    frame.render_widget(Line::from(words.join("  ")), rates);
    if past > 0 {
        draw_minute(frame, minute, opened);
    }
    let about_words = Paragraph::new(state).wrap(Wrap { trim: true });
    frame.render_widget(about_words, about);
    draw_counters(frame, counters, opened);
}

/// The lines that words take in a paragraph of that width, or one more.
fn lines(words: &str, width: u16) -> u16 {
    let count = u16::try_from(words.chars().count()).unwrap_or(u16::MAX);
    // A line may end with the longest word left over.
    count.div_ceil(width.saturating_sub(16).max(1))
}

fn draw_minute(frame: &mut Frame, area: Rect, opened: &Opened) {
    let width = usize::from(area.width.min(60));
    // CAST: no count of packets in a second is that great.
    let data: Vec<u64> = opened
        .row
        .past(width)
        .iter()
        .map(|rate| rate.round() as u64)
        .collect();
    let most = data.iter().copied().max().unwrap_or(0);
    let heading = format!(
        "last minute, at most {} packets/s",
        short(super::rates::float(most))
    );
    let sparkline = Sparkline::default()
        .block(Block::new().title(heading))
        .data(&data)
        .style(Style::new().fg(Color::Green));
    frame.render_widget(sparkline, area);
}

/// The state in words, without what is not known.
fn state(state: Option<&QueueState>) -> String {
    let Some(Ok(serde_json::Value::Object(values))) = state.map(serde_json::to_value) else {
        return "Its state is not known: debugfs does not show it.".to_owned();
    };
    let words = values.iter().filter_map(|(key, value)| match value {
        serde_json::Value::Null => None,
        serde_json::Value::Bool(is) => Some(format!("{key} {}", if *is { "yes" } else { "no" })),
        serde_json::Value::String(word) => Some(format!("{key} {}", escaped(word))),
        other => Some(format!("{key} {other}")),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// The counters from top to bottom, then in the next column.
fn draw_counters(frame: &mut Frame, area: Rect, opened: &Opened) {
    let counters = opened.counters();
    let shown = counters.iter().skip(opened.scroll);
    let height = usize::from(area.height.max(1));
    for (place, (key, value, growth)) in shown.enumerate() {
        let column = u16::try_from(place / height).unwrap_or(u16::MAX);
        let line = u16::try_from(place % height).unwrap_or(u16::MAX);
        let left = column.saturating_mul(COUNTER);
        let is_whole = left.saturating_add(COUNTER).saturating_sub(2) <= area.width;
        // The first column is shown however narrow the screen is.
        if column > 0 && !is_whole {
            break;
        }
        let cell = Rect {
            x: area.x.saturating_add(left),
            y: area.y.saturating_add(line),
            width: area.width.saturating_sub(left).min(COUNTER - 2),
            height: 1,
        };
        let growth = if *growth > 0.0 {
            format!("{}/s", short(growth.round()))
        } else {
            String::new()
        };
        let words = format!("{:18} {value:>11} {growth:>8}", escaped(key));
        frame.render_widget(Line::from(words), cell.intersection(area));
    }
}
