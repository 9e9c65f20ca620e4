// SPDX-License-Identifier: GPL-2.0

//! Frames from the guest that the host copies, and sends by drivers of network cards, also where
//! memory is in single pages.
//!
//! Whoever shares a frame and wants to change it has to copy the linear part of it first, and
//! cannot wait for memory. A frame that is linear as a whole gets lost then, where no free pages
//! lie together; of one in page fragments, only the headers are copied.

use crate::cases::common::{Case, Context, case, check, frames};
use crate::driver::device::NetDevice;
use crate::driver::uapi::feature;
use crate::driver::vhost::{RX, TX};
use crate::host::fragments::Fragments;
use crate::host::nics::Pair;
use crate::host::peer::Peer;
use crate::host::tap::{OFFLOAD_CSUM, OFFLOAD_TSO4};
use crate::host::wire::{feed, ip, load, tc};
use crate::packet::segments::{Arrived, Destination, Stream};
use crate::wait::Deadline;
use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
use std::fs;
use std::process::Command;

pub(crate) const CASES: &[Case] = &[Case {
    cards: true,
    ..case("nics.copied", 300, copied)
}];

/// Lengths of frames, of one page and of more.
const SIZES: [usize; 5] = [3000, 4200, 9014, 20000, 65000];
/// Frames of each length that are sent at once.
const COUNT: usize = 20;

/// The guest's address.
const GUEST: [u8; 4] = [192, 0, 2, 2];

/// Sets up a path from a tap to pairs of cards, given with their numbers.
type Make = fn(&str, &[(usize, &Pair)]) -> Result<()>;

/// A path of frames through the host.
struct Path {
    name: &'static str,
    /// The pairs of cards that it leads to.
    pairs: [usize; 3],
    make: Make,
    /// The destination behind each pair; without it, each frame goes to all pairs.
    apart: Option<fn(usize) -> Destination>,
    /// Whether frames arrive in a tunnel.
    tunnel: bool,
}

const PATHS: [Path; 4] = [
    Path {
        name: "routed",
        pairs: [0, 1, 2],
        make: route,
        apart: Some(|number| Destination {
            mac: HOST,
            ip: inside(number),
        }),
        tunnel: false,
    },
    Path {
        name: "bridged",
        pairs: [0, 1, 2],
        make: bridge,
        apart: None,
        tunnel: false,
    },
    Path {
        name: "mirrored",
        pairs: [0, 1, 2],
        make: mirror,
        apart: None,
        tunnel: false,
    },
    Path {
        name: "tunneled",
        pairs: [0, 3, 2],
        make: tunnel,
        apart: Some(|number| Destination {
            mac: neighbor(number),
            ip: inside(9),
        }),
        tunnel: true,
    },
];

/// The Ethernet address of the host, where it routes.
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The Ethernet address of a made-up neighbor of the host.
fn neighbor(number: usize) -> [u8; 6] {
    // CAST: there are few.
    [2, 0, 0, 0, 1, number as u8]
}

/// An IPv4 address on the network of a pair, of the made-up neighbor.
fn inside(number: usize) -> [u8; 4] {
    // CAST: as above.
    [198, 51, number as u8, 2]
}

/// Commands for each pair and its number.
fn each(pairs: &[(usize, &Pair)], commands: impl Fn(usize, &Pair) -> String) -> String {
    let all = pairs.iter();
    all.map(|(number, pair)| commands(*number, pair)).collect()
}

/// The host routes the frames with its own address as their source, while the tap's peer shares
/// them.
fn route(tap: &str, _pairs: &[(usize, &Pair)]) -> Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("ip_forward")?;
    ip(&format!(
        "link set {tap} address 02:00:00:00:00:01\naddress add 192.0.2.1/24 dev {tap}\n"
    ))?;
    let rules = format!(
        "table ip nat {{\n\
         chain out {{\n\
         type nat hook postrouting priority srcnat;\n\
         iifname {tap} masquerade\n\
         }}\n\
         }}\n"
    );
    feed(Command::new("nft").args(["-f", "-"]), &rules)?;
    // Connection tracking must not mind that nobody acknowledges anything.
    let liberal = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";
    fs::write(liberal, "1").context("nf_conntrack_tcp_be_liberal")
}

