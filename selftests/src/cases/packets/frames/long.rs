// SPDX-License-Identifier: GPL-2.0

//! Frames from the guest about as long as a page, and up to the longest there are.

use crate::cases::common::{Case, Context, case, check};
use crate::driver::device::{NetDevice, Setup, Shape};
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::host::tap::{OFFLOAD_CSUM, OFFLOAD_TSO4};
use crate::host::wire::{Kind, Wire};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    case("frames.borders_tap", 180, |ctx| borders(ctx, Kind::Tap)),
    case("frames.borders_macvtap", 180, |ctx| {
        borders(ctx, Kind::Macvtap)
    }),
    case("frames.segmented_tap", 120, |ctx| segmented(ctx, Kind::Tap)),
    case("frames.segmented_macvtap", 120, |ctx| {
        segmented(ctx, Kind::Macvtap)
    }),
    case("frames.beyond", 60, beyond),
    case("frames.header_lengths", 60, header_lengths),
];

/// The longest Ethernet frame around an IPv4 packet.
const LONGEST: usize = 65535 + 14;

/// Lengths at which a frame stops to fit something, whatever header it has: a page with all that
/// the network stack adds, a page, several, and what a tap takes in pages. Long and short ones are
/// mixed, so that they meet in a batch.
const BORDERS: [usize; 32] = [
    60, 3583, 1500, 3584, 60, 3585, 3647, 60, 3648, 3649, 3660, 3661, 14, 3712, 4084, 4096, 60,
    4200, 1514, 9014, 12288, 20000, 60, 33500, 36864, 60, 60, 65000, 65024, 1500, 65520, 65535,
];

/// The last lengths up to the longest, for a tap only: other interfaces segment such a frame first.
const LAST: [usize; 4] = [65536, 65537, 65548, LONGEST];

fn border_sizes(sequence: u64) -> usize {
    BORDERS[(sequence % BORDERS.len() as u64) as usize]
}

fn all_borders(sequence: u64) -> usize {
    let turn = sequence % (BORDERS.len() + LAST.len()) as u64;
    match LAST.get(turn as usize) {
        Some(len) => *len,
        None => border_sizes(turn - LAST.len() as u64),
    }
}

fn sizes(kind: Kind) -> fn(u64) -> usize {
    match kind {
        Kind::Tap => all_borders,
        _ => border_sizes,
    }
}

fn shape(own_header: bool, piece: usize, indirect: bool) -> Shape {
    Shape {
        own_header,
        piece,
        indirect,
    }
}

/// Ways to lay the frames out: whole, by pages, cut anywhere, and each in a table of its own.
fn shapes() -> [Shape; 5] {
    [
        Shape::WHOLE,
        shape(true, 4096, false),
        shape(false, 977, false),
        shape(true, 4096, true),
        shape(false, 331, true),
    ]
}

/// Features under which the header has 12, 10 and 24 bytes, and those in bits from 64 on.
const HEADERS: [(u64, u64); 3] = [
    (feature::VERSION_1, 0),
    (0, 0),
    (feature::VERSION_1, feature::HOST_UDP_TUNNEL_GSO),
];

fn setup(low: u64, high: u64, shape: Shape) -> Setup {
    let mut setup = Setup::new(low | if shape.indirect { feature::INDIRECT } else { 0 });
    setup.more_features = high;
    setup.tx_size = 1024;
    setup.tx_buffers = (48, LONGEST + 24);
    setup.tx_shape = shape;
    setup.table = 256;
    setup
}

/// Frames of all these lengths arrive whole and in order, however they lie in guest memory.
fn borders(ctx: &Context, kind: Kind) -> Result<()> {
    let wire = Wire::new(kind, 0)?;
    let size = sizes(kind);
    for (low, high) in HEADERS {
        for (round, shape) in (0..).zip(shapes()) {
            for header in [0, feature::NET_HDR] {
                let setup = setup(low | header, high, shape);
                let what = format!("{shape:?}, header of {} bytes", setup.header());
                let mut device = NetDevice::start_on(&ctx.device, &wire, setup)?;
                let plan = Plan::new(ctx.seed + round, 108, size);
                traffic::transmit(&mut device, plan)
                    .with_context(|| format!("{what}, {header:#x}"))?;
                let errors = device.tx.err.take()?;
                check(errors == 0, || format!("{errors} errors, {what}"))?;
            }
        }
    }
    Ok(())
}

