// SPDX-License-Identifier: GPL-2.0

//! Frames to the guest: every byte, under every combination of features and layouts.

pub(crate) mod buffers;
pub(crate) mod mixed;
pub(crate) mod unfit;

use super::matrix;
use crate::cases::common::{Case, ring_case};
use crate::driver::traffic::{self};

pub(crate) const CASES: &[Case] = &[
    ring_case("rx.integrity", 90, |ctx| {
        matrix::integrity(ctx, traffic::receive)
    }),
    ring_case("rx.layout", 60, |ctx| matrix::layout(ctx, traffic::receive)),
    ring_case("rx.gso", 60, |ctx| matrix::gso(ctx, traffic::receive)),
];
