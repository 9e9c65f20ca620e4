// SPDX-License-Identifier: GPL-2.0

//! A packet that leaves its socket: another one may take it for something else.

use crate::kapi::Socket;

fn keep(socket: &mut Socket) {
    let packet = socket.take(); //~ E0599 E0624
    core::mem::forget(packet);
}
