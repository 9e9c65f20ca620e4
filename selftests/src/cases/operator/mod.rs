// SPDX-License-Identifier: GPL-2.0

//! What an operator of the host sees and does.

pub(crate) mod rnetctl;
