// SPDX-License-Identifier: GPL-2.0

//! Random runs.

use proptest::prelude::*;

use super::guest::Act;
use super::Step;
use crate::mock::{Format, Setup};

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Publish),
        2 => Just(Act::Poll),
        3 => (0..4u16).prop_map(Act::Sleep),
        1 => Just(Act::Wake),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let lens = || proptest::collection::vec(prop_oneof![1 => Just(0u32), 6 => 1..40u32], 0..4);
    let chain = (lens(), lens(), any::<bool>())
        .prop_filter("a chain has descriptors", |(read, write, _)| {
            !read.is_empty() || !write.is_empty()
        });
    prop_oneof![
        8 => chain.prop_map(|(read, write, indirect)| Step::Add(read, write, indirect)),
        5 => act().prop_map(Step::Act),
        5 => (1..20usize).prop_map(Step::Take),
        1 => (0..20usize).prop_map(Step::Rewind),
        1 => Just(Step::ForgetPrefetch),
        5 => (0..20usize, prop_oneof![3 => Just(true), 1 => Just(false)])
            .prop_map(|(most, call)| Step::Complete(most, call)),
        4 => Just(Step::Idle),
        2 => Just(Step::Look),
        2 => Just(Step::Stop),
        1 => Just(Step::Features),
        1 => Just(Step::Move),
    ]
}

/// One step, the driver's act during it and when, and the access that fails.
pub type Meddled = (Step, usize, Option<Act>, Option<usize>);

pub fn runs<F: Format>() -> impl Strategy<Value = (Setup, Vec<Meddled>)> {
    let sizes: Vec<_> = F::SIZES
        .iter()
        .copied()
        .filter(|size| *size < 100)
        .collect();
    let size = prop_oneof![
        (0..6u32).prop_map(|shift| 1 << shift),
        proptest::sample::select(sizes)
    ];
    let setup = (size, 0..100u16, any::<(bool, bool)>()).prop_map(
        |(size, start, (event_idx, notify_on_empty))| Setup {
            size,
            // Close before the wrap.
            index: start.wrapping_sub(60),
            event_idx,
            notify_on_empty,
        },
    );
    let act = proptest::option::of(act());
    let away = proptest::option::weighted(0.1, 0..6usize);
    let steps = proptest::collection::vec((step(), 0..6usize, act, away), 1..200);
    (setup, steps)
}