/// A bridge floods the frames to all cards, which share them.
fn bridge(tap: &str, pairs: &[(usize, &Pair)]) -> Result<()> {
    load("bridge")?;
    ip(&format!(
        "link add flood type bridge\nlink set flood up\nlink set {tap} master flood\n"
    ))?;
    ip(&each(pairs, |_, pair| {
        format!("link set {} master flood\n", pair.near)
    }))
}

/// The frames are mirrored to all cards, and go on to the network stack.
fn mirror(tap: &str, pairs: &[(usize, &Pair)]) -> Result<()> {
    load("act_mirred")?;
    let actions = each(pairs, |_, pair| {
        format!(" action mirred egress mirror dev {}", pair.near)
    });
    tc(&format!(
        "qdisc add dev {tap} clsact\nfilter add dev {tap} ingress matchall{actions}\n"
    ))
}

/// A bridge sends the frames into a VXLAN tunnel on each card, while the tap's peer shares them.
fn tunnel(tap: &str, pairs: &[(usize, &Pair)]) -> Result<()> {
    load("vxlan")?;
    ip(&format!(
        "link add tunnels type bridge\nlink set tunnels up\nlink set {tap} master tunnels\n"
    ))?;
    ip(&each(pairs, |number, pair| {
        format!(
            "link add tunnel{number} type vxlan id {id} dev {near} local 198.51.{number}.1 \
             remote 198.51.{number}.2 dstport 4789 nolearning\n\
             link set tunnel{number} master tunnels up\n",
            id = 40 + number,
            near = pair.near
        )
    }))?;
    feed(
        Command::new("bridge").args(["-batch", "-"]),
        &each(pairs, |number, _| {
            format!("fdb add 02:00:00:00:01:0{number} dev tunnel{number} master static\n")
        }),
    )?;
    for (_, pair) in pairs.iter().filter(|(_, pair)| pair.model == "igb") {
        // The emulated card does not fill in the checksum of the inner packet as its driver asks.
        // No other path may use this card: QEMU writes checksums into the guest's memory, which
        // frames share, so that checksums that the kernel computes from it would be wrong.
        feed(
            Command::new("ethtool").args(["-K", &pair.near, "tx", "off"]),
            "",
        )?;
    }
    Ok(())
}

/// Frames to one destination, and what has arrived of them at each pair of cards.
struct Flow {
    stream: Stream,
    arrived: Vec<(usize, Arrived)>,
    tunnel: bool,
}

impl Flow {
    /// Takes what has come to the cards that receive.
    fn drain(&mut self, peers: &mut [Peer]) -> Result<()> {
        let mut bytes = Vec::new();
        for (card, arrived) in &mut self.arrived {
            while peers[*card].receive(&mut bytes)?.is_some() {
                arrived
                    .note(&self.stream, self.tunnel, &bytes)
                    .with_context(|| format!("at card {card}"))?;
            }
        }
        Ok(())
    }

    /// Sends frames of `len` bytes and waits until all of them have arrived at each card.
    fn burst(&mut self, device: &mut NetDevice, peers: &mut [Peer], len: usize) -> Result<()> {
        // Memory is short: only the frames of this burst are kept.
        self.stream.forget();
        for (_, arrived) in &mut self.arrived {
            *arrived = Arrived::default();
        }
        let mut bytes = Vec::new();
        for _ in 0..COUNT {
            let header = self.stream.next(len, &mut bytes);
            check(device.tx_post(header, &bytes)?, || "no room".into())?;
        }
        device.tx.flush()?;
        let whole = |arrived: &Arrived| (0..COUNT).filter(|at| arrived.whole(*at)).count();
        // In any order: frames that wait for room in a card may be overtaken.
        let all = Deadline::patient().until("all frames", || {
            device.tx_reap()?;
            self.drain(peers)?;
            let mut arrived = self.arrived.iter();
            Ok(device.tx.ring.pending() == 0 && arrived.all(|(_, all)| whole(all) == COUNT))
        });
        all.with_context(|| {
            let arrived = self.arrived.iter();
            let counts: Vec<_> = arrived.map(|(card, all)| (card, whole(all))).collect();
            format!("(card, frames of {COUNT}): {counts:?}")
        })?;
        // The tap's peer has shared all frames until now.
        while device.peer.take()?.is_some() {}
        Ok(())
    }
}

