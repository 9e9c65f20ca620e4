// SPDX-License-Identifier: GPL-2.0

//! Packets of all kinds in one batch: each arrives behind the header that it has, and counts once.

use crate::cases::common::{Case, Context, case, check, ring_case};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::uapi::feature;
use crate::host::procfs;
use crate::host::tap::{OFFLOAD_CSUM, OFFLOAD_TSO4, Tap, TapConfig};
use crate::host::wire::{Kind, Wire, ip, load};
use crate::packet::frame;
use crate::packet::header::NetHeader;
use crate::wait::Deadline;
use anyhow::{Context as _, Result};

pub(crate) const CASES: &[Case] = &[
    ring_case("rx.mixed", 60, mixed),
    case("rx.verified", 60, verified),
];

const MERGE: u64 = feature::VERSION_1 | feature::MRG_RXBUF;
/// Length of each buffer.
const LEN: usize = 2048;
/// Packets of one batch, which is more than a tap's reader takes at a time.
const COUNT: u64 = 150;
/// `VIRTIO_NET_HDR_F_DATA_VALID`.
const DATA_VALID: u8 = 2;
/// Length of the header of a modern device.
const HEADER: u8 = 12;
/// The guest's address, and the sender's.
const TO: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FROM: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Where the TCP header of the frames starts, and its checksum from there.
const CHECKSUM: (u16, u16) = (34, 16);

/// The kinds of packets, which take turns.
fn packet(seed: u64, sequence: u64, bytes: &mut Vec<u8>) -> NetHeader {
    let (len, flags, gso_size) = match sequence % 7 {
        0 => (60, 0, 0),
        1 => (300, 1, 0),
        2 => (1500, 0, 0),
        3 => (9000, 1, 1448),
        4 => (9000, 0, 0),
        5 => (128, 0, 0),
        _ => (129, 0, 0),
    };
    frame::build_tcp(seed, sequence, len, bytes);
    let (csum_start, csum_offset) = if flags == 0 { (0, 0) } else { CHECKSUM };
    NetHeader {
        flags,
        gso_type: u8::from(gso_size != 0),
        hdr_len: if flags == 0 { 0 } else { 54 },
        gso_size,
        csum_start,
        csum_offset,
        ..NetHeader::default()
    }
}

/// What a device has sent, by its own count: packets and bytes.
fn counted(name: &str) -> Result<(u64, u64)> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = table
        .lines()
        .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
        .context("no such interface")?;
    let field = |at| -> Result<u64> {
        let field = line.split_whitespace().nth(at).context("a short line")?;
        Ok(field.parse()?)
    };
    Ok((field(9)?, field(8)?))
}

/// The packets wait in the tap until the guest has buffers for all of them.
fn mixed(ctx: &Context) -> Result<()> {
    for (kind, features, buffers) in [
        (Kind::Tap, MERGE, LEN),
        (Kind::Tap, MERGE | feature::EVENT_IDX, 200),
        (Kind::Tap, feature::VERSION_1, 10_000),
        (Kind::Macvtap, MERGE, LEN),
        (Kind::Ipvtap, MERGE, LEN),
    ] {
        let wire = Wire::new(kind, 0)?;
        batch(ctx, &wire, features, buffers)
            .with_context(|| format!("{kind:?}, features {features:#x}, buffers of {buffers}"))?;
    }
    Ok(())
}