/// TCP frames of all these lengths keep their checksum and segmentation offloads.
fn segmented(ctx: &Context, kind: Kind) -> Result<()> {
    let wire = Wire::new(kind, 0)?;
    // None is too short for TCP's headers.
    let size: fn(u64) -> usize = match kind {
        Kind::Tap => |sequence| all_borders(sequence).max(54),
        _ => |sequence| border_sizes(sequence).max(54),
    };
    for (low, high) in HEADERS {
        for shape in shapes() {
            let mut setup = setup(low, high, shape);
            setup.offloads = OFFLOAD_CSUM | OFFLOAD_TSO4;
            setup.tcp = true;
            let what = format!("{shape:?}, header of {} bytes", setup.header());
            let mut device = NetDevice::start_on(&ctx.device, &wire, setup)?;
            let plan = Plan {
                tcp: true,
                ..Plan::new(ctx.seed, 108, size)
            };
            traffic::transmit(&mut device, plan).context(what)?;
        }
    }
    Ok(())
}

/// Frames that are longer than the longest IPv4 packet are sent too, each in a batch of its own.
fn beyond(ctx: &Context) -> Result<()> {
    let wire = Wire::new(Kind::Tap, 0)?;
    for shape in shapes() {
        let mut setup = setup(feature::VERSION_1, 0, shape);
        setup.tx_buffers = (16, 80_000);
        let mut device = NetDevice::start_on(&ctx.device, &wire, setup)?;
        let sizes = |n: u64| [65549, 65550, 65551, 60, 65562, 66000, 1500][(n % 7) as usize];
        traffic::transmit(&mut device, Plan::new(ctx.seed, 70, sizes))
            .with_context(|| format!("{shape:?}"))?;
    }
    Ok(())
}

/// Whatever header length a packet claims, it arrives unchanged or not at all.
fn header_lengths(ctx: &Context) -> Result<()> {
    for kind in [Kind::Tap, Kind::Napi, Kind::Macvtap] {
        let wire = Wire::new(kind, 0)?;
        for (low, high) in HEADERS {
            let setup = setup(low, high, shape(true, 4096, false));
            let header = setup.header();
            let mut device = NetDevice::start_on(&ctx.device, &wire, setup)?;
            let context = || format!("{kind:?}, header of {header} bytes");
            each_header_length(ctx, &mut device).with_context(context)?;
        }
    }
    Ok(())
}

fn each_header_length(ctx: &Context, device: &mut NetDevice) -> Result<()> {
    let (mut bytes, mut marker, mut got) = (Vec::new(), Vec::new(), Vec::new());
    let mut arrived = 0;
    for len in [
        60, 127, 1500, 3640, 3649, 3700, 4095, 4096, 4110, 9000, 65000,
    ] {
        let whole = u16::try_from(len)?;
        for hdr_len in [0, 13, 14, 54, 128, 256, 3700, 3710, 4000]
            .into_iter()
            .chain((0..16).map(|more| whole.saturating_add(more)))
        {
            frame::build(ctx.seed, 0, len, &mut bytes);
            frame::build(ctx.seed, 1, 64, &mut marker);
            let header = NetHeader {
                hdr_len,
                ..NetHeader::default()
            };
            device.tx_post(header, &bytes)?;
            device.tx_post(NetHeader::default(), &marker)?;
            device.tx.flush()?;
            let what = || format!("{len} bytes, said to begin with {hdr_len} of headers");
            loop {
                Deadline::patient()
                    .until("a frame", || Ok(device.peer.receive(&mut got)?.is_some()))
                    .with_context(what)?;
                if got == marker {
                    break;
                }
                frame::expect("transmitted", 0, &bytes, &got).with_context(what)?;
                arrived += 1;
            }
            Deadline::patient().until("both buffers to come back", || {
                device.tx_reap()?;
                Ok(device.tx.ring.pending() == 0)
            })?;
        }
    }
    check(arrived > 0, || "none arrived".into())
}
