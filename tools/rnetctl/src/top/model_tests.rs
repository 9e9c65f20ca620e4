// SPDX-License-Identifier: GPL-2.0

use std::time::Duration;

use super::{Action, Model, Order, PAST};
use crate::device::Direction;
use crate::top::rates::tests::queue;
use crate::top::sample::{QueueSample, Sample};

fn sample(second: u64, queues: Vec<QueueSample>) -> Sample {
    Sample {
        at: Duration::from_secs(second),
        queues,
        notes: Vec::new(),
    }
}

/// Two devices, of which the second receives twice as much, after two samples.
fn two() -> Model {
    let mut model = Model::new(100);
    for second in [1, 2] {
        let counted =
            |times: u64| format!("packets {} bytes {}", second * times, 9000 - second * times);
        model.update(sample(
            second,
            vec![
                queue(3, Direction::Rx, &counted(100)),
                queue(4, Direction::Rx, &counted(200)),
            ],
        ));
    }
    model
}

fn descriptors(model: &Model) -> Vec<i32> {
    model.rows.iter().map(|row| row.sample.key.fd).collect()
}

#[test]
fn rows_are_in_the_order_that_was_asked_for() {
    let mut model = two();
    assert_eq!(descriptors(&model), [4, 3]);
    model.act(Action::Reverse);
    assert_eq!(descriptors(&model), [3, 4]);
    model.act(Action::OrderBy(Order::Device));
    assert_eq!((descriptors(&model), model.reversed), (vec![3, 4], false));
    model.act(Action::OrderBy(Order::Packets));
    assert_eq!(descriptors(&model), [4, 3]);
    // Equal ones are in the order of devices, whichever way.
    for order in [Order::Drops, Order::Name, Order::Processor] {
        model.act(Action::OrderBy(order));
        model.act(Action::Reverse);
        assert_eq!(descriptors(&model), [3, 4], "{order:?}");
    }
}

#[test]
fn the_selection_stays_with_its_queue() {
    let mut model = two();
    model.act(Action::Up);
    assert_eq!(model.selected, 0);
    model.act(Action::Reverse);
    assert_eq!(model.selected, 1);
    model.act(Action::Down);
    assert_eq!(model.selected, 1);
    // The selected one goes, then the other.
    model.update(sample(3, vec![queue(3, Direction::Rx, "packets 300")]));
    assert_eq!((descriptors(&model), model.selected), (vec![3], 0));
    model.update(sample(4, Vec::new()));
    assert_eq!(model.selected, 0);
    for action in [Action::Up, Action::Down, Action::Open, Action::Reverse] {
        model.act(action);
        assert_eq!((model.selected, &model.opened), (0, &None));
    }
}

#[test]
fn an_opened_queue_is_kept_when_its_device_goes() {
    let mut model = two();
    model.act(Action::Open);
    let first = model.opened.clone().unwrap();
    assert_eq!((first.row.sample.key.fd, first.is_gone), (4, false));
    model.update(sample(3, vec![queue(4, Direction::Rx, "packets 650")]));
    let now = model.opened.clone().unwrap();
    assert_eq!((now.row.rates.packets, now.is_gone), (250.0, false));
    model.update(sample(4, Vec::new()));
    let gone = model.opened.clone().unwrap();
    assert_eq!((gone.row.rates.packets, gone.is_gone), (250.0, true));
    model.act(Action::Back);
    assert_eq!((&model.opened, model.rows.len()), (&None, 0));
}

#[test]
fn a_new_device_with_an_old_descriptor_begins_anew() {
    let mut model = two();
    let mut other = queue(4, Direction::Rx, "packets 1000");
    other.key.number = Some(2);
    model.update(sample(3, vec![other]));
    assert_eq!(model.rows[0].rates.packets, 0.0);
    assert!(model.rows[0].history.is_empty());
}

#[test]
fn counters_are_scrolled_and_zeros_hidden() {
    let mut model = Model::new(100);
    for second in [1, 2] {
        let counters = format!("packets {second} calls 9 kicks 0 progress_ms {second}");
        model.update(sample(second, vec![queue(3, Direction::Rx, &counters)]));
    }
    model.act(Action::Open);
    let shown = |model: &Model| model.opened.as_ref().unwrap().counters().len();
    assert_eq!(
        model.opened.as_ref().unwrap().counters(),
        [
            ("calls", 9, 0.0),
            ("packets", 2, 1.0),
            ("progress_ms", 2, 0.0)
        ]
    );
    for _ in 0..5 {
        model.act(Action::Down);
    }
    assert_eq!(model.opened.as_ref().unwrap().scroll, 2);
    model.act(Action::Up);
    assert_eq!(model.opened.as_ref().unwrap().scroll, 1);
    model.act(Action::Zeros);
    assert_eq!(
        (shown(&model), model.opened.as_ref().unwrap().scroll),
        (4, 0)
    );
    model.act(Action::Zeros);
    assert_eq!(shown(&model), 3);
}

#[test]
fn the_past_is_a_minute() {
    let mut model = Model::new(100);
    let mut packets = 0;
    for second in 0..200u64 {
        packets += second;
        model.update(sample(
            second,
            vec![queue(3, Direction::Rx, &format!("packets {packets}"))],
        ));
    }
    let row = &model.rows[0];
    assert_eq!(row.history.len() as u64, PAST.as_secs());
    let past = row.past(6);
    // Each part is the mean of ten seconds.
    assert_eq!(past, [144.5, 154.5, 164.5, 174.5, 184.5, 194.5]);
    assert_eq!(row.past(0), [0.0; 0]);
    // Seldom samples fill the parts between them.
    let mut seldom = Model::new(100);
    for (second, packets) in [(0, 0), (30, 300), (60, 900)] {
        let counters = format!("packets {packets}");
        seldom.update(sample(second, vec![queue(3, Direction::Rx, &counters)]));
    }
    assert_eq!(seldom.rows[0].past(4), [0.0, 10.0, 10.0, 20.0]);
}
