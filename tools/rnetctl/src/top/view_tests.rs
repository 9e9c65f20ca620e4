// SPDX-License-Identifier: GPL-2.0
//! Screens of several sizes.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::model::{Action, Model};
use super::rates::tests::queue;
use super::sample::Sample;
use super::view::draw;
use crate::debugfs::QueueState;
use crate::device::Direction;

/// Two guests after a minute: one that sends much and drops some, one that is idle.
fn model() -> Model {
    let mut model = Model::new(100);
    for second in 0..70u64 {
        let sent = second * second * 1000;
        let mut busy = queue(
            9,
            Direction::Tx,
            &format!(
                "rounds {} packets {sent} bytes {} dropped {} calls {} kicks {second} gso 0",
                sent / 50,
                sent * 1500,
                second * 3,
                sent / 100,
            ),
        );
        busy.key.pid = 4711;
        busy.ticks = Some(second * 73);
        busy.state = Some(QueueState::parse(
            b"running:\tno\nstarted:\tyes\nformat:\tpacked\nsize:\t256\nkicks:\twanted\n\
              waits_for:\tkick\nbackend:\ttap\ninterface:\ttap9\nworker:\t4720\n",
        ));
        let idle = queue(
            3,
            Direction::Rx,
            "rounds 5 packets 40 bytes 400 dropped 0 calls 3",
        );
        let sample = Sample {
            at: Duration::from_secs(second),
            queues: vec![idle, busy],
            notes: Vec::new(),
        };
        model.update(sample);
    }
    model
}

/// The screen of that size as text.
fn screen(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn the_list_fits_screens_of_all_sizes() {
    let model = model();
    insta::assert_snapshot!("list_140x10", screen(&model, 140, 10));
    insta::assert_snapshot!("list_80x8", screen(&model, 80, 8));
    insta::assert_snapshot!("list_40x5", screen(&model, 40, 5));
    insta::assert_snapshot!("list_20x3", screen(&model, 20, 3));
}

#[test]
fn a_queue_fits_screens_of_all_sizes() {
    let mut model = model();
    model.act(Action::Open);
    insta::assert_snapshot!("queue_100x24", screen(&model, 100, 24));
    insta::assert_snapshot!("queue_40x10", screen(&model, 40, 10));
    model.act(Action::Zeros);
    model.act(Action::Down);
    model.update(Sample::default());
    insta::assert_snapshot!("queue_gone_80x16", screen(&model, 80, 16));
}

#[test]
fn an_empty_list_says_why() {
    let mut model = Model::new(100);
    model.update(Sample {
        notes: vec!["no device is open".to_owned()],
        ..Sample::default()
    });
    insta::assert_snapshot!("list_empty_60x6", screen(&model, 60, 6));
}

/// No size of a screen lets it panic.
#[test]
fn all_sizes_are_drawn() {
    let mut model = model();
    for _ in 0..2 {
        for width in (1..160).step_by(13) {
            for height in (1..25).step_by(3) {
                screen(&model, width, height);
            }
        }
        model.act(Action::Open);
    }
}

#[test]
fn the_selected_row_is_on_the_screen() {
    let mut model = Model::new(100);
    let queues = (0..50)
        .map(|fd| queue(fd, Direction::Rx, "packets 0"))
        .collect();
    model.update(Sample {
        queues,
        ..Sample::default()
    });
    for _ in 0..40 {
        model.act(Action::Down);
    }
    assert!(screen(&model, 80, 10).contains("10:40 "));
}
