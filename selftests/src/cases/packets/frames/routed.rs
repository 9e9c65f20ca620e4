// SPDX-License-Identifier: GPL-2.0

//! Frames from the guest that go on to other interfaces while somebody else holds them too.

use crate::cases::common::{Case, Context, case, check};
use crate::driver::device::{NetDevice, Setup};
use crate::driver::uapi::feature;
use crate::host::fragments::Fragments;
use crate::host::peer::Peer;
use crate::host::tap::{self, OFFLOAD_CSUM, OFFLOAD_TSO4, Tap, TapConfig};
use crate::host::wire::{ip, load};
use crate::packet::frame::{self, TCP_HEADERS};
use crate::packet::header::NetHeader;
use crate::wait::{Deadline, is_readable};
use anyhow::{Context as _, Result};
use std::fs;

pub(crate) const CASES: &[Case] = &[
    case("frames.routed", 300, |ctx| on_path(ctx, ROUTE, &["tap1"])),
    case("frames.flooded", 300, |ctx| {
        load("bridge")?;
        on_path(ctx, BRIDGE, &["tap1", "tap2"])
    }),
];

/// From the first tap to another by way of IP, as a router sends it.
const ROUTE: &str = "link set tap0 address 02:00:00:00:00:01\n\
    address add 198.51.100.1/32 dev tap0\n\
    route add 192.0.2.1/32 dev tap0\n\
    route add 192.0.2.2/32 dev tap1\n\
    neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 dev tap1 nud permanent\n";

/// From the first tap to two others, as a bridge sends what it does not know.
const BRIDGE: &str = "link add bridge0 type bridge mcast_snooping 0\n\
    link set bridge0 mtu 65521 up\n\
    link set tap0 master bridge0\n\
    link set tap1 master bridge0\n\
    link set tap2 master bridge0\n";

/// The guest's neighbour: the first tap itself, for a router.
const TO: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The guest.
const FROM: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// Lengths of frames, each a number of times in a row.
const SIZES: [usize; 6] = [3000, 4200, 9014, 20000, 33500, 65000];
/// How many frames of each length.
const COUNT: u64 = 40;
/// Payload of each segment.
const SEGMENT: u16 = 1448;
/// Length of the virtio-net header of all taps.
const HEADER: u8 = 12;

/// An interface that frames go on to.
struct Sink {
    tap: Tap,
    /// Payload of all frames so far, in a row, which is the same however they are segmented.
    payload: Vec<u8>,
    buffer: Vec<u8>,
}

impl Sink {
    fn new(name: &str, offloads: u32) -> Result<Self> {
        let config = TapConfig {
            header: HEADER,
            offloads,
            multiqueue: false,
        };
        let tap = Tap::new(name, config)?;
        // Room for all segments of all frames.
        tap::set_queue_length(name, 8192)?;
        Ok(Self {
            tap,
            payload: Vec::new(),
            buffer: vec![0; 1 << 17],
        })
    }

    /// Takes all frames that are there.
    fn drain(&mut self) -> Result<()> {
        while is_readable(&self.tap)? {
            let len = rustix::io::read(&self.tap, &mut self.buffer)?;
            let start = usize::from(HEADER) + TCP_HEADERS;
            let payload = self.buffer.get(start..len).context("a short frame")?;
            self.payload.extend_from_slice(payload);
        }
        Ok(())
    }
}

/// What is left to do for the frames, and for whom.
#[derive(Clone, Copy, Debug)]
struct Work {
    /// Whether they are to be segmented, else only their checksum is missing.
    segmented: bool,
    /// Offload flags that the first receiver accepts, so that the packet reaches it unsegmented.
    offloads: u32,
    /// Length of each frame.
    len: usize,
}

/// Writes frame `sequence` of the guest into `out`.
fn build(seed: u64, sequence: u64, work: Work, out: &mut Vec<u8>) -> NetHeader {
    frame::build_tcp(seed, sequence, work.len, out);
    out[..6].copy_from_slice(&TO);
    out[6..12].copy_from_slice(&FROM);
    NetHeader {
        flags: 1,
        gso_type: u8::from(work.segmented),
        hdr_len: 54,
        gso_size: if work.segmented { SEGMENT } else { 0 },
        csum_start: 34,
        csum_offset: 16,
        ..NetHeader::default()
    }
}

/// Sends frames, and compares what arrives with them, in all places.
fn send(ctx: &Context, device: &mut NetDevice, sinks: &mut [Sink], work: Work) -> Result<()> {
    sinks[0].tap.set_offloads(work.offloads)?;
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    for sequence in 0..COUNT {
        let header = build(ctx.seed, sequence, work, &mut bytes);
        check(device.tx_post(header, &bytes)?, || "no room".into())?;
        expected.extend_from_slice(&bytes[TCP_HEADERS..]);
    }
    device.tx.flush()?;
    let all = expected.len();
    let arrived = Deadline::patient().until("all frames", || {
        device.tx_reap()?;
        let mut whole = device.tx.ring.pending() == 0;
        for sink in sinks.iter_mut() {
            sink.drain()?;
            whole &= sink.payload.len() >= all;
        }
        Ok(whole)
    });
    let counts: Vec<_> = sinks.iter().map(|sink| sink.payload.len()).collect();
    arrived.with_context(|| format!("{counts:?} of {all} bytes of payload"))?;
    for sink in sinks {
        let name = sink.tap.if_index();
        check(sink.payload == expected, || {
            format!("interface {name} has other payload")
        })?;
        sink.payload.clear();
    }
    // The packet socket on the first tap has had its clones all the time.
    let mut got = Vec::new();
    for sequence in 0..COUNT {
        build(ctx.seed, sequence, work, &mut bytes);
        Deadline::patient().until("a clone", || Ok(device.peer.receive(&mut got)?.is_some()))?;
        frame::expect("cloned", sequence, &bytes, &got)?;
    }
    Ok(())
}

/// Sends frames of all kinds; `before` is called before each.
fn send_all(
    ctx: &Context,
    device: &mut NetDevice,
    sinks: &mut [Sink],
    mut before: impl FnMut() -> Result<()>,
) -> Result<()> {
    for segmented in [true, false] {
        for offloads in [OFFLOAD_CSUM | OFFLOAD_TSO4, 0] {
            for len in SIZES {
                let work = Work {
                    segmented,
                    offloads,
                    len,
                };
                before()?;
                send(ctx, device, sinks, work).with_context(|| format!("{work:?}"))?;
            }
        }
    }
    Ok(())
}

/// Whatever the path does with frames, all arrive, also where memory is in small pieces: then the
/// kernel cannot copy a frame that is in one long piece, only its headers.
fn on_path(ctx: &Context, path: &str, taps: &[&str]) -> Result<()> {
    let mut setup = Setup::new(feature::VERSION_1);
    setup.tx_buffers = (64, 65536);
    setup.tcp = true;
    let mut device = NetDevice::start(&ctx.device, setup)?;
    device.peer = Peer::of_all(device.tap.if_index())?;
    let mut sinks = Vec::new();
    for name in taps {
        sinks.push(Sink::new(name, OFFLOAD_CSUM | OFFLOAD_TSO4)?);
    }
    ip(path)?;
    for name in ["all", "tap0"] {
        fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0")?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("become a router")?;
    send_all(ctx, &mut device, &mut sinks, || Ok(())).context("with memory free")?;
    let mut fragments = Fragments::new()?;
    send_all(ctx, &mut device, &mut sinks, || fragments.take_pairs())
        .context("with memory in pieces")
}