fn batch(ctx: &Context, wire: &Wire, features: u64, buffers: usize) -> Result<()> {
    let mut setup = Setup::new(features);
    setup.rx_size = 1024;
    setup.rx_buffers = (1024, buffers);
    setup.tcp = true;
    setup.offloads = OFFLOAD_CSUM | OFFLOAD_TSO4;
    let mut device = NetDevice::start_on(&ctx.device, wire, setup)?;
    let own = wire.kind == Kind::Tap;
    let before = if own { counted("near0")? } else { (0, 0) };
    let (mut sent, mut got, mut bytes) = (Vec::new(), Vec::new(), 0);
    for sequence in 0..COUNT {
        let header = packet(ctx.seed, sequence, &mut sent);
        device.peer.send(header, &sent)?;
        bytes += sent.len() as u64;
    }
    device.rx_fill()?;
    device.rx.flush()?;
    for sequence in 0..COUNT {
        let want = packet(ctx.seed, sequence, &mut sent);
        let mut header = None;
        Deadline::patient().until(&format!("packet {sequence}"), || {
            header = device.rx_take(&mut got)?;
            device.rx_fill()?;
            device.rx.flush()?;
            Ok(header.is_some())
        })?;
        frame::expect("received", sequence, &sent, &got)?;
        let header = header.context("no header")?;
        // The length of the headers is but a hint, and the number of buffers has been used.
        let seen = NetHeader {
            hdr_len: want.hdr_len,
            num_buffers: 0,
            ..header
        };
        check(seen == want, || {
            format!("header of packet {sequence}: {seen:?}, not {want:?}")
        })?;
    }
    procfs::idle()?;
    if own {
        let after = counted("near0")?;
        let delta = (after.0 - before.0, after.1 - before.1);
        check(delta == (COUNT, bytes), || {
            format!("{delta:?} counted, not {:?}", (COUNT, bytes))
        })?;
    }
    Ok(())
}

/// Packets whose checksum the receiving interface has verified say so, and the others do not.
fn verified(ctx: &Context) -> Result<()> {
    load("bridge")?;
    let mut setup = Setup::new(MERGE);
    setup.rx_size = 512;
    setup.rx_buffers = (512, LEN);
    let mut device = NetDevice::start(&ctx.device, setup)?;
    let config = TapConfig {
        header: HEADER,
        ..device.setup.tap()
    };
    let source = Tap::napi("tap1", config)?;
    ip(
        "link add bridge0 type bridge mcast_snooping 0 forward_delay 0\n\
        link set bridge0 up\n\
        link set tap0 master bridge0\n\
        link set tap1 master bridge0\n",
    )?;
    let flags = |sequence: u64| match sequence % 3 {
        0 => 0,
        _ => DATA_VALID,
    };
    let build = |sequence, out: &mut Vec<u8>| {
        frame::build_tcp(ctx.seed, sequence, 200, out);
        out[..6].copy_from_slice(&TO);
        out[6..12].copy_from_slice(&FROM);
        if flags(sequence) == DATA_VALID {
            let start = usize::from(CHECKSUM.0);
            let sum = !frame::internet_sum(&[&out[start..]]);
            let at = start + usize::from(CHECKSUM.1);
            out[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
    };
    let write = |frame: &[u8]| -> Result<()> {
        let mut packet = vec![0; usize::from(HEADER)];
        packet.extend_from_slice(frame);
        rustix::io::write(&source, &packet)?;
        Ok(())
    };
    let (mut sent, mut got) = (Vec::new(), Vec::new());
    let mut probe = Vec::new();
    build(COUNT, &mut probe);
    // A bridge forwards nothing until it has noticed that its ports are up.
    device.rx_fill()?;
    device.rx.flush()?;
    Deadline::patient().until("the bridge to forward", || {
        write(&probe)?;
        procfs::idle()?;
        Ok(device.rx_take(&mut got)?.is_some())
    })?;
    while device.rx_take(&mut got)?.is_some() {}
    for sequence in 0..COUNT {
        build(sequence, &mut sent);
        write(&sent)?;
    }
    for sequence in 0..COUNT {
        build(sequence, &mut sent);
        let mut header = None;
        Deadline::patient().until(&format!("packet {sequence}"), || {
            header = device.rx_take(&mut got)?;
            Ok(header.is_some())
        })?;
        frame::expect("received", sequence, &sent, &got)?;
        let (seen, want) = (header.context("no header")?.flags, flags(sequence));
        check(seen == want, || {
            format!("packet {sequence} has flags {seen}, not {want}")
        })?;
    }
    Ok(())
}
