// SPDX-License-Identifier: GPL-2.0
//! The screen: a title, what was opened or the list, and a line of keys.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};

use super::detail;
use super::list;
use super::model::Model;
use crate::output::short;

/// The smallest screen on which anything can be read.
const SMALLEST: (u16, u16) = (24, 4);

/// Draws the model.
pub fn draw(frame: &mut Frame, model: &Model) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        frame.render_widget(Line::from("too small"), area);
        return;
    }
    // A note has a line only while there is one.
    let note = u16::from(!model.notes.is_empty());
    let [title, notes, body, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(note),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(self::title(model), title);
    frame.render_widget(Line::from(model.notes.join("; ")).fg(Color::Yellow), notes);
    match &model.opened {
        Some(opened) => {
            detail::draw(frame, body, opened);
            let zeros = if opened.with_zeros {
                "hide zeros"
            } else {
                "show zeros"
            };
            let words = [
                ("↑↓", "scroll"),
                ("z", zeros),
                ("Esc", "back"),
                ("q", "quit"),
            ];
            draw_keys(frame, keys, &words);
        }
        None => {
            list::draw(frame, body, model);
            let words = [
                ("q", "quit"),
                ("⏎", "open"),
                ("r", "reverse"),
                ("p", "packets"),
                ("b", "bits"),
                ("d", "drops"),
                ("c", "cpu"),
                ("n", "name"),
                ("o", "device"),
            ];
            draw_keys(frame, keys, &words);
        }
    }
}

/// The sum of all queues.
fn title(model: &Model) -> Line<'static> {
    let sum = |of: fn(&super::rates::Rates) -> f64| {
        let all = model.rows.iter().map(|row| of(&row.rates));
        // The sum of none is -0.
        short((all.sum::<f64>() + 0.0).round())
    };
    Line::from(vec![
        Span::from("rnetctl top").bold(),
        Span::from(format!(
            "  queues {}  packets/s {}  bits/s {}  drops/s {}",
            model.rows.len(),
            sum(|rates| rates.packets),
            sum(|rates| rates.bits),
            sum(|rates| rates.drops),
        )),
    ])
}

fn draw_keys(frame: &mut Frame, area: Rect, words: &[(&'static str, &'static str)]) {
    let mut spans = Vec::new();
    for (key, does) in words {
        spans.push(Span::styled(*key, Style::new().reversed()));
        spans.push(Span::from(format!(" {does}  ")));
    }
    frame.render_widget(Line::from(spans), area);
}
