// SPDX-License-Identifier: GPL-2.0
//! The terminal: keys in, screens out, until the user has seen enough.

use std::io;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{Action, Model, Order};
use super::sample;
use super::view;
use crate::exit::Error;
use crate::host::Host;

/// What a key means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Meaning {
    Quit,
    Act(Action),
    Nothing,
}

/// Shows the queues, with a new sample after each `interval`, until the user quits.
///
/// # Errors
///
/// Those of the terminal and of [`sample::take()`].
pub fn run(host: &Host, model: Model, interval: Duration) -> Result<(), Error> {
    // Has the terminal as it was when this panics, too.
    let terminal = ratatui::try_init()?;
    let shown = show(terminal, host, model, interval);
    ratatui::try_restore()?;
    shown
}

fn show(
    mut terminal: DefaultTerminal,
    host: &Host,
    mut model: Model,
    interval: Duration,
) -> Result<(), Error> {
    let began = Instant::now();
    let mut next = began;
    loop {
        if Instant::now() >= next {
            model.update(sample::take(host, began.elapsed())?);
            next = Instant::now() + interval;
        }
        terminal.draw(|frame| view::draw(frame, &model))?;
        if event::poll(next.saturating_duration_since(Instant::now()))? {
            // After any other event, the next screen is of the terminal's new size.
            if let Event::Key(key) = event::read()? {
                match meaning(key) {
                    Meaning::Quit => return Ok(()),
                    Meaning::Act(action) => model.act(action),
                    Meaning::Nothing => {}
                }
            }
        }
    }
}

/// Waits for so long as it takes to see rates, and returns the model of two samples.
///
/// # Errors
///
/// Those of [`sample::take()`].
pub fn once(host: &Host, mut model: Model, interval: Duration) -> Result<Model, Error> {
    let began = Instant::now();
    model.update(sample::take(host, began.elapsed())?);
    std::thread::sleep(interval);
    model.update(sample::take(host, began.elapsed())?);
    Ok(model)
}

/// Whether both ends are a terminal, as a screen with keys needs.
pub fn is_there() -> bool {
    use io::IsTerminal;
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

fn meaning(key: KeyEvent) -> Meaning {
    if key.kind == KeyEventKind::Release {
        return Meaning::Nothing;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Meaning::Quit,
            _ => Meaning::Nothing,
        };
    }
    Meaning::Act(match key.code {
        KeyCode::Char('q') => return Meaning::Quit,
        KeyCode::Up | KeyCode::Char('k') => Action::Up,
        KeyCode::Down | KeyCode::Char('j') => Action::Down,
        KeyCode::Enter => Action::Open,
        KeyCode::Esc | KeyCode::Backspace => Action::Back,
        KeyCode::Char('r') => Action::Reverse,
        KeyCode::Char('z') => Action::Zeros,
        KeyCode::Char('p') => Action::OrderBy(Order::Packets),
        KeyCode::Char('b') => Action::OrderBy(Order::Bits),
        KeyCode::Char('d') => Action::OrderBy(Order::Drops),
        KeyCode::Char('c') => Action::OrderBy(Order::Processor),
        KeyCode::Char('n') => Action::OrderBy(Order::Name),
        KeyCode::Char('o') => Action::OrderBy(Order::Device),
        _ => return Meaning::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

    use super::{Meaning, meaning};
    use crate::top::model::Action;

    #[test]
    fn keys_have_meanings() {
        let plain = |code| meaning(KeyEvent::new(code, KeyModifiers::NONE));
        let control = |letter| meaning(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL));
        assert_eq!(plain(KeyCode::Char('q')), Meaning::Quit);
        assert_eq!(control('c'), Meaning::Quit);
        assert_eq!(control('q'), Meaning::Nothing);
        assert_eq!(plain(KeyCode::Enter), Meaning::Act(Action::Open));
        assert_eq!(plain(KeyCode::Char('x')), Meaning::Nothing);
        let mut released = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
        released.kind = KeyEventKind::Release;
        assert_eq!(meaning(released), Meaning::Nothing);
    }
}
