// SPDX-License-Identifier: GPL-2.0
//! What is shown: rows with their history, the order, what is selected and opened.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::rates::{self, Rates};
use super::sample::{Key, QueueSample, Sample};
use crate::rates::is_gauge;

/// How much of the past is shown.
pub const PAST: Duration = Duration::from_secs(60);

/// What rows are ordered by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// Process and descriptor.
    Device,
    /// The name of the virtual machine.
    Name,
    /// Packets in a second.
    #[default]
    Packets,
    /// Bits in a second.
    Bits,
    /// Dropped packets in a second.
    Drops,
    /// The worker's processor time.
    Processor,
}

/// A queue with what it did last.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// The newest sample.
    pub sample: QueueSample,
    /// What the queue did since the sample before.
    pub rates: Rates,
    /// What each counter has grown by in a second, for those that have.
    pub growth: BTreeMap<String, f64>,
    /// Packets in a second at moments of the last minute, the oldest first.
    pub history: VecDeque<(Duration, f64)>,
}

/// A queue that was opened.
#[derive(Clone, PartialEq, Debug)]
pub struct Opened {
    /// The queue as it is now, or was when its device was last seen.
    pub row: Row,
    /// Whether its device was closed since.
    pub is_gone: bool,
    /// How many lines of its counters are passed over.
    pub scroll: usize,
    /// Whether counters are shown that have counted nothing.
    pub with_zeros: bool,
}

/// What a key asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Select the row above, or scroll.
    Up,
    /// Select the row below, or scroll.
    Down,
    /// Order by this.
    OrderBy(Order),
    /// Turn the order around.
    Reverse,
    /// Open the selected row.
    Open,
    /// Go back to the list.
    Back,
    /// Show counters that have counted nothing, or hide them.
    Zeros,
}

/// All that is shown.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Model {
    /// The rows, in their order.
    pub rows: Vec<Row>,
    /// What they are ordered by.
    pub order: Order,
    /// Whether the order is turned around.
    pub reversed: bool,
    /// The place of the selected row.
    pub selected: usize,
    /// Whether the user has selected it: until then it is the first, whichever that is.
    pub is_chosen: bool,
    /// The queue that was opened.
    pub opened: Option<Opened>,
    /// What could not be looked at.
    pub notes: Vec<String>,
    /// The time of the newest sample.
    pub at: Duration,
    /// The ticks of processor time that are a second.
    pub ticks: u64,
}

impl Model {
    /// A model of nothing yet, for a kernel with so many `ticks` of processor time in a second.
    pub fn new(ticks: u64) -> Self {
        Self {
            ticks,
            ..Self::default()
        }
    }

    /// Takes a new sample: queues that are not in it are gone.
    pub fn update(&mut self, sample: Sample) {
        let selected = self.selected_key();
        let time = sample.at.saturating_sub(self.at);
        let mut old: BTreeMap<Key, Row> = std::mem::take(&mut self.rows)
            .into_iter()
            .map(|row| (row.sample.key.clone(), row))
            .collect();
        self.at = sample.at;
        self.notes = sample.notes;
        let queues = sample.queues.into_iter();
        self.rows = queues
            .map(|queue| match old.remove(&queue.key) {
                Some(row) => row.next(queue, sample.at, time, self.ticks),
                None => Row::new(queue),
            })
            .collect();
        if let Some(opened) = &mut self.opened {
            let now = self
                .rows
                .iter()
                .find(|row| row.sample.key == opened.row.sample.key);
            opened.is_gone = now.is_none();
            if let Some(row) = now {
                opened.row = row.clone();
            }
        }
        self.sort(selected);
    }

    /// Does what a key asks for.
    pub fn act(&mut self, action: Action) {
        if let Some(opened) = &mut self.opened {
            match action {
                Action::Up => opened.scroll = opened.scroll.saturating_sub(1),
                Action::Down => {
                    opened.scroll = opened.scroll.saturating_add(1).min(opened.last_scroll())
                }
                Action::Zeros => {
                    opened.with_zeros = !opened.with_zeros;
                    opened.scroll = 0;
                }
                Action::Back => self.opened = None,
                Action::Open | Action::OrderBy(_) | Action::Reverse => {}
            }
            return;
        }
        match action {
            Action::Up => {
                self.is_chosen = true;
                self.selected = self.selected.saturating_sub(1);
            }
            Action::Down => {
                self.is_chosen = true;
                let last = self.rows.len().saturating_sub(1);
                self.selected = self.selected.saturating_add(1).min(last);
            }
            Action::OrderBy(order) => {
                let selected = self.selected_key();
                self.order = order;
                self.reversed = false;
                self.sort(selected);
            }
            Action::Reverse => {
                let selected = self.selected_key();
                self.reversed = !self.reversed;
                self.sort(selected);
            }
            Action::Open => {
                self.opened = self.rows.get(self.selected).map(|row| Opened {
                    row: row.clone(),
                    is_gone: false,
                    scroll: 0,
                    with_zeros: false,
                });
            }
            Action::Back | Action::Zeros => {}
        }
    }

