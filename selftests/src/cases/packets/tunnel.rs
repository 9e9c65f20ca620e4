// SPDX-License-Identifier: GPL-2.0

//! Headers that tell of UDP tunnels: 24 bytes, as soon as either feature for them is accepted.

use crate::cases::common::{Case, Context, accepts, case, check, frames};
use crate::driver::device::NetDevice;
use crate::driver::traffic::{self, Plan};
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::host::tap::{OFFLOAD_CSUM, OFFLOAD_TSO4, OFFLOAD_UDP_TUNNEL};
use crate::packet::frame::{self, TCP_HEADERS};
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    case("tunnel.plain", 90, plain),
    case("tunnel.tcp", 60, tcp),
    case("tunnel.device_header", 60, device_header),
    case("tunnel.short_header", 60, short_header),
    case("tunnel.features", 60, features),
    case("tunnel.tx_gso", 60, tx_gso),
];

const GUEST: u64 = feature::GUEST_UDP_TUNNEL_GSO;
const HOST: u64 = feature::HOST_UDP_TUNNEL_GSO;

/// Frames of all sizes, with their headers followed by zeros.
fn plain(ctx: &Context) -> Result<()> {
    for (round, (low, high)) in (0..).zip([
        (feature::VERSION_1, GUEST),
        (feature::VERSION_1, HOST),
        (feature::VERSION_1 | feature::EVENT_IDX, GUEST | HOST),
        (feature::VERSION_1 | feature::MRG_RXBUF, GUEST | HOST),
        (feature::VERSION_1 | feature::INDIRECT, GUEST | HOST),
        (
            feature::VERSION_1 | feature::IN_ORDER | feature::MRG_RXBUF,
            GUEST,
        ),
        (feature::MRG_RXBUF, HOST),
        (0, GUEST),
    ]) {
        let mut setup = frames::roomy(low);
        setup.more_features = high;
        let mut device = NetDevice::start(&ctx.device, setup)?;
        let plan = Plan::new(ctx.seed + round, 220, frames::all_sizes);
        traffic::exchange(&mut device, plan)
            .with_context(|| format!("features {low:#x} and {high:#x}"))?;
    }
    Ok(())
}

/// Checksum and segmentation as without tunnels, the header cut over descriptors.
fn tcp(ctx: &Context) -> Result<()> {
    for (low, piece) in [
        (feature::VERSION_1, 4096),
        (feature::VERSION_1 | feature::MRG_RXBUF, 1024),
        (feature::VERSION_1 | feature::INDIRECT, 7000),
    ] {
        let mut setup = frames::roomy(low);
        setup.more_features = GUEST | HOST;
        setup.tx_buffers.1 = 65536 + 64;
        if low & feature::MRG_RXBUF == 0 {
            setup.rx_buffers.1 = 65536 + 64;
        }
        setup.rx_shape.piece = piece;
        setup.offloads = OFFLOAD_CSUM | OFFLOAD_TSO4 | OFFLOAD_UDP_TUNNEL;
        setup.tcp = true;
        let mut device = NetDevice::start(&ctx.device, setup)?;
        let sizes =
            |n: u64| [60, 54, 1500, 1503, 3000, 9000, 32768, 65000, 65535][(n % 9) as usize];
        let plan = Plan {
            tcp: true,
            ..Plan::new(ctx.seed, 200, sizes)
        };
        traffic::exchange(&mut device, plan).with_context(|| format!("features {low:#x}"))?;
    }
    Ok(())
}

/// The tap has no headers, the device makes and takes the long ones.
fn device_header(ctx: &Context) -> Result<()> {
    for low in [
        feature::VERSION_1,
        feature::VERSION_1 | feature::MRG_RXBUF,
        0,
    ] {
        let mut setup = frames::roomy(low | feature::NET_HDR);
        setup.more_features = GUEST | HOST;
        let mut device = NetDevice::start(&ctx.device, setup)?;
        let plan = Plan::new(ctx.seed, 220, frames::all_sizes);
        traffic::exchange(&mut device, plan).with_context(|| format!("features {low:#x}"))?;
    }
    Ok(())
}

/// Every way to cut the header: descriptors of a few bytes, and pieces that end within it.
fn short_header(ctx: &Context) -> Result<()> {
    for piece in [1, 7, 10, 11, 12, 13, 20, 23, 24, 25] {
        let mut setup = frames::roomy(feature::VERSION_1 | feature::INDIRECT);
        setup.more_features = GUEST | HOST;
        setup.table = 256;
        (setup.rx_size, setup.tx_size) = (256, 256);
        (setup.rx_buffers, setup.tx_buffers) = ((16, 200), (16, 200));
        setup.rx_shape.piece = piece;
        setup.tx_shape.piece = piece;
        let mut device = NetDevice::start(&ctx.device, setup)?;
        traffic::exchange(
            &mut device,
            Plan::new(ctx.seed, 100, |n| 60 + (n % 110) as usize),
        )
        .with_context(|| format!("pieces of {piece}"))?;
    }
    Ok(())
}

