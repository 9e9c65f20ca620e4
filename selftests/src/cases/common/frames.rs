// SPDX-License-Identifier: GPL-2.0

//! Frames of all sizes and devices that take them, and frames one at a time.

use crate::cases::common::{Context, check};
use crate::driver::device::{NetDevice, Setup, Shape};
use crate::driver::ring::Segment;
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::Result;
use std::ops::Range;

/// The features of devices that are used one after the other.
pub(crate) const FEATURES: [u64; 4] = [
    0,
    feature::EVENT_IDX | feature::MRG_RXBUF,
    feature::INDIRECT,
    feature::IN_ORDER | feature::MRG_RXBUF,
];

const SIZES: [usize; 11] = [14, 60, 64, 128, 1499, 1500, 1514, 4096, 9000, 16384, 65000];

/// Sends a packet that is shorter than its header, at which a queue stops.
pub(crate) fn send_short(device: &mut NetDevice) -> Result<()> {
    let short = Segment {
        addr: device.tx.buffer_ahead(0)?,
        len: 5,
        writable: false,
    };
    device.tx.ring.add(&[short], None, 0)?;
    device.tx.flush()?;
    Ok(())
}

/// All sizes in turn.
pub(crate) fn all_sizes(sequence: u64) -> usize {
    SIZES[(sequence % 11) as usize]
}

/// A device whose buffers hold the largest frames, or that merges smaller ones.
pub(crate) fn roomy(features: u64) -> Setup {
    let mut setup = Setup::new(features);
    let indirect = features & feature::INDIRECT != 0;
    setup.tx_buffers = (32, 65536);
    setup.tx_shape = Shape {
        own_header: true,
        piece: 4096,
        indirect,
    };
    if features & feature::MRG_RXBUF == 0 {
        setup.rx_buffers = (16, 65536);
        setup.rx_shape = Shape {
            own_header: false,
            piece: 8192,
            indirect,
        };
    } else {
        setup.rx_shape = Shape {
            own_header: false,
            piece: 1024,
            indirect,
        };
    }
    setup
}

/// The length of a frame that is sent alone: wherever its buffer starts, it has a page for itself.
const SINGLE: usize = 5000;

/// A device with buffers for such frames.
pub(crate) fn single(features: u64) -> Setup {
    let mut setup = Setup::new(feature::VERSION_1 | features);
    (setup.rx_size, setup.tx_size) = (64, 64);
    (setup.rx_buffers, setup.tx_buffers) = ((64, 8192), (64, 8192));
    setup
}

/// Sends one frame, as [`send_frame`], that has a page for itself wherever its buffer starts.
pub(crate) fn send_one(
    ctx: &Context,
    device: &mut NetDevice,
    index: u32,
    sequence: u64,
) -> Result<()> {
    send_frame(ctx, device, index, sequence, SINGLE)
}

/// Sends one frame towards `index`'s end of the wire, with a kick if it is the guest that sends and
/// the device asks for one.
pub(crate) fn send_frame(
    ctx: &Context,
    device: &mut NetDevice,
    index: u32,
    sequence: u64,
    len: usize,
) -> Result<()> {
    let mut bytes = Vec::new();
    frame::build(ctx.seed, sequence, len, &mut bytes);
    if index == RX {
        return device.peer.send(NetHeader::default(), &bytes);
    }
    check(device.tx_post(NetHeader::default(), &bytes)?, || {
        "no room".into()
    })?;
    device.tx.flush()?;
    Ok(())
}

/// Waits for that frame at the other end.
pub(crate) fn take_one(
    ctx: &Context,
    device: &mut NetDevice,
    index: u32,
    sequence: u64,
) -> Result<()> {
    let (mut expected, mut got) = (Vec::new(), Vec::new());
    frame::build(ctx.seed, sequence, SINGLE, &mut expected);
    Deadline::patient().until("the frame", || {
        Ok(if index == RX {
            device.rx_take(&mut got)?.is_some()
        } else {
            device.peer.receive(&mut got)?.is_some()
        })
    })?;
    frame::expect("single", sequence, &expected, &got)?;
    if index == TX {
        Deadline::patient().until("its buffer", || {
            device.tx_reap()?;
            Ok(device.tx.ring.pending() == 0)
        })?;
    }
    Ok(())
}

/// Has the guest send all frames of `sequences`, whose lengths `len` tells.
pub(crate) fn post_all(
    ctx: &Context,
    device: &mut NetDevice,
    sequences: Range<u64>,
    len: impl Fn(u64) -> usize,
) -> Result<()> {
    let mut bytes = Vec::new();
    for sequence in sequences {
        frame::build(ctx.seed, sequence, len(sequence), &mut bytes);
        check(device.tx_post(NetHeader::default(), &bytes)?, || {
            "no room".into()
        })?;
    }
    device.tx.flush()?;
    Ok(())
}

/// As [`post_all`], and waits until the device has given their chains back.
pub(crate) fn send_all(
    ctx: &Context,
    device: &mut NetDevice,
    sequences: Range<u64>,
    len: impl Fn(u64) -> usize,
) -> Result<()> {
    post_all(ctx, device, sequences, len)?;
    Deadline::patient().until("the chains to come back", || {
        device.tx_reap()?;
        Ok(device.tx.ring.pending() == 0)
    })
}

pub(crate) fn expect_no_errors(device: &NetDevice) -> Result<()> {
    let errors = [device.rx.err.take()?, device.tx.err.take()?];
    check(errors == [0, 0], || format!("{errors:?} errors"))
}