    fn selected_key(&self) -> Option<Key> {
        if !self.is_chosen {
            return None;
        }
        let row = self.rows.get(self.selected)?;
        Some(row.sample.key.clone())
    }

    /// Orders the rows; the selected one stays selected, if it is still there.
    fn sort(&mut self, selected: Option<Key>) {
        let (order, reversed) = (self.order, self.reversed);
        self.rows.sort_by(|a, b| {
            let by = a.compare(b, order);
            let by = if reversed { by.reverse() } else { by };
            by.then_with(|| a.sample.key.cmp(&b.sample.key))
        });
        let place = selected.and_then(|key| self.rows.iter().position(|row| row.sample.key == key));
        let last = self.rows.len().saturating_sub(1);
        self.selected = place.unwrap_or(self.selected).min(last);
    }
}

impl Row {
    fn new(sample: QueueSample) -> Self {
        Self {
            sample,
            rates: Rates::default(),
            growth: BTreeMap::new(),
            history: VecDeque::new(),
        }
    }

    /// The row after another sample, `time` later.
    fn next(mut self, sample: QueueSample, at: Duration, time: Duration, ticks: u64) -> Self {
        self.rates = rates::between(&self.sample, &sample, time, ticks);
        let seconds = time.as_secs_f64();
        let grown = sample.counters.iter().filter_map(|(key, now)| {
            let before = self.sample.counters.get(key).unwrap_or(0);
            let grown = rates::growth(before, now);
            (grown > 0 && seconds > 0.0 && !is_gauge(key))
                .then(|| (key.to_owned(), rates::float(grown) / seconds))
        });
        self.growth = grown.collect();
        self.history.push_back((at, self.rates.packets));
        let is_old = |moment: Duration| at.saturating_sub(moment) >= PAST;
        while self
            .history
            .front()
            .is_some_and(|(moment, _)| is_old(*moment))
        {
            self.history.pop_front();
        }
        self.sample = sample;
        self
    }

    /// The order of two rows: most first, but for names.
    fn compare(&self, other: &Self, order: Order) -> Ordering {
        let most = |of: fn(&Rates) -> f64| of(&other.rates).total_cmp(&of(&self.rates));
        match order {
            Order::Device => self.sample.key.cmp(&other.sample.key),
            Order::Name => self.sample.name.cmp(&other.sample.name),
            Order::Packets => most(|rates| rates.packets),
            Order::Bits => most(|rates| rates.bits),
            Order::Drops => most(|rates| rates.drops),
            Order::Processor => most(|rates| rates.processor.unwrap_or(-1.0)),
        }
    }

    /// The mean of packets in a second in each of `count` parts of the last minute, the newest last.
    /// A part without a sample has that of the part before.
    pub fn past(&self, count: usize) -> Vec<f64> {
        let Some((newest, _)) = self.history.back() else {
            return vec![0.0; count];
        };
        let part = PAST.as_secs_f64() / rates::float(u64::try_from(count.max(1)).unwrap_or(1));
        let mut parts: Vec<(f64, f64)> = vec![(0.0, 0.0); count];
        for (moment, packets) in &self.history {
            let age = newest.saturating_sub(*moment).as_secs_f64();
            // CAST: at most `count`, since what is older than the last minute was dropped.
            let back = (age / part) as usize;
            let place = count.checked_sub(1).and_then(|last| last.checked_sub(back));
            if let Some((sum, samples)) = place.and_then(|place| parts.get_mut(place)) {
                *sum += packets;
                *samples += 1.0;
            }
        }
        let mut last = 0.0;
        let mean = |(sum, samples): (f64, f64)| {
            if samples > 0.0 {
                last = sum / samples;
            }
            last
        };
        parts.into_iter().map(mean).collect()
    }
}

impl Opened {
    /// The counters to show: name, value, and growth in a second.
    pub fn counters(&self) -> Vec<(&str, u64, f64)> {
        let shown = |(_, value): &(&str, u64)| self.with_zeros || *value > 0;
        let all = self.row.sample.counters.iter().filter(shown);
        all.map(|(key, value)| {
            let growth = self.row.growth.get(key).copied().unwrap_or(0.0);
            (key, value, growth)
        })
        .collect()
    }

    /// The most lines that can be passed over, so that one counter is left.
    fn last_scroll(&self) -> usize {
        self.counters().len().saturating_sub(1)
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