/// A guest's device, and its frames on their way through the host.
struct Line {
    name: &'static str,
    device: NetDevice,
    flows: Vec<Flow>,
}

impl Line {
    fn new(ctx: &Context, number: u16, path: &Path, pairs: &[Pair]) -> Result<Self> {
        let mut setup = frames::roomy(feature::VERSION_1);
        setup.tx_size = 512;
        setup.tx_buffers = (COUNT + 1, 65536 + 64);
        setup.offloads = OFFLOAD_CSUM | OFFLOAD_TSO4;
        setup.tcp = true;
        let tap = format!("tap{number}");
        let mut device = NetDevice::prepare(&ctx.device, setup, &tap, false)?;
        if path.tunnel {
            // A bridge takes frames before sockets of their protocol have them.
            device.peer = Peer::of_all(device.tap.if_index())?;
        }
        device.bind(RX)?;
        device.bind(TX)?;
        (path.make)(&tap, &path.pairs.map(|number| (number, &pairs[number])))?;
        let flow = |to, port, cards: &[usize]| Flow {
            stream: Stream::new(ctx.seed, GUEST, to, port),
            arrived: cards
                .iter()
                .map(|&card| (card, Arrived::default()))
                .collect(),
            tunnel: path.tunnel,
        };
        let ports = 30000 + 10 * number..;
        let flows = match path.apart {
            Some(to) => ports
                .zip(path.pairs)
                .map(|(port, card)| flow(to(card), port, &[card]))
                .collect(),
            None => {
                let to = Destination {
                    mac: neighbor(9),
                    ip: inside(9),
                };
                vec![flow(to, ports.start, &path.pairs)]
            }
        };
        Ok(Self {
            name: path.name,
            device,
            flows,
        })
    }

    /// Sends frames of each length to each destination, and calls `before` before that.
    fn run(&mut self, peers: &mut [Peer], mut before: impl FnMut() -> Result<()>) -> Result<()> {
        for flow in &mut self.flows {
            for len in SIZES {
                before()?;
                flow.burst(&mut self.device, peers, len)
                    .with_context(|| format!("{}, {len} bytes", self.name))?;
            }
        }
        Ok(())
    }
}

/// Frames arrive on every path, with memory free, in single pages, and free again.
fn copied(ctx: &Context) -> Result<()> {
    let pairs = Pair::all()?;
    // A card may have a queue for each CPU; with one CPU, runs differ less.
    let mut here = CpuSet::new();
    here.set(sched_getcpu());
    sched_setaffinity(None, &here).context("stay on a CPU")?;
    // Frames that are routed or tunneled need a neighbor.
    let numbered: Vec<_> = pairs.iter().enumerate().collect();
    ip(&each(&numbered, |number, pair| {
        format!(
            "address add 198.51.{number}.1/24 dev {near}\n\
             neighbor add 198.51.{number}.2 lladdr 02:00:00:00:01:0{number} dev {near} \
             nud permanent\n",
            near = pair.near
        )
    }))?;
    let mut peers = Vec::new();
    for pair in &pairs {
        peers.push(Peer::with_headers(pair.far_index()?)?);
    }
    let mut lines = Vec::new();
    for (number, path) in (0..).zip(&PATHS) {
        let line = Line::new(ctx, number, path, &pairs);
        lines.push(line.with_context(|| path.name)?);
    }
    let mut all = |when: &str, before: &mut dyn FnMut() -> Result<()>| {
        for line in &mut lines {
            line.run(&mut peers, &mut *before)
                .with_context(|| when.to_owned())?;
        }
        anyhow::Ok(())
    };
    all("with memory free", &mut || Ok(()))?;
    let mut fragments = Fragments::new()?;
    all("with memory in pieces", &mut || fragments.take_pairs())?;
    drop(fragments);
    all("with memory free again", &mut || Ok(()))
}
