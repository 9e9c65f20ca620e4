// SPDX-License-Identifier: GPL-2.0
//! What queues do, live: samples, rates between them, the model of what is shown, and its drawing.
//!
//! Everything but [`sample::take()`] and [`terminal`] is a function of its arguments.

mod bars;
pub mod columns;
mod detail;
mod list;
pub mod model;
mod rates;
pub mod sample;
pub mod terminal;
mod view;

#[cfg(test)]
mod view_tests;