/// The header has the length that the features accepted last ask for.
fn features(ctx: &Context) -> Result<()> {
    for (round, high) in [GUEST, 0, HOST, 0, GUEST | HOST].into_iter().enumerate() {
        let mut setup = frames::roomy(feature::VERSION_1);
        setup.more_features = high;
        let mut device = NetDevice::prepare(&ctx.device, setup, "tap0", false)?;
        let other = [feature::VERSION_1, if high == 0 { GUEST } else { 0 }];
        accepts("other features", device.vhost.set_features_array(&other))?;
        // SET_FEATURES has one word, so it accepts none of the bits from 64 on.
        device.configure()?;
        device.bind(RX)?;
        device.bind(TX)?;
        traffic::exchange(&mut device, Plan::new(ctx.seed, 50, |_| 300))
            .with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// Outer Ethernet, IPv4, UDP and VXLAN headers.
const OUTER: usize = 14 + 20 + 8 + 8;

/// Writes a TCP frame in a VXLAN tunnel, to be segmented later.
fn build(seed: u64, sequence: u64, len: usize, out: &mut Vec<u8>) {
    let mut inner = Vec::new();
    frame::build_tcp(seed, sequence, len, &mut inner);
    // CAST: the longest frame is shorter than 64 KiB.
    let [total, datagram] = [20 + 8 + 8 + len, 8 + 8 + len].map(|len| (len as u16).to_be_bytes());
    frame::build(seed, sequence, OUTER, out);
    out[12..].fill(0);
    out[12..14].copy_from_slice(&[8, 0]);
    out[14] = 0x45;
    out[16..18].copy_from_slice(&total);
    (out[22], out[23]) = (64, 17);
    out[26..34].copy_from_slice(&[198, 51, 100, 1, 198, 51, 100, 2]);
    // No checksums outside: nobody on the way looks at them.
    out[34..38].copy_from_slice(&[0xc0, 0, 0x12, 0xb5]);
    out[38..40].copy_from_slice(&datagram);
    out[42] = 8;
    out.extend_from_slice(&inner);
}

/// Frames in a tunnel that the tap has to understand by the offsets in the end of the header.
fn tx_gso(ctx: &Context) -> Result<()> {
    for low in [feature::VERSION_1, feature::VERSION_1 | feature::EVENT_IDX] {
        let mut setup = frames::roomy(low);
        setup.more_features = GUEST | HOST;
        setup.offloads = OFFLOAD_CSUM | OFFLOAD_TSO4 | OFFLOAD_UDP_TUNNEL;
        setup.tcp = true;
        let mut device = NetDevice::start(&ctx.device, setup)?;
        for sequence in 0..60 {
            let len = [3000, 9000, 32768, 60000][(sequence % 4) as usize];
            let header = NetHeader {
                flags: 1,
                // TCP over IPv4, in a tunnel over IPv4.
                gso_type: 0x21,
                hdr_len: (OUTER + TCP_HEADERS) as u16,
                gso_size: 1400,
                csum_start: (OUTER + TCP_HEADERS - 20) as u16,
                csum_offset: 16,
                outer_th: 34,
                inner_nh: (OUTER + 14) as u16,
                ..NetHeader::default()
            };
            tunneled(ctx, &mut device, header, sequence, len)?;
        }
        let bad = NetHeader {
            gso_type: 0x21,
            flags: 1,
            hdr_len: (OUTER + TCP_HEADERS) as u16,
            gso_size: 1400,
            csum_start: 34,
            csum_offset: 16,
            ..NetHeader::default()
        };
        // The tap refuses offsets that cannot be; the ring goes on.
        let mut bytes = Vec::new();
        build(ctx.seed, 0, 3000, &mut bytes);
        check(device.tx_post(bad, &bytes)?, || "no room".into())?;
        device.tx.flush()?;
        Deadline::patient().until("the buffer of a frame that is refused", || {
            device.tx_reap()?;
            Ok(device.tx.ring.pending() == 0)
        })?;
        check(device.peer.receive(&mut bytes)?.is_none(), || {
            "a tunnel without offsets went out".into()
        })?;
        let plan = Plan {
            tcp: true,
            ..Plan::new(ctx.seed, 50, |_| 3000)
        };
        traffic::exchange(&mut device, plan)?;
    }
    Ok(())
}

fn tunneled(
    ctx: &Context,
    device: &mut NetDevice,
    header: NetHeader,
    sequence: u64,
    len: usize,
) -> Result<()> {
    let (mut bytes, mut got) = (Vec::new(), Vec::new());
    build(ctx.seed, sequence, len, &mut bytes);
    check(device.tx_post(header, &bytes)?, || "no room".into())?;
    device.tx.flush()?;
    let mut seen = None;
    Deadline::patient().until("a frame in a tunnel", || {
        device.tx_reap()?;
        seen = device.peer.receive(&mut got)?;
        Ok(seen.is_some())
    })?;
    frame::expect("tunneled", sequence, &bytes, &got)?;
    // The peer's short header tells of the inner frame only, but it has to be one packet still.
    let seen = seen.context("a header")?;
    check(
        (seen.gso_type & 0x1f, seen.gso_size) == (1, header.gso_size),
        || format!("frame {sequence} arrived with {seen:?}"),
    )
}
